//! What a delegate gets: the identities of other processes, and every trust bundle that the agent holds.
//!
//! * `SubscribeToX509SVIDs`: the SVIDs of one workload with their keys, again after every change. Once there are none any
//!   more, that is an answer without SVIDs and not the end of the stream. Identities that may administer the server or
//!   are downstream servers are left out: nobody may use those on behalf of others;
//! * `FetchJWTSVIDs`: one token for each of its identities;
//! * `SubscribeToX509Bundles`, `SubscribeToJWTBundles`: the bundles by trust domain, again after every change.
//!
//! Streams are those of the Workload API ([`Updates`]): the first answer waits for SVIDs that are missing, entries count as
//! used, a message that would repeat the one before is not sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::try_join_all;
use prost::Message;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tracing::{debug, error};
use vouchsafe_proto::convert::spiffe_id_to_proto;
use vouchsafe_proto::spire::api::agent::delegatedidentity::v1 as proto;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::workload::JwtsvidResponse;
use vouchsafe_runtime::metrics::Summary;
use vouchsafe_types::certificate;
use vouchsafe_types::jwt_svid::JwtSvid;
use zeroize::{Zeroize, Zeroizing};

use super::delegate::{Delegate, Delegates};
use super::open_rpc::OpenRpc;
use crate::bundles::BundleView;
use crate::identities::secret_bytes;
use crate::identity_set::{IdentitySet, Member};
use crate::metrics::Metrics;
use crate::workload_api::codec::BytesCodec;
use crate::workload_api::request::Connections;
use crate::workload_api::subscription::Subscription;
use crate::workload_api::updates::{Answers, Updates};

/// `SubscribeToX509SVIDs`.
pub const SUBSCRIBE_TO_X509_SVIDS: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs";
/// `SubscribeToX509Bundles`.
pub const SUBSCRIBE_TO_X509_BUNDLES: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles";
/// `FetchJWTSVIDs`.
pub const FETCH_JWT_SVIDS: &str = "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/FetchJWTSVIDs";
/// `SubscribeToJWTBundles`.
pub const SUBSCRIBE_TO_JWT_BUNDLES: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToJWTBundles";

/// Serves `spire.api.agent.delegatedidentity.v1.DelegatedIdentity`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DelegatedIdentity {
    delegates: Delegates,
    connections: Arc<Connections>,
    first_update: Summary,
}

impl DelegatedIdentity {
    /// For these delegates.
    #[must_use]
    pub fn new(delegates: Delegates, metrics: &Metrics) -> Self {
        let connections = Arc::new(Connections::new(metrics.admin_api_connections("delegated_identity_api")));
        Self { delegates, connections, first_update: metrics.delegated_first_update() }
    }

    /// Opens the stream of one workload's SVIDs.
    async fn x509_svids(&self, request: Request<proto::SubscribeToX509sviDsRequest>) -> Stream<OfWorkload> {
        let latency = Some((Instant::now(), self.first_update.clone()));
        let open = OpenRpc::new(&self.connections);
        let delegate = self.delegates.admit(&request).await?;
        let asked = request.get_ref();
        let known = delegate.target(&asked.selectors, asked.pid).await?;
        let subscription = Subscription::new(Arc::clone(&self.delegates.api), known);
        Updates::start(OfWorkload { delegate, latency, _open: open }, subscription).await
    }

    /// Opens a stream of everybody's bundles.
    async fn bundles(&self, kind: BundleKind, request: Request<()>) -> Stream<Everybodys> {
        let open = OpenRpc::new(&self.connections);
        let delegate = self.delegates.admit(&request).await?;
        let nobody = delegate.nobody();
        let subscription = Subscription::new(Arc::clone(&self.delegates.api), nobody);
        Updates::start(Everybodys { delegate, kind, _open: open }, subscription).await
    }

