//! The SPIFFE Workload API.
//!
//! | method | kind | answers |
//! |---|---|---|
//! | `FetchX509SVID` | stream | the caller's X.509-SVIDs, again after every change |
//! | `FetchX509Bundles`, `FetchJWTBundles` | stream | the trust bundles the caller may see, again after every change |
//! | `FetchJWTSVID` | unary | one JWT-SVID per identity |
//! | `ValidateJWTSVID` | unary | whether a token is good, and what it says |
//!
//! Answers are encoded when state changes and not when a request comes, so the service speaks gRPC through a codec
//! whose responses are bytes ([`codec`]). A message that would repeat the previous one of its stream is not sent.
//!
//! * [`codec`]     messages that are encoded already
//! * [`request`]   what every method does first
//! * [`subscription`]  what the caller of a stream may have
//! * [`updates`]   the streams
//! * [`jwt`]       JWT-SVIDs
//! * [`validate`]  validation of JWT-SVIDs

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use vouchsafe_proto::workload;

use codec::BytesCodec;
use request::Api;
use updates::{Kind, Updates};

pub mod codec;
pub mod jwt;
pub mod request;
pub mod subscription;
pub mod updates;
pub mod validate;

/// Serves the Workload API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    api: Arc<Api>,
}

impl WorkloadApi {
    /// Over the agent's state.
    #[must_use]
    pub fn new(api: Arc<Api>) -> Self {
        Self { api }
    }
}

impl NamedService for WorkloadApi {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower_service::Service<http::Request<Body>> for WorkloadApi {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = Arc::clone(&self.api);
        match request.uri().path() {
            "/SpiffeWorkloadAPI/FetchX509SVID" => {
                streaming::<workload::X509svidRequest>(api, Kind::X509Svids, request)
            }
            "/SpiffeWorkloadAPI/FetchX509Bundles" => {
                streaming::<workload::X509BundlesRequest>(api, Kind::X509Bundles, request)
            }
            "/SpiffeWorkloadAPI/FetchJWTBundles" => {
                streaming::<workload::JwtBundlesRequest>(api, Kind::JwtBundles, request)
            }
            "/SpiffeWorkloadAPI/FetchJWTSVID" => Box::pin(async move {
                Ok(Grpc::new(BytesCodec::<workload::JwtsvidRequest>::default())
                    .unary(FetchJwt(api), request)
                    .await)
            }),
            "/SpiffeWorkloadAPI/ValidateJWTSVID" => Box::pin(async move {
                let codec = BytesCodec::<workload::ValidateJwtsvidRequest>::default();
                Ok(Grpc::new(codec).unary(Validate(api), request).await)
            }),
            "/SpiffeWorkloadAPI/FetchWITSVID" => refuse("fetching WIT-SVIDs is not implemented"),
            "/SpiffeWorkloadAPI/FetchWITBundles" => refuse("fetching WIT bundles is not implemented"),
            _ => refuse(""),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

fn streaming<R: Message + Default + 'static>(
    api: Arc<Api>,
    kind: Kind,
    request: http::Request<Body>,
) -> Answer {
    Box::pin(async move {
        Ok(Grpc::new(BytesCodec::<R>::default()).server_streaming(Fetch { api, kind }, request).await)
    })
}

fn refuse(message: &'static str) -> Answer {
    Box::pin(std::future::ready(Ok(Status::unimplemented(message).into_http())))
}

struct Fetch {
    api: Arc<Api>,
    kind: Kind,
}

impl<R: Send + 'static> ServerStreamingService<R> for Fetch {
    type Response = Bytes;
    type ResponseStream = Updates;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Updates>, Status>> + Send>>;

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let (api, kind) = (Arc::clone(&self.api), self.kind);
        Box::pin(async move { Updates::open(api, kind, &request.map(drop)).await.map(Response::new) })
    }
}

struct FetchJwt(Arc<Api>);

impl UnaryService<workload::JwtsvidRequest> for FetchJwt {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<workload::JwtsvidRequest>) -> Self::Future {
        let api = Arc::clone(&self.0);
        Box::pin(async move { jwt::fetch(&api, request).await.map(Response::new) })
    }
}

struct Validate(Arc<Api>);

impl UnaryService<workload::ValidateJwtsvidRequest> for Validate {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<workload::ValidateJwtsvidRequest>) -> Self::Future {
        let api = Arc::clone(&self.0);
        Box::pin(async move { validate::validate(&api, request).await.map(Response::new) })
    }
}
