//! A small server: real TLS, real certificates, entries in memory. It can refuse, hang and go away.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_ca::jwt::JwtKey;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::signer::Signer;
use vouchsafe_ca::x509::authority::{CaTemplate, X509Ca, self_signed_ca};
use vouchsafe_ca::x509::csr::{VerifyProofOfPossession, parse_csr};
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_ca::x509::svid::{Issued, SvidTemplate, issue_svid_now};
use vouchsafe_identity::config::{ClientAuth, Expect, server_config};
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_proto::convert::{bundle_to_proto, spiffe_id_from_proto, spiffe_id_to_proto};
use vouchsafe_proto::denial::{Reason, denied};
use vouchsafe_proto::spire::api::server::{agent, bundle, entry, svid};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::server::v1::revisions_server::RevisionsServer;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::grpc;
use vouchsafe_transport::tls::{Limits, TlsListener, TlsPeer};
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

mod pop;

pub(crate) const TOKEN: &str = "the-token";

/// As the real server has it.
const RENEWAL_GRACE: Duration = Duration::from_secs(96 * 3600);

pub(crate) struct Fake {
    pub(crate) clock: Clock,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) entries: Mutex<BTreeMap<String, types::Entry>>,
    pub(crate) tokens: Mutex<HashSet<String>>,
    pub(crate) denial: Mutex<Option<Reason>>,
    pub(crate) hang: AtomicBool,
    pub(crate) x509_ttl: AtomicU64,
    pub(crate) jwt_ttl: AtomicU64,
    /// Entries up to this number are sent whole at once.
    pub(crate) whole_list: AtomicUsize,
    pub(crate) issued: AtomicUsize,
    pub(crate) jwts: AtomicUsize,
    /// Tokens are signed and then kept back until this is `true`.
    pub(crate) hand_out_jwts: tokio::sync::watch::Sender<bool>,
    /// What requests for tokens are refused with.
    pub(crate) jwt_refusal: Mutex<Option<Status>>,
    /// Entries that tokens were asked for.
    pub(crate) jwts_asked: Mutex<Vec<String>>,
    /// Requests for X.509-SVIDs are refused with this.
    pub(crate) x509_refusal: Mutex<Option<Status>>,
    /// Requests for X.509-SVIDs are answered, and none is issued.
    pub(crate) cannot_sign: AtomicBool,
    /// Agents are renewed, and not answered until this is `true`.
    pub(crate) answer_renewals: tokio::sync::watch::Sender<bool>,
    pub(crate) renewals: AtomicUsize,
    /// Refused ones included.
    pub(crate) renewals_asked: AtomicUsize,
    pub(crate) attestations: AtomicUsize,
    /// Refused ones included.
    pub(crate) attestations_asked: AtomicUsize,
    /// An attestation ends the denial.
    pub(crate) attesting_helps: AtomicBool,
    /// Attestations by certificate are refused.
    pub(crate) refuse_pop: AtomicBool,
    /// Agents may not renew, as those that can attest again.
    pub(crate) must_reattest: AtomicBool,
    /// Agents that reported their version.
    pub(crate) posted: AtomicUsize,
    /// So often the bundle is refused.
    pub(crate) bundle_refusals: AtomicUsize,
    /// Streams of changes.
    pub(crate) pushing: Pushing,
    authorities: Mutex<Authorities>,
    cell: SvidCell,
    roots: RootsCell,
    /// All authorities that there ever were.
    known: Mutex<Bundle>,
    this: OnceLock<Arc<Fake>>,
}

struct Authorities {
    ca: Arc<X509Ca>,
    jwt: JwtKey,
    bundle: Bundle,
}

