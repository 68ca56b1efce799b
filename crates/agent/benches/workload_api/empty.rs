//! Answers with nothing, as tonic's generated code does it.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};
use vouchsafe_proto::workload as api;
use vouchsafe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;

pub(crate) struct Empty;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One message, then silence, as a watch has it.
fn one<T: Default + Send + 'static>() -> Result<Response<Answers<T>>, Status> {
    Ok(Response::new(stream::iter([Ok(T::default())]).chain(stream::pending()).boxed()))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Empty {
    type FetchX509SVIDStream = Answers<api::X509svidResponse>;
    type FetchX509BundlesStream = Answers<api::X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<api::JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<api::WitsvidResponse>;
    type FetchWITBundlesStream = Answers<api::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<api::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        one()
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<api::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        one()
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<api::JwtsvidRequest>,
    ) -> Result<Response<api::JwtsvidResponse>, Status> {
        Ok(Response::new(api::JwtsvidResponse::default()))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<api::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        one()
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<api::ValidateJwtsvidRequest>,
    ) -> Result<Response<api::ValidateJwtsvidResponse>, Status> {
        Ok(Response::new(api::ValidateJwtsvidResponse::default()))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<api::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        one()
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<api::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        one()
    }
}
