//! Serving gRPC over HTTP/2 until cancelled.
//!
//! tonic's own accept loop detaches its connections, so that nothing can end one whose client keeps a stream
//! open, and it gives every connection the same greatest age. This one owns its connections:
//!
//! * at most [`Options::max_connections`] at a time; at that bound no further connection is accepted, so that
//!   clients wait in the kernel's backlog until one ends. Of these, one peer may hold
//!   [`Options::max_connections_per_peer`], and all processes of one user half; beyond that its new connections are
//!   closed at once, so that it cannot keep others out;
//! * a connection that says nothing for [`Options::first_byte_timeout`] is closed;
//! * after its greatest age (± 10 %, drawn once per connection) a connection is asked to close: the client
//!   opens another and finishes on this one what it has begun. So clients spread anew when servers are added;
//! * when cancelled, no more is accepted, every connection is asked to close, and after [`Options::drain`] the
//!   remaining ones are cut.
//!
//! A request's `grpc-timeout` bounds the time to its response's headers, as in tonic.
//!
//! Message sizes are bounded where messages are decoded: tonic's default of 4 MiB for what a peer sends, unless the
//! generated service says otherwise with `max_decoding_message_size`.

mod deadline;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_service::Service;
use vouchsafe_runtime::entropy::Entropy;

use crate::authority::follower::MAX_FRAME;
use crate::connections::{ACCEPT_PAUSE, Connections, Stream};
use crate::listener::{Connection, Listener};

/// How connections are served. The defaults suit the server's TCP port, but for [`Options::max_connection_age`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one process or address. All processes of one user may have half of all connections.
    pub max_connections_per_peer: usize,
    /// RPCs at a time on one connection; the client waits beyond it.
    pub max_concurrent_streams: u32,
    /// Bytes of a request's decoded headers; refused with status 431 beyond it.
    pub max_header_list: u32,
    /// How long a new connection may say nothing.
    pub first_byte_timeout: Duration,
    /// How long a connection is used, ± 10 %. `None` for ever.
    pub max_connection_age: Option<Duration>,
    /// After this long without a word from the client it is asked whether it is there. `None` never.
    pub keepalive: Option<Duration>,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
    /// How long running RPCs may take to end once cancelled.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_connections_per_peer: 4096,
            max_concurrent_streams: 256,
            max_header_list: 16 * 1024,
            first_byte_timeout: Duration::from_secs(10),
            max_connection_age: None,
            keepalive: Some(Duration::from_secs(60)),
            keepalive_timeout: Duration::from_secs(20),
            drain: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// For a Unix socket: no keepalive, because the kernel says when a local peer ends, and no greatest age.
    #[must_use]
    pub fn unix() -> Self {
        Self { max_connections_per_peer: 512, keepalive: None, ..Self::default() }
    }
}

/// Tells what runs on a connection that the connection is asked to end. An extension of each request: a stream that would
/// go on without end ends itself then, so that the connection can.
#[derive(Clone, Debug)]
pub struct Closing {
    connection: CancellationToken,
    server: CancellationToken,
}

impl Closing {
    fn of(server: &CancellationToken) -> Self {
        Self { connection: server.child_token(), server: server.clone() }
    }

    /// Waits until the connection is asked to end.
    pub async fn begun(self) {
        self.connection.cancelled_owned().await;
    }

    /// Whether it is because no more is served, and not because of the connection's age.
    #[must_use]
    pub fn server_stops(&self) -> bool {
        self.server.is_cancelled()
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when it was cancelled.
    pub open: usize,
    /// Of these, the ones cut when [`Options::drain`] was over.
    pub cut: usize,
}

/// Serves `service` on the connections of `listener` until `cancel`, then drains.
///
/// `service` is what handles a request: usually `tonic::service::Routes`, with layers around it. Its clone per
/// request must be cheap. Each request has the connection's `ConnectInfo` as an extension.
pub async fn serve<L, S, B>(
    mut listener: L,
    service: S,
    cancel: CancellationToken,
    options: Options,
    mut entropy: Entropy,
) -> Drained
where
    L: Listener,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let builder = builder(&options);
    let permits = Arc::new(Semaphore::new(options.max_connections));
    let mut connections = Connections::new(options.max_connections, options.max_connections_per_peer);
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
                    let peer = io.peer_key();
                    let age = options.max_connection_age.map(|age| age.mul_f64(0.9 + 0.2 * entropy.fraction()));
                    let task = serve_connection(
                        io, service.clone(), &builder, cancel.clone(), age, options.first_byte_timeout, permit,
                    );
                    connections.start(peer, task);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections, trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let (open, cut) = connections.drain(options.drain).await;
    Drained { open, cut }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn builder(options: &Options) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_header_list_size(options.max_header_list)
        .max_frame_size(u32::try_from(MAX_FRAME).ok())
        .keep_alive_interval(options.keepalive)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// Serves a connection until it ends, and holds `permit` as long.
///
/// There are many, most of them with nothing to say, so their size counts. An `async fn` has room for each argument twice:
/// therefore what is large is put together before the future, in a place of its own.
fn serve_connection<I, S, B>(
    io: I,
    service: S,
    builder: &http2::Builder<TokioExecutor>,
    cancel: CancellationToken,
    age: Option<Duration>,
    first_byte_timeout: Duration,
    permit: impl Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    I: Connection,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let info = io.connect_info();
    let end = Closing::of(&cancel);
    let ended = end.clone();
    let respond = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(tonic::body::Body::new);
        request.extensions_mut().insert(info.clone());
        request.extensions_mut().insert(ended.clone());
        let timeout = deadline::grpc_timeout(request.headers());
        deadline::bound(service.clone().oneshot(request), timeout)
    });
    let heard = Arc::new(AtomicBool::new(false));
    // Behind one type, because each type of connection would be another copy of all HTTP/2 code.
    let io: Box<dyn Stream> = Box::new(Heard { io, heard: heard.clone() });
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(io), respond));
    async move {
        let _held_to_the_end = permit;
        let mut silence = pin!(tokio::time::sleep(first_byte_timeout));
        let mut aged = pin!(async {
            match age {
                Some(age) => tokio::time::sleep(age).await,
                None => std::future::pending().await,
            }
        });
        let (mut closing, mut listening) = (false, true);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
                    }
                    return;
                }
                () = silence.as_mut(), if listening => {
                    if !heard.load(Ordering::Relaxed) {
                        return;
                    }
                    listening = false;
                }
                () = aged.as_mut(), if !closing => closing = true,
                () = cancel.cancelled(), if !closing => closing = true,
            }
            if closing {
                connection.as_mut().graceful_shutdown();
                end.connection.cancel();
            }
        }
    }
}

/// Notes whether anything was ever received.
struct Heard<I> {
    io: I,
    heard: Arc<AtomicBool>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