/// A fake that listens. Dropping it takes the server away.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Listening {
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Fake {
    pub(crate) async fn new(clock: Clock) -> Arc<Self> {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let authorities = authorities(&trust_domain, &clock, 1).await;
        let fake = Self {
            trust_domain: trust_domain.clone(),
            entries: Mutex::default(),
            tokens: Mutex::new(HashSet::from([TOKEN.to_owned()])),
            denial: Mutex::default(),
            hang: AtomicBool::new(false),
            x509_ttl: AtomicU64::new(3600),
            jwt_ttl: AtomicU64::new(300),
            whole_list: AtomicUsize::new(1),
            issued: AtomicUsize::new(0),
            jwts: AtomicUsize::new(0),
            hand_out_jwts: tokio::sync::watch::Sender::new(true),
            jwt_refusal: Mutex::default(),
            jwts_asked: Mutex::default(),
            x509_refusal: Mutex::default(),
            cannot_sign: AtomicBool::new(false),
            answer_renewals: tokio::sync::watch::Sender::new(true),
            renewals: AtomicUsize::new(0),
            renewals_asked: AtomicUsize::new(0),
            attestations: AtomicUsize::new(0),
            attestations_asked: AtomicUsize::new(0),
            attesting_helps: AtomicBool::new(false),
            refuse_pop: AtomicBool::new(false),
            must_reattest: AtomicBool::new(false),
            posted: AtomicUsize::new(0),
            bundle_refusals: AtomicUsize::new(0),
            pushing: Pushing::default(),
            authorities: Mutex::new(authorities),
            known: Mutex::new(Bundle::new(trust_domain.clone())),
            cell: SvidCell::empty(),
            roots: RootsCell::new(TrustRoots::new()),
            this: OnceLock::new(),
            clock,
        };
        fake.take_office();
        let fake = Arc::new(fake);
        drop(fake.this.set(Arc::clone(&fake)));
        fake
    }

    /// Another server of the trust domain, with keys of its own and the same entries. Both have the authorities of both.
    pub(crate) async fn beside(&self) -> Arc<Self> {
        let other = Self::new(self.clock.clone()).await;
        *other.entries.lock().unwrap() = self.entries.lock().unwrap().clone();
        other.x509_ttl.store(self.x509_ttl.load(Ordering::SeqCst), Ordering::SeqCst);
        let theirs = other.bundle();
        self.change_bundle(|bundle| {
            bundle.append(theirs.x509_authorities, theirs.jwt_authorities);
        });
        other.share(&self.bundle());
        self.know_authorities();
        other
    }

    /// Has the shared bundle as another server has it now.
    pub(crate) fn share(&self, bundle: &Bundle) {
        self.authorities.lock().unwrap().bundle = bundle.clone();
        self.know_authorities();
    }

    pub(crate) fn bundle(&self) -> Bundle {
        self.authorities.lock().unwrap().bundle.clone()
    }

    /// New authorities, and nothing of the old ones.
    pub(crate) async fn replace_authorities(&self) {
        let sequence_number = self.bundle().sequence_number + 1;
        *self.authorities.lock().unwrap() =
            authorities(&self.trust_domain, &self.clock, sequence_number).await;
        self.take_office();
    }

    /// New authorities beside the old ones, as in a planned rotation.
    pub(crate) async fn rotate(&self) {
        let before = self.bundle();
        let mut new = authorities(&self.trust_domain, &self.clock, before.sequence_number + 1).await;
        new.bundle.append(before.x509_authorities, before.jwt_authorities);
        *self.authorities.lock().unwrap() = new;
        // The server's own SVID stays: agents learn of the new authorities over connections to it.
        self.know_authorities();
    }

    /// New authorities that are in no bundle; the old ones stay there. Returns the bundle that has them.
    pub(crate) async fn rotate_unannounced(&self) -> Bundle {
        let before = self.bundle();
        let mut new = authorities(&self.trust_domain, &self.clock, before.sequence_number + 1).await;
        let announced = new.bundle.clone();
        new.bundle = before;
        *self.authorities.lock().unwrap() = new;
        announced
    }

    /// Says of every authority but the newest that it is tainted.
    pub(crate) fn taint_old(&self) {
        self.change_bundle(|bundle| {
            bundle.x509_authorities[1..].iter_mut().for_each(|authority| authority.tainted = true);
            bundle.jwt_authorities[1..].iter_mut().for_each(|authority| authority.tainted = true);
        });
    }

    /// Takes every authority but the newest out of the bundle.
    pub(crate) fn revoke_old(&self) {
        self.change_bundle(|bundle| {
            bundle.x509_authorities.truncate(1);
            bundle.jwt_authorities.truncate(1);
        });
        self.take_office();
    }

    pub(crate) fn change_bundle(&self, change: impl FnOnce(&mut Bundle)) {
        let mut authorities = self.authorities.lock().unwrap();
        change(&mut authorities.bundle);
        authorities.bundle.sequence_number += 1;
        drop(authorities);
        self.pushing.changed();
    }

    /// A new SVID for the server itself.
    pub(crate) fn take_office(&self) {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = SpiffeId::server(&self.trust_domain);
        let issued = self.issue(&id, key.public_key_der(), Duration::from_secs(3600));
        self.cell.set(OwnSvid::from_pkcs8(&issued.chain, &key.pkcs8().unwrap())).unwrap();
        self.know_authorities();
    }

    /// Agents of the old authorities may still come to renew.
    fn know_authorities(&self) {
        let mut known = self.known.lock().unwrap();
        known.x509_authorities.extend(self.bundle().x509_authorities);
        self.roots.set(TrustRoots::of([&*known]));
    }

    pub(crate) async fn listen(self: &Arc<Self>, address: Option<SocketAddr>) -> Listening {
        let auth = ClientAuth::Lenient(self.roots.clone(), Expect::Anyone, RENEWAL_GRACE);
        let config = server_config(&self.cell, auth, self.clock.clone()).unwrap();
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TlsListener::bind(address, Arc::new(config), Limits::default()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Routes::new(agent::v1::agent_server::AgentServer::from_arc(Arc::clone(self)))
            .add_service(entry::v1::entry_server::EntryServer::from_arc(Arc::clone(self)))
            .add_service(bundle::v1::bundle_server::BundleServer::from_arc(Arc::clone(self)))
            .add_service(svid::v1::svid_server::SvidServer::from_arc(Arc::clone(self)))
            .add_service(RevisionsServer::from_arc(Arc::clone(self)));
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let options = grpc::Options { drain: Duration::ZERO, ..grpc::Options::default() };
        tasks.spawn(grpc::serve(listener, routes, cancel.clone(), options, Entropy::from_seed(1)));
        Listening { address, cancel, tasks }
    }

    pub(crate) fn put(&self, id: &str, selectors: &[String], change: impl FnOnce(&mut types::Entry)) {
        let mut entries = self.entries.lock().unwrap();
        let before = entries.remove(id);
        let mut entry = types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(types::Spiffeid { trust_domain: "example.org".into(), path: format!("/{id}") }),
            parent_id: Some(types::Spiffeid { trust_domain: "example.org".into(), path: "/parent".into() }),
            selectors: selectors
                .iter()
                .map(|text| text.split_once(':').unwrap())
                .map(|(kind, value)| types::Selector { r#type: kind.into(), value: value.into() })
                .collect(),
            revision_number: before.map_or(0, |before| before.revision_number + 1),
            created_at: 1,
            ..types::Entry::default()
        };
        change(&mut entry);
        entries.insert(id.to_owned(), entry);
        drop(entries);
        self.pushing.changed();
    }

    pub(crate) fn remove(&self, id: &str) {
        self.entries.lock().unwrap().remove(id);
        self.pushing.changed();
    }

    pub(crate) fn issue(&self, id: &SpiffeId, public_key: &[u8], ttl: Duration) -> Issued {
        let ca = Arc::clone(&self.authorities.lock().unwrap().ca);
        let template = SvidTemplate {
            spiffe_id: id,
            public_key_der: public_key,
            dns_names: &[],
            ttl,
            now: self.clock.now(),
            subject: None,
        };
        issue_svid_now(&ca, &template).unwrap().unwrap()
    }

    /// What every call of an agent goes through. Only a renewal is open to an SVID that ended.
    async fn admit<T>(&self, request: &Request<T>, may_have_ended: bool) -> Result<(), Status> {
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let peer = request.extensions().get::<TlsPeer>().unwrap();
        let svid = peer.svid.as_ref().ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        let now = self.clock.unix_now();
        let valid = svid.not_before <= now && now < svid.not_after;
        if !(valid || may_have_ended) {
            return Err(denied(Reason::AgentExpired, "authorization denied"));
        }
        match *self.denial.lock().unwrap() {
            Some(reason) => Err(denied(reason, "authorization denied")),
            None => Ok(()),
        }
    }

    fn agent_svid(&self, id: &SpiffeId, csr: &[u8]) -> types::X509svid {
        let csr = parse_csr(csr, VerifyProofOfPossession::No).unwrap();
        self.proto(id, &self.issue(id, &csr.public_key_der, Duration::from_secs(3600)))
    }

    fn proto(&self, id: &SpiffeId, issued: &Issued) -> types::X509svid {
        types::X509svid {
            cert_chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            id: Some(spiffe_id_to_proto(id)),
            expires_at: issued.not_after,
            hint: String::new(),
        }
    }
}

async fn authorities(trust_domain: &TrustDomain, clock: &Clock, sequence_number: u64) -> Authorities {
    let now = clock.unix_now();
    let key: Arc<dyn Signer> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let subject = Subject::ca_default();
    let template = CaTemplate { trust_domain, subject: &subject, now, not_after: now + 24 * 3600 };
    let der: Arc<[u8]> = self_signed_ca(key.as_ref(), &template).await.unwrap().into();
    let ca = Arc::new(X509Ca::new(trust_domain.clone(), der.clone(), Vec::new(), key, now).unwrap());
    let key: Arc<dyn Signer> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let kid = format!("kid-{sequence_number}");
    let mut bundle = Bundle::new(trust_domain.clone());
    bundle.sequence_number = sequence_number;
    bundle.x509_authorities.push(X509Authority::parse(der).unwrap());
    bundle
        .jwt_authorities
        .push(JwtAuthority::parse(&kid, key.public_key_der().to_vec(), now + 24 * 3600).unwrap());
    let jwt = JwtKey::new(trust_domain.clone(), key, kid, now, now + 24 * 3600);
    Authorities { ca, jwt, bundle }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

macro_rules! unused {
    ($($name:ident($request:ty) -> $response:ty;)*) => {$(
        fn $name<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(std::future::ready(Err(Status::unimplemented(""))))
        }
    )*};
}

// After the macro, which it uses.
mod issuing;
mod pushing;

use pushing::Pushing;

#[tonic::async_trait]
impl agent::v1::agent_server::Agent for Fake {
    type AttestAgentStream = Answers<agent::v1::AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<agent::v1::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        use agent::v1::{attest_agent_request::Step as Ask, attest_agent_response as answer};
        self.attestations_asked.fetch_add(1, Ordering::SeqCst);
        let mut asks = request.into_inner();
        let first = asks.message().await?.and_then(|message| message.step);
        let Some(Ask::Params(params)) = first else { return Err(Status::invalid_argument("no params")) };
        let data = params.data.unwrap();
        let csr = params.params.unwrap().csr;
        let done = move |fake: &Self, path: &str, reattestable: bool| {
            let id = SpiffeId::agent(&fake.trust_domain, path).unwrap();
            fake.attestations.fetch_add(1, Ordering::SeqCst);
            if fake.attesting_helps.load(Ordering::SeqCst) {
                *fake.denial.lock().unwrap() = None;
            }
            let svid = Some(fake.agent_svid(&id, &csr));
            let step = Some(answer::Step::Result(answer::Result { svid, reattestable }));
            agent::v1::AttestAgentResponse { step }
        };
        if data.r#type == "x509pop" {
            if self.refuse_pop.load(Ordering::SeqCst) {
                return Err(Status::permission_denied("failed to attest: certificate verification failed"));
            }
            let (challenge, proof) = pop::challenge(&data.payload);
            let step = Some(answer::Step::Challenge(challenge.into()));
            let challenge = stream::iter([Ok(agent::v1::AttestAgentResponse { step })]);
            let fake = Arc::clone(self.this.get().unwrap());
            let result = stream::once(async move {
                match asks.message().await?.and_then(|message| message.step) {
                    Some(Ask::ChallengeResponse(answer)) if proof.verify(&answer) => {
                        Ok(done(&fake, "x509pop/node", true))
                    }
                    _ => Err(Status::permission_denied("challenge response verification failed")),
                }
            });
            return Ok(Response::new(challenge.chain(result).boxed()));
        }
        assert_eq!(data.r#type, "join_token");
        let token = String::from_utf8(data.payload.to_vec()).unwrap();
        if !self.tokens.lock().unwrap().remove(&token) {
            return Err(Status::invalid_argument(
                "failed to attest: join token does not exist or has already been used",
            ));
        }
        let result = done(self, &format!("join_token/{token}"), false);
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn renew_agent(
        &self,
        request: Request<agent::v1::RenewAgentRequest>,
    ) -> Result<Response<agent::v1::RenewAgentResponse>, Status> {
        self.renewals_asked.fetch_add(1, Ordering::SeqCst);
        self.admit(&request, true).await?;
        if self.must_reattest.load(Ordering::SeqCst) {
            return Err(denied(Reason::AgentMustReattest, "agent must reattest instead of renew"));
        }
        self.renewals.fetch_add(1, Ordering::SeqCst);
        let id = SpiffeId::agent(&self.trust_domain, &format!("join_token/{TOKEN}")).unwrap();
        let svid = self.agent_svid(&id, &request.into_inner().params.unwrap().csr);
        self.answer_renewals.subscribe().wait_for(|now| *now).await.unwrap();
        Ok(Response::new(agent::v1::RenewAgentResponse { svid: Some(svid) }))
    }

    async fn post_status(
        &self,
        request: Request<agent::v1::PostStatusRequest>,
    ) -> Result<Response<agent::v1::PostStatusResponse>, Status> {
        self.admit(&request, false).await?;
        self.posted.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(agent::v1::PostStatusResponse {}))
    }

    unused! {
        count_agents(agent::v1::CountAgentsRequest) -> agent::v1::CountAgentsResponse;
        list_agents(agent::v1::ListAgentsRequest) -> agent::v1::ListAgentsResponse;
        get_agent(agent::v1::GetAgentRequest) -> types::Agent;
        delete_agent(agent::v1::DeleteAgentRequest) -> ();
        ban_agent(agent::v1::BanAgentRequest) -> ();
        create_join_token(agent::v1::CreateJoinTokenRequest) -> types::JoinToken;
    }
}

#[tonic::async_trait]
impl entry::v1::entry_server::Entry for Fake {
    type SyncAuthorizedEntriesStream = Answers<entry::v1::SyncAuthorizedEntriesResponse>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry::v1::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        self.admit(&request, false).await?;
        self.pushing.syncs.fetch_add(1, Ordering::SeqCst);
        let all = self.entries.lock().unwrap().clone();
        let mut requests = request.into_inner();
        requests.message().await?;
        let page = self.whole_list.load(Ordering::SeqCst);
        if all.len() <= page {
            let whole = entry::v1::SyncAuthorizedEntriesResponse {
                entries: all.into_values().collect(),
                ..Default::default()
            };
            return Ok(Response::new(stream::iter([Ok(whole)]).boxed()));
        }
        let revisions: Vec<_> = all
            .values()
            .map(|entry| entry::v1::EntryRevision {
                id: entry.id.clone(),
                revision_number: entry.revision_number,
                created_at: entry.created_at,
            })
            .collect();
        let count = revisions.chunks(page).len();
        let pages: Vec<_> = revisions
            .chunks(page)
            .enumerate()
            .map(|(at, page)| {
                let (entry_revisions, more) = (page.to_vec(), at + 1 < count);
                Ok(entry::v1::SyncAuthorizedEntriesResponse { entry_revisions, entries: Vec::new(), more })
            })
            .collect();
        let answers = requests.map(move |request| {
            let entries = request?.ids.iter().filter_map(|id| all.get(id).cloned()).collect();
            Ok(entry::v1::SyncAuthorizedEntriesResponse { entries, ..Default::default() })
        });
        Ok(Response::new(stream::iter(pages).chain(answers).boxed()))
    }

    unused! {
        count_entries(entry::v1::CountEntriesRequest) -> entry::v1::CountEntriesResponse;
        list_entries(entry::v1::ListEntriesRequest) -> entry::v1::ListEntriesResponse;
        get_entry(entry::v1::GetEntryRequest) -> types::Entry;
        batch_create_entry(entry::v1::BatchCreateEntryRequest) -> entry::v1::BatchCreateEntryResponse;
        batch_update_entry(entry::v1::BatchUpdateEntryRequest) -> entry::v1::BatchUpdateEntryResponse;
        batch_delete_entry(entry::v1::BatchDeleteEntryRequest) -> entry::v1::BatchDeleteEntryResponse;
        get_authorized_entries(entry::v1::GetAuthorizedEntriesRequest) -> entry::v1::GetAuthorizedEntriesResponse;
    }
}

