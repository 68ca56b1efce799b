//! The bundle endpoint: this server's bundle over HTTPS, for anybody.
//!
//! `GET /` and nothing else, answered from the read model. With `https_spiffe` it presents the server's X.509-SVID, with
//! `https_web` a certificate from files. Those are read again at an interval; files that cannot be used leave the
//! certificate as it is, and the log says so.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::X_CONTENT_TYPE_OPTIONS;
use http::{HeaderValue, Method, Request, StatusCode};
use rustls::server::ResolvesServerCert;
use tracing::{error, info};
use vouchsafe_identity::config::KeyExchange;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::serving::{FilesError, open_server_config};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_transport::pages::{Bounds, JSON, Page, Site, TEXT, page, serve};
use vouchsafe_transport::tls::{BindError, Limits, TlsListener};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::bundle::format::to_spiffe_json;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::config::federation::{BundleEndpoint, ServingProfile};
use crate::model::ReadModel;
use crate::status::Chain;

/// What the endpoint is built on.
pub(crate) struct Endpoint<'a> {
    pub(crate) config: &'a BundleEndpoint,
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) model: &'a Arc<ReadModel>,
    pub(crate) own: &'a SvidCell,
    pub(crate) key_exchange: KeyExchange,
    pub(crate) clock: &'a Clock,
}

/// Binds the endpoint and starts its tasks; says where it listens.
pub(crate) async fn start(
    endpoint: Endpoint<'_>,
    tasks: &mut Supervisor,
) -> Result<SocketAddr, EndpointError> {
    let Endpoint { config, trust_domain, model, own, key_exchange, clock } = endpoint;
    let (certificate, profile): (Arc<dyn ResolvesServerCert>, _) = match &config.profile {
        ServingProfile::HttpsSpiffe => (Arc::new(own.clone()), "https_spiffe"),
        ServingProfile::HttpsWeb(files) => {
            let cell = files.load().map_err(|source| EndpointError::Certificate { source })?;
            let (watched, files) = (cell.clone(), files.clone());
            tasks.start("bundle endpoint certificate", |cancel| async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = files.watch(&watched) => {}
                }
                Ok::<_, std::convert::Infallible>(())
            });
            (Arc::new(cell), "https_web")
        }
    };
    let tls = open_server_config(key_exchange, certificate, clock.clone());
    let tls = tls.map_err(|source| EndpointError::Tls { source })?;
    let listener = TlsListener::bind(config.address, Arc::new(tls), Limits::default()).await;
    let listener = listener.map_err(|source| EndpointError::Bind { source })?;
    let address = listener.local_addr().map_err(|source| EndpointError::Address { source })?;
    let site = Arc::new(BundleSite {
        trust_domain: trust_domain.clone(),
        model: model.clone(),
        refresh_hint: i64::try_from(config.refresh_hint.as_secs()).unwrap_or(i64::MAX),
        written: ArcSwapOption::empty(),
    });
    info!(addr = %address, profile, refresh_hint = ?config.refresh_hint, "Serving bundle endpoint");
    tasks.start("bundle endpoint", |cancel| async move {
        serve(listener, site, Bounds::default(), cancel).await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(address)
}

/// Why the bundle endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The certificate cannot be used.
    #[error("cannot serve the configured certificate")]
    Certificate {
        /// Why.
        source: FilesError,
    },
    /// The address cannot be bound.
    #[error("cannot listen for bundle requests")]
    Bind {
        /// Why.
        source: BindError,
    },
    /// The address is gone as soon as it was bound.
    #[error("cannot tell the address of the bundle endpoint")]
    Address {
        /// Why.
        source: io::Error,
    },
    /// A mistake in this program.
    #[error("cannot configure TLS")]
    Tls {
        /// What rustls says.
        source: rustls::Error,
    },
}

/// The one page.
struct BundleSite {
    trust_domain: TrustDomain,
    model: Arc<ReadModel>,
    refresh_hint: i64,
    /// The document of the bundle that was asked for last.
    written: ArcSwapOption<(Arc<Bundle>, Bytes)>,
}

impl BundleSite {
    fn document(&self) -> Result<Bytes, &'static str> {
        let snapshot = self.model.load();
        let bundle =
            snapshot.bundles.get(&self.trust_domain).ok_or("500 unable to retrieve local bundle\n")?;
        if let Some(written) = &*self.written.load()
            && Arc::ptr_eq(&written.0, bundle)
        {
            return Ok(written.1.clone());
        }
        let hinted = Bundle { refresh_hint: self.refresh_hint, ..Bundle::clone(bundle) };
        let json = to_spiffe_json(&hinted).map_err(|cause| {
            error!(error = %Chain(&cause), "Unable to marshal local bundle");
            "500 unable to marshal local bundle\n"
        })?;
        let document = Bytes::from(json);
        self.written.store(Some(Arc::new((bundle.clone(), document.clone()))));
        Ok(document)
    }
}

impl Site for BundleSite {
    fn answer(&self, request: &Request<()>) -> Page {
        if request.method() != Method::GET {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
        }
        if request.uri().path() != "/" {
            return refusal(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        match self.document() {
            Ok(document) => page(StatusCode::OK, JSON, document),
            Err(text) => refusal(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

fn refusal(status: StatusCode, text: &'static str) -> Page {
    let mut page = page(status, TEXT, text);
    page.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}
