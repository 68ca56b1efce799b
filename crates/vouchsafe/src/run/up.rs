//! `up`: server and agent in one process, for a laptop or one machine.
//!
//! The two talk over their sockets as they would on two machines; what differs is that the agent needs no operator: it
//! gets its join token and the server's bundle from here. Both are of one binary and one clock, so a machine that slept
//! for a week comes back by itself.

mod first_svid;
mod live;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;
use vouchsafe_agent::config::BundleSource;
use vouchsafe_agent::{AgentStatus, Bootstrap, Phase};
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_transport::http::Pages;
use vouchsafe_types::secret::SecretText;

use super::data_dir::DataDirLock;
use super::{Host, agent, http, server};
use crate::config::server::NodeAttestors;
use crate::config::up::Config;
use crate::config::{self, Telemetry};
use first_svid::FirstSvid;

/// How long the agent may take to get its identity before `up` says what is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Lifetime of the join token that the agent gets; unused when it still has its identity.
const TOKEN_TTL_SECS: i32 = 600;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let began = Instant::now();
    let _lock = DataDirLock::acquire(&config.data_dir, "vouchsafe")?;
    let _server_lock = DataDirLock::acquire(&config.data_dir.join("server"), "server")?;
    let _agent_lock = DataDirLock::acquire(&config.data_dir.join("agent"), "agent")?;
    let mut host = Host::new(&config.log, &[])?;
    let name = config.trust_domain.as_str();
    let server_metrics = http::registry(&Telemetry::default(), "spire_server", name);
    let agent_metrics = http::registry(&Telemetry::default(), "spire_agent", name);
    let server = Arc::new(server::start(&mut host, &server_config(&config), &server_metrics).await?);

    let token = join_token(&config.server_socket).await?;
    let bundle_of = server.clone();
    let source: BundleSource = Arc::new(move || Ok(bundle_of.bundle()));
    let agent_config = agent_config(&config, server.tcp_address.port(), token);
    let agent = agent::start(&mut host, &agent_config, Bootstrap::Source(source), &agent_metrics).await?;
    if let Some(port) = config.health_port {
        let pages = Pages::new().with_health(host.readiness.clone(), "/live", "/ready");
        http::serve(&mut host, &config.http_bind_address, port, "health checks", pages).await?;
    }
    if let Some(port) = config.metrics_port {
        let pages = Pages::new().with_metrics(server_metrics).with_metrics(agent_metrics);
        http::serve(&mut host, &config.http_bind_address, port, "metrics", pages).await?;
    }

    let mut status = agent.status.clone();
    let ready = async {
        let serving = status.wait_for(is_decided).await?;
        match (&serving.id, serving.phase) {
            (Some(id), Phase::Serving) => Ok(id.clone()),
            _ => bail!(
                "the server refuses the agent; remove {} to start it anew",
                agent_config.data_dir.display()
            ),
        }
    };
    let agent_id = tokio::time::timeout(READY_TIMEOUT, ready).await.with_context(|| {
        format!("the agent got no identity within {READY_TIMEOUT:?}; see {}", log_file(&config))
    })??;
    let first = FirstSvid::fetch(&config, &agent_id, &server.bundle(), &host.clock).await?;
    let mut out = std::io::stdout();
    write!(out, "{}", first.report(&config, server.tcp_address, &agent_id, began.elapsed()))?;
    out.flush()?;

    let view =
        live::View { server, status: agent.status, clock: host.clock.clone(), terminal: out.is_terminal() };
    host.tasks.start("live state", |cancel| view.run(cancel));
    host.run().await?;
    writeln!(std::io::stdout(), "Stopped. The state is in {}", config.data_dir.display())?;
    Ok(())
}

/// Whether it is decided what becomes of the agent. It may synchronize with a new SVID before its status has the ID.
fn is_decided(status: &AgentStatus) -> bool {
    status.phase == Phase::Refused || (status.phase == Phase::Serving && status.id.is_some())
}

fn server_config(config: &Config) -> config::server::Config {
    let data_dir = config.data_dir.join("server");
    config::server::Config {
        bind_address: config.server_bind_address.clone(),
        bind_port: config.server_port,
        socket_path: config.server_socket.clone(),
        node_attestors: NodeAttestors { join_token: true, ..NodeAttestors::default() },
        log: config.log.clone(),
        ..config::server::Config::new(config.trust_domain.clone(), data_dir)
    }
}

fn agent_config(config: &Config, server_port: u16, join_token: SecretText) -> config::agent::Config {
    let data_dir = config.data_dir.join("agent");
    let server_address = reachable(&config.server_bind_address);
    // Who the server is needs no bootstrap: `up` hands the bundle over.
    let mut settings = config::agent::Config::new(config.trust_domain.clone(), server_address, server_port);
    settings.apis.socket_path.clone_from(&config.agent_socket);
    settings.plugins.key_manager = config::agent::KeyManager::Disk { keys_path: data_dir.join("keys.json") };
    settings.join_token = Some(join_token);
    settings.log = config.log.clone();
    settings.data_dir = data_dir;
    settings
}

/// An address that listens everywhere is reached on this machine.
fn reachable(address: &str) -> String {
    match address {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" | "[::]" => "::1".to_owned(),
        other => other.to_owned(),
    }
}

async fn join_token(admin_socket: &Path) -> anyhow::Result<SecretText> {
    let mut client = AgentClient::new(uds_channel(admin_socket).await?);
    let request = CreateJoinTokenRequest { ttl: TOKEN_TTL_SECS, ..CreateJoinTokenRequest::default() };
    let token =
        client.create_join_token(request).await.context("cannot create a join token for the agent")?;
    Ok(token.into_inner().value.into())
}

fn log_file(config: &Config) -> String {
    config.log.file.as_ref().map_or_else(|| "the log".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_serves_and_has_no_id_yet_is_waited_for() {
        let mut status = AgentStatus { phase: Phase::Serving, ..AgentStatus::default() };
        assert!(!is_decided(&status));
        status.id = Some("spiffe://vouchsafe.local/spire/agent/a".parse().unwrap());
        assert!(is_decided(&status));
        for phase in [Phase::Attesting, Phase::Synchronizing] {
            assert!(!is_decided(&AgentStatus { phase, ..status.clone() }));
        }
        assert!(is_decided(&AgentStatus { phase: Phase::Refused, ..AgentStatus::default() }));
    }
}
