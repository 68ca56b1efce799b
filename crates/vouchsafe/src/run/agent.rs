//! `agent run`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use vouchsafe_agent::config::BundleSource;
use vouchsafe_agent::{Agent, Bootstrap, Config, Deps, Running, UnixAttestorConfig};
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_types::bundle::{Bundle, format};
use vouchsafe_types::trust_domain::TrustDomain;

use super::data_dir::DataDirLock;
use super::{Host, http, key_type, server};
use crate::config::agent::{self, BundleFormat};

pub(super) async fn run(config: agent::Config) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &config.warnings)?;
    let _lock = DataDirLock::acquire(&config.data_dir, "agent")?;
    let registry = http::registry(&config.telemetry, "spire_agent", config.trust_domain.as_str());
    let bootstrap = bootstrap(&config)?;
    start(&mut host, &config, bootstrap, &registry).await?;
    http::start(&mut host, &config.telemetry, config.health.as_ref(), &registry).await?;
    host.run().await?;
    tracing::info!("Agent stopped gracefully");
    Ok(())
}

/// Starts the agent itself.
pub(super) async fn start(
    host: &mut Host,
    config: &agent::Config,
    bootstrap: Bootstrap,
    registry: &Registry,
) -> anyhow::Result<Running> {
    let deps = Deps {
        clock: host.clock.clone(),
        entropy: host.entropy.fork("agent"),
        registry: registry.clone(),
        readiness: host.readiness.clone(),
        log_level: host.log_level.clone(),
    };
    let unix = config.unix_attestor.map(|unix| UnixAttestorConfig {
        discover_workload_path: unix.discover_workload_path,
        workload_size_limit: unix.workload_size_limit,
        ..UnixAttestorConfig::default()
    });
    let config = Config {
        trust_domain: config.trust_domain.clone(),
        server_address: server_address(&config.server_address, config.server_port),
        data_dir: config.data_dir.clone(),
        socket_path: config.socket_path.clone(),
        join_token: config.join_token.clone(),
        bootstrap,
        key_manager: server::key_manager(&config.key_manager)?,
        sync_interval: config.sync_interval,
        unix,
        x509_svid_cache_max_size: config.x509_svid_cache_max_size,
        jwt_svid_cache_max_size: config.jwt_svid_cache_max_size,
        allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
        allowed_foreign_jwt_claims: config.allowed_foreign_jwt_claims.iter().cloned().collect(),
        log_selectors: config.log_selectors.clone(),
        sds: vouchsafe_agent::config::Sds::default(),
        disable_sds_api: false,
        disable_workload_api: false,
        workload_key_type: key_type(config.workload_key_type),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Agent::start(config, deps, &mut host.tasks).await?)
}

/// `host:port`, with brackets around an IPv6 address.
fn server_address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The file is read again whenever it is needed, so that an operator can replace it. It must be readable at start.
fn bootstrap(config: &agent::Config) -> anyhow::Result<Bootstrap> {
    let agent::Bootstrap::File { path, format } = &config.bootstrap else { return Ok(Bootstrap::Insecure) };
    let (path, format, trust_domain) = (path.clone(), *format, config.trust_domain.clone());
    read_bundle(&path, format, &trust_domain)?;
    let source: BundleSource =
        Arc::new(move || read_bundle(&path, format, &trust_domain).map_err(|error| format!("{error:#}")));
    Ok(Bootstrap::Source(source))
}

fn read_bundle(path: &Path, kind: BundleFormat, trust_domain: &TrustDomain) -> anyhow::Result<Bundle> {
    let name = || format!("could not parse trust bundle {}", path.display());
    let bytes = std::fs::read(path).with_context(name)?;
    match kind {
        BundleFormat::Pem => format::from_pem(trust_domain, &bytes).with_context(name),
        BundleFormat::Spiffe => format::from_spiffe_json(trust_domain, &bytes).with_context(name),
    }
}
