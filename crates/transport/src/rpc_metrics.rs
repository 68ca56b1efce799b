//! One call counter per RPC: how many ended with which status, and how long they took.
//!
//! An RPC is counted once, when its stream ends: on the status in its trailers (or its headers, when there is
//! no body), or as `Canceled` when the client left before that. So a stream that a workload keeps open is
//! counted when it leaves.
//!
//! Peers choose paths, so a path has series of its own only once it has shown to be a method: it was announced
//! by [`RpcMetrics::announce`], or was answered with something else than `Unimplemented`. At most
//! [`MAX_METHODS`] are counted; further ones are not.
//!
//! Methods that were announced by [`RpcMetrics::announce_timed`] have a histogram as well, of the seconds until the first
//! answer: of a stream until its first message, of what fails until it fails.
//!
//! A call costs one look-up of its path and two reads of the clock; the handles of each (path, status) are kept.

mod call;
pub mod names;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower_layer::Layer;
use tower_service::Service;
use vouchsafe_runtime::metrics::Registry;

use call::{Call, Shared};

/// Most methods that are counted.
pub const MAX_METHODS: usize = 512;

/// A layer that counts RPCs in a [`Registry`]. Cheap to clone.
#[derive(Clone)]
pub struct RpcMetrics {
    shared: Arc<Shared>,
}

impl RpcMetrics {
    /// Counts into `registry`, whose prefix precedes `rpc_…` in each name.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self { shared: Arc::new(Shared { registry, methods: ArcSwap::default() }) }
    }

    /// Names methods by path (`/package.Service/Method`), so that they count from their first call whatever its
    /// answer.
    pub fn announce<'a>(&self, paths: impl IntoIterator<Item = &'a str>) {
        for path in paths {
            self.shared.learn(path, None);
        }
    }

    /// As [`RpcMetrics::announce`], with the seconds until the first answer in the histogram `name{method,status}`.
    pub fn announce_timed<'a>(&self, name: &'static str, paths: impl IntoIterator<Item = &'a str>) {
        for path in paths {
            self.shared.learn(path, Some(name));
        }
    }
}

impl std::fmt::Debug for RpcMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RpcMetrics").field("methods", &self.shared.methods.load().len()).finish()
    }
}

impl<S> Layer<S> for RpcMetrics {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, shared: self.shared.clone() }
    }
}

/// A service whose RPCs are counted.
#[derive(Clone)]
pub struct Counting<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Counting<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counting").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, A, B> Service<Request<A>> for Counting<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body + Unpin,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Responding<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let call = Call::begin(self.shared.clone(), request.uri().path());
        Responding { inner: Box::pin(self.inner.call(request)), call: Some(call) }
    }
}

/// Waits for a response's headers.
pub struct Responding<F> {
    inner: Pin<Box<F>>,
    call: Option<Call>,
}

impl<F, B, E> Future for Responding<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.inner.as_mut().poll(cx));
        let mut call = self.call.take();
        Poll::Ready(match response {
            Ok(response) => {
                if let Some(code) = grpc_status(response.headers())
                    && let Some(call) = call.take()
                {
                    call.end(code);
                }
                Ok(response.map(|inner| CountedBody { inner, call }))
            }
            Err(error) => {
                if let Some(call) = call {
                    call.end(UNKNOWN);
                }
                Err(error)
            }
        })
    }
}

impl<F> std::fmt::Debug for Responding<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Responding")
    }
}

/// A response body that notes how it ends.
pub struct CountedBody<B> {
    inner: B,
    /// `None` once counted.
    call: Option<Call>,
}

impl<B> CountedBody<B> {
    fn end(&mut self, code: u8) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if frame.is_data()
                    && let Some(call) = &mut self.call
                {
                    call.answered(OK);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(grpc_status(trailers).unwrap_or(UNKNOWN));
                }
            }
            Some(Err(_)) | None => self.end(UNKNOWN),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> std::fmt::Debug for CountedBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CountedBody").field("counted", &self.call.is_none()).finish_non_exhaustive()
    }
}

/// The names of gRPC's status codes, by number.
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const OK: u8 = 0;
const CANCELED: u8 = 1;
const UNKNOWN: u8 = 2;
const UNIMPLEMENTED: u8 = 12;
const UNAUTHENTICATED: u8 = 16;

fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get("grpc-status")?.as_bytes();
    let code = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    Some(code.filter(|code| *code <= UNAUTHENTICATED).unwrap_or(UNKNOWN))
}

#[cfg(test)]
mod tests;
