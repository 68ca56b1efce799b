//! `/live`, `/ready` and metrics, as configured.

use std::convert::Infallible;

use anyhow::Context;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_transport::http::{HealthServer, Pages};

use super::metrics_tls::{self, Part};
use super::{Host, resolve};
use crate::config::{HealthListener, Telemetry};

/// A registry as `telemetry` wants its names and labels.
pub(super) fn registry(telemetry: &Telemetry, service: &str, trust_domain: &str) -> Registry {
    let prefix = telemetry.metric_prefix.as_deref().unwrap_or(service);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut labels = Vec::new();
    if telemetry.hostname_label && !host.trim().is_empty() {
        labels.push(("host", host.trim()));
    }
    if telemetry.trust_domain_label {
        labels.push(("trust_domain", trust_domain));
    }
    Registry::filtered(prefix, &labels, telemetry.filter.clone())
}

/// Starts the listeners that `telemetry` and `health` ask for. `part` is what speaks TLS.
pub(super) async fn start(
    host: &mut Host,
    telemetry: &Telemetry,
    health: Option<&HealthListener>,
    registry: &Registry,
    part: &Part,
) -> anyhow::Result<()> {
    if let Some(listener) = &telemetry.prometheus {
        let pages = Pages::new().with_metrics_everywhere(registry.clone());
        match &listener.tls {
            None => serve(host, &listener.host, listener.port, "metrics", pages).await?,
            Some(tls) => drop(metrics_tls::serve(host, listener, tls, pages, part).await?),
        }
    }
    if let Some(listener) = health {
        let pages =
            Pages::new().with_health(host.readiness.clone(), &listener.live_path, &listener.ready_path);
        serve(host, &listener.host, listener.port, "health checks", pages).await?;
    }
    Ok(())
}

/// Serves `pages` at `address`:`port`.
pub(super) async fn serve(
    host: &mut Host,
    address: &str,
    port: u16,
    what: &'static str,
    pages: Pages,
) -> anyhow::Result<()> {
    let address = resolve(address, port).await?;
    let server = HealthServer::bind(address, pages).await.with_context(|| format!("cannot serve {what}"))?;
    tracing::info!(address = %server.local_addr()?, "Serving {what}");
    host.tasks.start(what, |cancel| async move {
        server.serve(cancel).await;
        Ok::<_, Infallible>(())
    });
    Ok(())
}