    async fn jwt_svids(&self, request: Request<proto::FetchJwtsviDsRequest>) -> Result<Bytes, Status> {
        let _open = OpenRpc::new(&self.connections);
        if request.get_ref().audience.is_empty() {
            error!("Missing required audience parameter");
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let delegate = self.delegates.admit(&request).await?;
        let proto::FetchJwtsviDsRequest { mut audience, selectors, pid } = request.into_inner();
        let known = delegate.target(&selectors, pid).await?;
        audience.sort_unstable();
        audience.dedup();
        let wanted: Vec<_> = known.set.members.iter().filter(|member| may_be_delegated(member)).collect();
        if wanted.is_empty() {
            return Err(delegate.no_identity());
        }
        let svids = try_join_all(wanted.into_iter().map(|member| self.token(member, &audience))).await?;
        let mut response = proto::FetchJwtsviDsResponse { svids };
        let encoded = Zeroizing::new(response.encode_to_vec());
        response.svids.iter_mut().for_each(|svid| svid.token.zeroize());
        Ok(secret_bytes(encoded))
    }

    async fn token(&self, member: &Member, audience: &[String]) -> Result<types::Jwtsvid, Status> {
        let entry = &member.slot.entry;
        let failed = |cause: String| {
            error!(spiffe_id = %entry.spiffe_id, error = cause, "Could not fetch JWT-SVID");
            Status::unavailable(format!("could not fetch JWT-SVID: {cause}"))
        };
        let encoded = self
            .delegates
            .api
            .jwt
            .token(&member.slot, audience)
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Tokens are held as the Workload API sends them.
        let held = JwtsvidResponse::decode(encoded).map_err(|error| failed(error.to_string()))?;
        let held = held.svids.into_iter().next().ok_or_else(|| failed("there is none".to_owned()))?;
        let token = JwtSvid::parse_unverified(&held.svid).map_err(|error| failed(error.to_string()))?;
        debug!(spiffe_id = %entry.spiffe_id, expires_at = token.expires_at, "Fetched JWT SVID");
        Ok(types::Jwtsvid {
            token: held.svid,
            id: Some(spiffe_id_to_proto(&entry.spiffe_id)),
            expires_at: token.expires_at,
            issued_at: token.issued_at.unwrap_or_default(),
            hint: entry.hint.to_string(),
        })
    }
}

type Stream<A> = Result<Updates<A>, Status>;

/// The SVIDs of one workload.
#[derive(Debug)]
struct OfWorkload {
    delegate: Delegate,
    /// Since when the first identity is waited for.
    latency: Option<(Instant, Summary)>,
    _open: OpenRpc,
}

impl Answers for OfWorkload {
    fn needs_svids(&self) -> bool {
        true
    }

