//! Secret discovery (SDS v3): gives Envoy its certificates and validation contexts, on the Workload API's socket.
//!
//! | method | kind | answers |
//! |---|---|---|
//! | `StreamSecrets` | both ways | the secrets asked for, again after every change of them |
//! | `FetchSecrets` | unary | the secrets asked for |
//! | `DeltaSecrets` | both ways | `Unimplemented` |
//!
//! Names: `default` (the caller's first X.509-SVID), `ROOTCA` (the bundle of the agent's trust domain), `ALL` (all
//! bundles), any SPIFFE ID and any trust domain that the caller may see; [`crate::config::Sds`] renames the first
//! three. The caller is attested as for the Workload API, and needs no security header.
//!
//! A certificate and its key travel in one secret, so a client never sees a pair that does not match. An authority is
//! in the bundle before it signs (the server sees to that), and each answer is made of one set of identities.
//!
//! * [`asked`]      what a client asks for (pure)
//! * [`resources`]  the secrets, encoded once for all who ask the same
//! * [`exchange`]   versions and nonces (pure)
//! * [`session`]    one RPC

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_proto::envoy::service::discovery::v3::DiscoveryRequest;
use vouchsafe_runtime::budget::KeyedBudgets;

use crate::config::Sds;
use crate::limits::Limited;
use crate::workload_api::codec::BytesCodec;
use crate::workload_api::request::{Api, Connections};
use session::Session;

pub mod asked;
pub mod exchange;
pub mod resources;
pub mod session;

/// Serves secret discovery. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SecretDiscovery {
    inner: Arc<Inner>,
}

/// What the methods answer from.
#[derive(Debug)]
pub(crate) struct Inner {
    api: Arc<Api>,
    config: Sds,
    connections: Connections,
    /// What clients complain about is logged, so it has a bound for each process.
    complaints: KeyedBudgets<i32>,
}

/// Which method a session belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Stream,
    Fetch,
}

impl SecretDiscovery {
    /// Over the agent's state; `connections` counts its RPCs.
    #[must_use]
    pub fn new(api: Arc<Api>, config: Sds, connections: Connections) -> Self {
        Self { inner: Arc::new(Inner::new(api, config, connections)) }
    }
}

impl Inner {
    pub(crate) fn new(api: Arc<Api>, config: Sds, connections: Connections) -> Self {
        let complaints = KeyedBudgets::new(COMPLAINTS_PER_SEC, COMPLAINTS_AT_ONCE, MAX_COMPLAINERS);
        Self { api, config, connections, complaints }
    }

    /// Whether one more complaint of process `pid` is logged.
    pub(crate) fn may_complain(&self, pid: i32) -> bool {
        self.complaints.try_take(&pid, 1).is_ok()
    }
}

impl NamedService for SecretDiscovery {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

impl tower_service::Service<http::Request<Body>> for SecretDiscovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let grpc =
            || Grpc::new(BytesCodec::<DiscoveryRequest>::default()).max_decoding_message_size(MAX_REQUEST);
        match request.uri().path() {
            STREAM_SECRETS => {
                Box::pin(async move { Ok(grpc().streaming(StreamSecrets(inner), request).await) })
            }
            FETCH_SECRETS => Box::pin(async move { Ok(grpc().unary(FetchSecrets(inner), request).await) }),
            DELTA_SECRETS => {
                Box::pin(ready(Ok(Status::unimplemented("Method is not implemented").into_http())))
            }
            _ => Box::pin(ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

struct StreamSecrets(Arc<Inner>);

impl StreamingService<DiscoveryRequest> for StreamSecrets {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Responses>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let known = inner.api.admit_checked(&request).await?;
            inner.api.check_rate(Limited::StreamSecrets, &known)?;
            let session = Session::open(inner, Method::Stream, &known, request.into_inner());
            Ok(Response::new(Box::pin(session.responses()) as Responses))
        })
    }
}

struct FetchSecrets(Arc<Inner>);

impl UnaryService<DiscoveryRequest> for FetchSecrets {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<DiscoveryRequest>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let known = inner.api.admit_checked(&request).await?;
            inner.api.check_rate(Limited::FetchSecrets, &known)?;
            let one = stream::once(ready(Ok(request.into_inner()))).chain(stream::once(pending()));
            let mut session = Session::open(inner, Method::Fetch, &known, one);
            let response = session.next().await;
            response.unwrap_or_else(|| Err(Status::internal("no answer"))).map(Response::new)
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "StreamSecrets",
            Self::Fetch => "FetchSecrets",
        })
    }
}

/// Bytes of a request. Envoy's have a few thousand, most of them its list of extensions. What a request of this size
/// can make of itself in memory (names of no length) is a dozen times as much, for a moment.
pub const MAX_REQUEST: usize = 256 * 1024;

/// Complaints of one process that are logged, in the long run.
const COMPLAINTS_PER_SEC: f64 = 1.0;
/// And at once: an Envoy has a stream for each secret, and a change may displease all of them.
pub(crate) const COMPLAINTS_AT_ONCE: u32 = 32;
/// Processes that are told apart here. Above it new ones share one budget.
const MAX_COMPLAINERS: usize = 1024;

/// Path of the streaming method.
pub const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
/// Path of the unary method.
pub const FETCH_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
const DELTA_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
