//! `helper`.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use vouchsafe_delivery::files::health::{HealthSite, Report};
use vouchsafe_delivery::files::once::write_once;
use vouchsafe_delivery::files::writer::Writer;
use vouchsafe_transport::http::{CONNECTION_TIMEOUT, MAX_CONNECTIONS};
use vouchsafe_transport::pages::{self, Bounds};

use super::{Host, oidc, resolve};
use crate::config::helper::{Config, Health};

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &config.warnings)?;
    let (settings, entropy) = (config.settings, host.entropy.fork("files"));
    if !config.daemon {
        let once = write_once(&settings, host.clock.clone(), entropy);
        let stopped = host.shutdown.first;
        return tokio::select! {
            written = once => written.context("the files were not written"),
            () = stopped => Err(anyhow::anyhow!("stopped before the files were written")),
        };
    }
    tracing::info!(
        agent_address = %settings.socket.display(),
        cert_dir = %settings.folder.display(),
        "Keeping identities in files"
    );
    let (writer, report) = Writer::new(settings, host.clock.clone(), entropy);
    if let Some(health) = config.health {
        serve_health(&mut host, health, report).await?;
    }
    host.tasks.start("files", |cancel| writer.run(cancel));
    host.run().await
}

async fn serve_health(
    host: &mut Host,
    health: Health,
    report: watch::Receiver<Report>,
) -> anyhow::Result<()> {
    let address = resolve(oidc::every_address().await, health.port).await?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot serve health checks on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "Serving health checks");
    let site = Arc::new(HealthSite::new(report, host.clock.clone(), health.live_path, health.ready_path));
    let bounds =
        Bounds { connections: MAX_CONNECTIONS, per_peer: MAX_CONNECTIONS, exchange: CONNECTION_TIMEOUT };
    host.tasks.start("health checks", move |cancel| async move {
        pages::serve(listener, site, bounds, cancel).await;
        Ok::<_, Infallible>(())
    });
    Ok(())
}