    fn answer(&mut self, subscription: &Subscription) -> Result<Bytes, Status> {
        self.delegate.check()?;
        let set = subscription.set();
        if !set.is_empty()
            && let Some((began, first_update)) = self.latency.take()
        {
            first_update.observe(began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(set.delegated(subscription.now(), encode_svids))
    }
}

/// Identities with rights of their own stay with whom they were made for.
fn may_be_delegated(member: &Member) -> bool {
    !member.slot.entry.admin && !member.slot.entry.downstream
}

fn encode_svids(set: &IdentitySet, now: i64) -> Bytes {
    let svids = set.members.iter().filter(|member| may_be_delegated(member)).filter_map(|member| {
        let held = member.usable(now)?;
        let entry = &member.slot.entry;
        let chain = certificate::split(&held.chain).inspect_err(|error| {
            error!(spiffe_id = %entry.spiffe_id, %error, "Could not serialize X.509 SVID response");
        });
        let x509_svid = types::X509svid {
            id: Some(spiffe_id_to_proto(&entry.spiffe_id)),
            cert_chain: chain.ok()?.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
            expires_at: held.lifetime.not_after,
            hint: entry.hint.to_string(),
        };
        Some(proto::X509svidWithKey { x509_svid: Some(x509_svid), x509_svid_key: held.key.clone() })
    });
    let response = proto::SubscribeToX509sviDsResponse {
        x509_svids: svids.collect(),
        federates_with: set.federated_bundles().iter().map(|view| view.id.clone()).collect(),
    };
    secret_bytes(Zeroizing::new(response.encode_to_vec()))
}

#[derive(Clone, Copy, Debug)]
enum BundleKind {
    X509,
    Jwt,
}

/// All bundles that the agent holds.
#[derive(Debug)]
struct Everybodys {
    delegate: Delegate,
    kind: BundleKind,
    _open: OpenRpc,
}

impl Answers for Everybodys {
    fn needs_svids(&self) -> bool {
        false
    }

    fn answer(&mut self, subscription: &Subscription) -> Result<Bytes, Status> {
        self.delegate.check()?;
        let snapshot = subscription.identities().load();
        let views = snapshot
            .bundles
            .iter()
            .flat_map(|held| std::iter::once(&held.own).chain(held.federated.values()));
        let of = |view: &Arc<BundleView>| match self.kind {
            BundleKind::X509 => (view.id.clone(), view.x509_der.clone()),
            BundleKind::Jwt => (view.id.clone(), view.jwks.clone()),
        };
        let bundles: BTreeMap<_, _> = views.map(of).collect();
        Ok(match self.kind {
            BundleKind::X509 => {
                proto::SubscribeToX509BundlesResponse { ca_certificates: bundles }.encode_to_vec().into()
            }
            BundleKind::Jwt => proto::SubscribeToJwtBundlesResponse { bundles }.encode_to_vec().into(),
        })
    }
}

impl NamedService for DelegatedIdentity {
    const NAME: &'static str = "spire.api.agent.delegatedidentity.v1.DelegatedIdentity";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower_service::Service<http::Request<Body>> for DelegatedIdentity {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let service = self.clone();
        match request.uri().path() {
            SUBSCRIBE_TO_X509_SVIDS => Box::pin(async move {
                Ok(Grpc::new(BytesCodec::default()).server_streaming(X509Svids(service), request).await)
            }),
            SUBSCRIBE_TO_X509_BUNDLES => {
                bundles::<proto::SubscribeToX509BundlesRequest>(service, BundleKind::X509, request)
            }
            SUBSCRIBE_TO_JWT_BUNDLES => {
                bundles::<proto::SubscribeToJwtBundlesRequest>(service, BundleKind::Jwt, request)
            }
            FETCH_JWT_SVIDS => Box::pin(async move {
                Ok(Grpc::new(BytesCodec::default()).unary(JwtSvids(service), request).await)
            }),
            _ => Box::pin(std::future::ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

fn bundles<R: Message + Default + 'static>(
    service: DelegatedIdentity,
    kind: BundleKind,
    request: http::Request<Body>,
) -> Answer {
    Box::pin(async move {
        let codec = BytesCodec::<R>::default();
        Ok(Grpc::new(codec).server_streaming(AllBundles(service, kind), request).await)
    })
}

struct X509Svids(DelegatedIdentity);

impl ServerStreamingService<proto::SubscribeToX509sviDsRequest> for X509Svids {
    type Response = Bytes;
    type ResponseStream = Updates<OfWorkload>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Updates<OfWorkload>>, Status>> + Send>>;

    fn call(&mut self, request: Request<proto::SubscribeToX509sviDsRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.x509_svids(request).await.map(Response::new) })
    }
}

struct AllBundles(DelegatedIdentity, BundleKind);

impl<R: Send + 'static> ServerStreamingService<R> for AllBundles {
    type Response = Bytes;
    type ResponseStream = Updates<Everybodys>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Updates<Everybodys>>, Status>> + Send>>;

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let (service, kind) = (self.0.clone(), self.1);
        Box::pin(async move { service.bundles(kind, request.map(drop)).await.map(Response::new) })
    }
}

struct JwtSvids(DelegatedIdentity);

impl UnaryService<proto::FetchJwtsviDsRequest> for JwtSvids {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<proto::FetchJwtsviDsRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.jwt_svids(request).await.map(Response::new) })
    }
}

#[cfg(test)]
mod tests;
