//! `oidc run`.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use vouchsafe_identity::config::KeyExchange;
use vouchsafe_identity::serving::{CertificateFiles, open_server_config};
use vouchsafe_transport::http::Pages;
use vouchsafe_transport::listener::Listener;
use vouchsafe_transport::pages::{Bounds, serve};
use vouchsafe_transport::tls::{Limits, TlsListener};
use vouchsafe_transport::unix::UnixListener;

use super::{Host, http, resolve};
use crate::config::oidc::{self, Config, ServingCert};
use crate::oidc::poll::{Poller, Polling};
use crate::oidc::site::{ProviderSite, Settings};
use crate::oidc::source::Source;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &config.warnings)?;
    let source = match &config.source {
        oidc::Source::ServerApi { socket } => Source::server_api(socket),
        oidc::Source::WorkloadApi { socket, trust_domain } => {
            Source::workload_api(socket, trust_domain.clone())
        }
        oidc::Source::File { path } => Source::File(path.clone()),
    };
    let polling = Polling { interval: config.poll_interval, set_key_use: config.set_key_use };
    let (poller, keys) = Poller::new(source, polling, host.clock.clone(), host.readiness.token("keys"));
    if config.log_requests {
        tracing::info!("Logging all requests");
    }
    let tls = matches!(config.listener, oidc::Listener::ServingCert(_));
    let settings = Settings {
        hosts: config.hosts.clone(),
        discovery: config.discovery.clone(),
        insecure_scheme: config.allow_insecure_scheme && !tls,
        log_requests: config.log_requests,
    };
    start_pages(&mut host, &config.listener, ProviderSite::new(settings, keys)).await?;
    if let Some(health) = &config.health {
        let pages = Pages::new().with_health(host.readiness.clone(), &health.live_path, &health.ready_path);
        http::serve(&mut host, every_address().await, health.port, "health checks", pages).await?;
    }
    host.tasks.start("keys", |cancel| async move {
        poller.run(cancel).await;
        Ok::<_, Infallible>(())
    });
    host.run().await
}

/// Binds the configured listener and starts to serve `site` on it.
async fn start_pages(host: &mut Host, listener: &oidc::Listener, site: ProviderSite) -> anyhow::Result<()> {
    match listener {
        oidc::Listener::Insecure(address) => {
            let tcp = bind(address).await?;
            tracing::warn!(address = %tcp.local_addr()?, "Serving HTTP (insecure)");
            serve_on(host, tcp, site, BOUNDS);
        }
        oidc::Listener::Socket(path) => {
            let unix = UnixListener::bind(path, SOCKET_MODE, PARENT_MODE)?;
            tracing::info!(network = "unix", address = %path.display(), "Serving HTTP");
            // All of them may come from one proxy.
            serve_on(host, unix, site, Bounds { per_peer: BOUNDS.connections, ..BOUNDS });
        }
        oidc::Listener::ServingCert(serving) => {
            let tls = start_certificate(host, serving)?;
            let tcp = bind(&serving.address).await?;
            let tls = TlsListener::new(tcp, Arc::new(tls), Limits::default());
            tracing::info!(
                cert_file_path = %serving.cert_file.display(),
                address = %tls.local_addr()?,
                "Serving HTTPS using certificate loaded from disk"
            );
            serve_on(host, tls, site, BOUNDS);
        }
    }
    Ok(())
}

/// Loads the certificate, follows its files, and makes the configuration that presents it.
fn start_certificate(host: &mut Host, serving: &ServingCert) -> anyhow::Result<rustls::ServerConfig> {
    let files = CertificateFiles {
        cert_file: serving.cert_file.clone(),
        key_file: serving.key_file.clone(),
        sync_interval: serving.sync_interval,
    };
    let cell = files.load().context("failed to load certificate")?;
    let presented = Arc::new(cell.clone());
    host.tasks.start("certificate files", |cancel| async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = files.watch(&cell) => {}
        }
        Ok::<_, Infallible>(())
    });
    open_server_config(KeyExchange::Any, presented, host.clock.clone()).context("cannot configure TLS")
}

fn serve_on(host: &mut Host, listener: impl Listener + 'static, site: ProviderSite, bounds: Bounds) {
    host.tasks.start("pages", move |cancel| async move {
        serve(listener, Arc::new(site), bounds, cancel).await;
        Ok::<_, Infallible>(())
    });
}

/// Binds `host:port`; an empty host means all addresses.
async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let (host, port) = address.rsplit_once(':').context("an address has a port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { every_address().await } else { host };
    let at = resolve(host, port.parse().context("a port is a number")?).await?;
    TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))
}

/// All addresses of the machine: those of IPv4 too where it has IPv6, those of IPv4 alone where it has not.
pub(super) async fn every_address() -> &'static str {
    match TcpListener::bind("[::]:0").await {
        Ok(_) => "::",
        Err(_) => "0.0.0.0",
    }
}

/// Whoever may reach the directory may connect, as in SPIRE: the keys are public.
const SOCKET_MODE: u32 = 0o777;
const PARENT_MODE: u32 = 0o755;
/// Half of the connections may come from one address, which may be a proxy's.
const BOUNDS: Bounds =
    Bounds { connections: 1024, per_peer: 512, exchange: std::time::Duration::from_secs(10) };
