//! A Workload API with one identity: that of a server below another one.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::grpc::{self, Options};
use vouchsafe_transport::unix::UnixListener;
use vouchsafe_types::certificate::join;

use super::agent::{Identity, TestAgent};

/// Serves `updates` until it is dropped.
pub struct Workload {
    pub socket: PathBuf,
    updates: watch::Sender<X509svidResponse>,
    _tasks: JoinSet<()>,
}

impl Workload {
    /// Whoever connects below `dir` is the workload of `entry`, an entry of `agent`.
    pub async fn start(dir: &Path, agent: &TestAgent, entry: &types::Entry) -> Self {
        let identity = agent.x509(&entry.id).await.unwrap().unwrap();
        let update = response(&identity, &agent.bundle().await.unwrap());
        let socket = dir.join("workload.sock");
        let listener = UnixListener::bind(&socket, 0o777, 0o755).unwrap();
        let updates = watch::Sender::new(update);
        let service = SpiffeWorkloadApiServer::new(Fake { updates: updates.subscribe() });
        let routes = Routes::new(service).prepare();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (cancel, entropy) = (CancellationToken::new(), Entropy::from_seed(1));
            grpc::serve(listener, routes, cancel, Options::unix(), entropy).await;
        });
        Self { socket, updates, _tasks: tasks }
    }

    /// Renews the identity and the roots.
    pub async fn renew(&self, agent: &TestAgent, entry: &types::Entry) {
        let identity = agent.x509(&entry.id).await.unwrap().unwrap();
        self.updates.send_replace(response(&identity, &agent.bundle().await.unwrap()));
    }
}

fn response(identity: &Identity, bundle: &types::Bundle) -> X509svidResponse {
    let roots: Vec<Arc<[u8]>> = bundle.x509_authorities.iter().map(|root| Arc::from(&*root.asn1)).collect();
    let svid = X509svid {
        spiffe_id: identity.svid.id.as_str().into(),
        x509_svid: join(identity.svid.chain.iter()).into(),
        x509_svid_key: identity.key.pkcs8().unwrap().to_vec().into(),
        bundle: join(roots.iter()).into(),
        ..X509svid::default()
    };
    X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }
}

struct Fake {
    updates: watch::Receiver<X509svidResponse>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Fake {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let mut updates = self.updates.clone();
        updates.mark_changed();
        let answers = stream::unfold(updates, |mut updates| async move {
            updates.changed().await.ok()?;
            let update = updates.borrow_and_update().clone();
            Some((Ok(update), updates))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("fake"))
    }
}
