//! `server run`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use vouchsafe_ca::key_manager::{Disk, KeyManager, Memory};
use vouchsafe_ca::x509::Subject;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_server::config as settings;
use vouchsafe_server::{Config, Deps, Policy, Running, Server};
use vouchsafe_store::sqlite::Sqlite;

use super::data_dir::{self, DataDirLock};
use super::{Host, http, key_type, resolve};
use crate::config::server::{self, DataStore};
use crate::config::{self};

pub(super) async fn run(config: server::Config) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &config.warnings)?;
    let _lock = DataDirLock::acquire(&config.data_dir, "server")?;
    let registry = http::registry(&config.telemetry, "spire_server", config.trust_domain.as_str());
    start(&mut host, &config, &registry).await?;
    http::start(&mut host, &config.telemetry, config.health.as_ref(), &registry).await?;
    host.run().await?;
    tracing::info!("Server stopped gracefully");
    Ok(())
}

/// Starts the server itself.
pub(super) async fn start(
    host: &mut Host,
    config: &server::Config,
    registry: &Registry,
) -> anyhow::Result<Running> {
    let DataStore::Sqlite { path } = &config.data_store;
    data_dir::create_parent(path)?;
    let store = Sqlite::open(path, host.clock.clone()).await.context("cannot open the datastore")?;
    let keys = key_manager(&config.key_manager)?;
    let deps = Deps {
        clock: host.clock.clone(),
        entropy: host.entropy.fork("server"),
        metrics: registry.clone(),
        readiness: host.readiness.clone(),
        store: Arc::new(store),
        keys,
        log_level: host.log_level.clone(),
    };
    let config = Config {
        trust_domain: config.trust_domain.clone(),
        tcp_address: resolve(&config.bind_address, config.bind_port).await?,
        admin_socket: config.socket_path.clone(),
        data_dir: config.data_dir.clone(),
        admin_ids: config.admin_ids.clone(),
        join_tokens: config.node_attestors.join_token,
        ca_key_type: key_type(config.ca_key_type),
        jwt_key_type: key_type(config.jwt_key_type),
        ca_ttl: config.ca_ttl,
        ca_subject: Subject {
            country: config.ca_subject.country.clone(),
            organization: config.ca_subject.organization.clone(),
            common_name: config.ca_subject.common_name.clone(),
            ..Subject::default()
        },
        policy: Policy {
            x509_svid_ttl: config.default_x509_svid_ttl,
            jwt_svid_ttl: config.default_jwt_svid_ttl,
            agent_ttl: config.agent_ttl.unwrap_or(config.default_x509_svid_ttl),
            jwt_issuer: config.jwt_issuer.clone(),
        },
        upstream: upstream(config.upstream.as_ref()),
        disable_jwt_svids: config.disable_jwt_svids,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(Server::start(config, deps, &mut host.tasks).await?)
}

/// Who signs this server's CA, in the server's words.
fn upstream(chosen: Option<&server::Upstream>) -> settings::Upstream {
    match chosen.cloned() {
        None => settings::Upstream::None,
        Some(server::Upstream::Disk { cert_file_path, key_file_path, bundle_file_path }) => {
            settings::Upstream::Disk(settings::DiskCa {
                cert_file: cert_file_path,
                key_file: key_file_path,
                bundle_file: bundle_file_path,
            })
        }
        Some(server::Upstream::Spire(above)) => settings::Upstream::Spire(settings::UpstreamServer {
            host: above.server_address,
            port: above.server_port,
            workload_api_socket: above.workload_api_socket,
        }),
    }
}

/// The key manager that a configuration names.
pub(super) fn key_manager(chosen: &config::server::KeyManager) -> anyhow::Result<Arc<dyn KeyManager>> {
    Ok(match chosen {
        server::KeyManager::Memory => Arc::new(Memory::new()),
        server::KeyManager::Disk { keys_path } => Arc::new(open_disk(keys_path)?),
    })
}

fn open_disk(path: &Path) -> anyhow::Result<Disk> {
    data_dir::create_parent(path)?;
    Disk::open(path).context("cannot open the key manager")
}