#[tonic::async_trait]
impl bundle::v1::bundle_server::Bundle for Fake {
    async fn get_bundle(
        &self,
        _: Request<bundle::v1::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let refused =
            self.bundle_refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refused.is_ok() {
            return Err(Status::internal("the bundle is not to be had"));
        }
        Ok(Response::new(bundle_to_proto(&self.bundle(), None)))
    }

    unused! {
        count_bundles(bundle::v1::CountBundlesRequest) -> bundle::v1::CountBundlesResponse;
        append_bundle(bundle::v1::AppendBundleRequest) -> types::Bundle;
        publish_jwt_authority(bundle::v1::PublishJwtAuthorityRequest) -> bundle::v1::PublishJwtAuthorityResponse;
        publish_wit_authority(bundle::v1::PublishWitAuthorityRequest) -> bundle::v1::PublishWitAuthorityResponse;
        list_federated_bundles(bundle::v1::ListFederatedBundlesRequest) -> bundle::v1::ListFederatedBundlesResponse;
        get_federated_bundle(bundle::v1::GetFederatedBundleRequest) -> types::Bundle;
        batch_create_federated_bundle(bundle::v1::BatchCreateFederatedBundleRequest) -> bundle::v1::BatchCreateFederatedBundleResponse;
        batch_update_federated_bundle(bundle::v1::BatchUpdateFederatedBundleRequest) -> bundle::v1::BatchUpdateFederatedBundleResponse;
        batch_set_federated_bundle(bundle::v1::BatchSetFederatedBundleRequest) -> bundle::v1::BatchSetFederatedBundleResponse;
        batch_delete_federated_bundle(bundle::v1::BatchDeleteFederatedBundleRequest) -> bundle::v1::BatchDeleteFederatedBundleResponse;
    }
}
