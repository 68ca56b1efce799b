//! Small pages over HTTP/1.1, on any listener: health, metrics, bundle endpoints.
//!
//! Each connection serves one request and ends within [`Bounds::exchange`], so a client that says nothing, dribbles or
//! does not read holds its place for that long at most. [`Bounds::connections`] are open at a time; at that bound new
//! ones wait in the kernel's backlog. One peer may have [`Bounds::per_peer`] of them; beyond that its new connections are
//! closed at once. A body of a request is not read. A head above [`MAX_HEAD`] is answered with status 431.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connections::{ACCEPT_PAUSE, Connections, Stream};
use crate::listener::{Connection, Listener, PeerKey};

/// A page.
pub type Page = Response<Full<Bytes>>;

/// What is served. Answers from memory, at once.
pub trait Site: Send + Sync + 'static {
    /// The page that `request` asks for. Its extensions have the [`PeerKey`] of who asks.
    fn answer(&self, request: &Request<()>) -> Page;
}

/// What clients may use.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time of one process or address.
    pub per_peer: usize,
    /// How long a connection may take, from accept to the last byte of its answer. A TLS handshake comes before that.
    pub exchange: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 256, per_peer: 64, exchange: Duration::from_secs(10) }
    }
}

/// Serves `site` on the connections of `listener` until `cancel`; what is open then has [`DRAIN`] to end.
pub async fn serve<L: Listener>(
    mut listener: L,
    site: Arc<dyn Site>,
    bounds: Bounds,
    cancel: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = Connections::new(bounds.connections, bounds.per_peer);
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = connections.next_end() => {}
            (permit, accepted) = accepted => match accepted {
                Ok(io) if !connections.may_have(io.peer_key()) => {
                    tracing::debug!(peer = ?io.peer_key(), "connection dropped: too many from this peer");
                }
                Ok(io) => {
                    let (peer, site) = (io.peer_key(), site.clone());
                    connections.start(peer, async move {
                        let _permit = permit;
                        serve_connection((Box::new(io), peer), site, bounds.exchange).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections, trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.drain(DRAIN).await;
}

/// A page of `kind` (a media type) with `body`.
#[must_use]
pub fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn serve_connection((io, peer): (Box<dyn Stream>, PeerKey), site: Arc<dyn Site>, exchange: Duration) {
    let respond = service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(drop);
        request.extensions_mut().insert(peer);
        let page = site.answer(&request);
        async move { Ok::<_, Infallible>(page) }
    });
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(exchange).max_buf_size(MAX_HEAD);
    let served = builder.serve_connection(TokioIo::new(io), respond);
    if let Ok(Err(error)) = tokio::time::timeout(exchange, served).await {
        tracing::debug!(%error, "connection of a page ended");
    }
}

/// Bytes of request line and headers.
pub const MAX_HEAD: usize = 32 * 1024;
/// How long what is open may take once cancelled.
pub const DRAIN: Duration = Duration::from_secs(2);
/// Media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Media type of JSON.
pub const JSON: &str = "application/json";

#[cfg(test)]
mod tests;
