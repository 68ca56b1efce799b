//! The port that Prometheus asks, over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::server::ResolvesServerCert;
use vouchsafe_identity::config::{Expect, KeyExchange};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_identity::serving::{CertificateFiles, Clients, server_config_for};
use vouchsafe_transport::http::{CONNECTION_TIMEOUT, MAX_CONNECTIONS, Pages};
use vouchsafe_transport::pages::{self, Bounds};
use vouchsafe_transport::tls::{Limits, TlsListener};

use super::{Host, resolve};
use crate::config::{MetricsCertificate, MetricsClients, MetricsListener, MetricsTls};

/// The server or the agent whose metrics are served, as far as TLS needs it.
pub(super) struct Part {
    /// What it presents with `use_spire_svid`. While it is empty nobody is served.
    pub(super) own: SvidCell,
    /// Whom it believes about SPIFFE IDs.
    pub(super) roots: RootsCell,
    /// How keys are agreed on.
    pub(super) key_exchange: KeyExchange,
}

/// Serves `pages` over TLS and says where.
pub(super) async fn serve(
    host: &mut Host,
    listener: &MetricsListener,
    tls: &MetricsTls,
    pages: Pages,
    part: &Part,
) -> anyhow::Result<SocketAddr> {
    let address = resolve(&listener.host, listener.port).await?;
    let certificate = certificate(host, &tls.certificate, part)?;
    let clients = clients(&tls.clients, part)?;
    let config = server_config_for(clients, part.key_exchange, certificate, host.clock.clone())
        .context("failed to create TLS config for Prometheus")?;
    let listener = TlsListener::bind(address, Arc::new(config), Limits::default()).await;
    let listener = listener.context("cannot serve metrics")?.with_foreign_certificates();
    let address = listener.local_addr()?;
    tracing::info!(%address, tls = true, "Serving metrics");
    // All of them may come from one proxy.
    let bounds =
        Bounds { connections: MAX_CONNECTIONS, per_peer: MAX_CONNECTIONS, exchange: CONNECTION_TIMEOUT };
    host.tasks.start("metrics", move |cancel| async move {
        pages::serve(listener, Arc::new(pages), bounds, cancel).await;
        Ok::<_, Infallible>(())
    });
    Ok(address)
}

/// What is presented. Files are read again every [`SYNC_INTERVAL`].
fn certificate(
    host: &mut Host,
    chosen: &MetricsCertificate,
    part: &Part,
) -> anyhow::Result<Arc<dyn ResolvesServerCert>> {
    let (cert_file, key_file) = match chosen {
        MetricsCertificate::OwnSvid => return Ok(Arc::new(part.own.clone())),
        MetricsCertificate::Files { cert_file, key_file } => (cert_file.clone(), key_file.clone()),
    };
    let files = CertificateFiles { cert_file, key_file, sync_interval: SYNC_INTERVAL };
    let cell = files.load().context("failed to create TLS config for Prometheus")?;
    let presented = Arc::new(cell.clone());
    host.tasks.start("metrics certificate", |cancel| async move {
        cancel.run_until_cancelled(files.watch(&cell)).await;
        Ok::<_, Infallible>(())
    });
    Ok(presented)
}

fn clients(chosen: &MetricsClients, part: &Part) -> anyhow::Result<Clients> {
    Ok(match chosen {
        MetricsClients::Anyone => Clients::Anyone,
        MetricsClients::SpiffeIds(ids) => {
            let ids = ids.clone();
            let expect =
                Expect::Matching("one of authorized_spiffe_ids", Arc::new(move |id| ids.contains(id)));
            Clients::Svids(part.roots.clone(), expect)
        }
        MetricsClients::IssuedBy(path) => {
            let text = std::fs::read(path);
            let text = text.with_context(|| format!("cannot read client_ca_file {}", path.display()))?;
            Clients::IssuedBy(text.into())
        }
    })
}

/// How often the files of the certificate are read again.
const SYNC_INTERVAL: Duration = Duration::from_secs(60);
