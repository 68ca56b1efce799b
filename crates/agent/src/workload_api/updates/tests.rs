//! Streams over a state that the test edits; no server, no socket, paused time.

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use prost::Message;
use tonic::metadata::MetadataValue;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_proto::workload::X509svidResponse;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::selector::Selector;
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::attest::{AttestorError, Attestors, WorkloadAttestor};
use crate::bundles::Bundles;
use crate::callers::Caller;
use crate::entries::EntryIndex;
use crate::entries::tests::entry;
use crate::identities::Identities;
use crate::identities::tests::svid;
use crate::identity_set::IdentitySets;
use crate::jwt_cache::JwtCache;
use crate::jwt_issue::JwtIssuer;
use crate::limits::{CallerLimits, LimitsConfig};
use crate::metrics::Metrics;
use crate::server_client::ServerClient;
use crate::status::{Phase, StatusBoard};
use crate::workload_api::request::Connections;

struct Always(&'static str);

#[async_trait]
impl WorkloadAttestor for Always {
    fn name(&self) -> &'static str {
        "always"
    }

    async fn attest(&self, _: &PeerProcess) -> Result<Vec<Selector>, AttestorError> {
        Ok(vec![Selector::parse(self.0).unwrap()])
    }
}

pub(crate) fn api() -> Arc<Api> {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let clock = Clock::derived(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
    let metrics = Metrics::new(Registry::new("spire_agent", &[]));
    let identities = Arc::new(Identities::default());
    let client = ServerClient::new(
        ("localhost:1".to_owned(), trust_domain.clone()),
        (SvidCell::empty(), RootsCell::new(TrustRoots::new())),
        clock.clone(),
        Entropy::from_seed(1),
    );
    let board = StatusBoard::default();
    board.set(|status| status.phase = Phase::Serving);
    Arc::new(Api {
        sets: IdentitySets::default(),
        attestors: Attestors::new(vec![Arc::new(Always("unix:uid:1"))], &metrics),
        jwt: JwtIssuer::new(JwtCache::new(10), Arc::new(client), Arc::clone(&identities), clock.clone()),
        identities,
        clock,
        serving: board.serving(),
        trust_domain,
        allow_unauthenticated_verifiers: false,
        allowed_foreign_jwt_claims: std::collections::HashSet::new(),
        log_selectors: Vec::new(),
        soon: crate::sync_loop::SyncSoon::new(Duration::from_secs(5)),
        limits: crate::limits::CallerLimits::default(),
        refusals: crate::refusals::Refusals::default(),
        connections: Connections::new(metrics.workload_api_connections()),
    })
}

pub(crate) fn entries(api: &Api, ids: &[&str]) {
    api.identities.edit(|snapshot| {
        let list = ids.iter().map(|id| entry(id, &["unix:uid:1"]));
        snapshot.index = Arc::new(EntryIndex::build(list, &snapshot.index));
        let bundle = Bundle::new(api.trust_domain.clone());
        snapshot.bundles.get_or_insert_with(|| Arc::new(Bundles::of(bundle)));
        true
    });
}

fn issue(api: &Api, ids: &[(&str, i64)]) {
    api.identities.edit(|snapshot| {
        let mut svids: HashMap<_, _> = (*snapshot.svids).clone();
        svids.extend(ids.iter().map(|(id, end)| (EntryId::parse(id).unwrap(), svid(id, *end))));
        snapshot.svids = Arc::new(svids);
        true
    });
}

pub(crate) fn request() -> Request<()> {
    let mut request = Request::new(());
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let (socket, _other_end) = std::os::unix::net::UnixStream::pair().unwrap();
    request.extensions_mut().insert(Arc::new(Caller::new(PeerProcess::of(&socket).unwrap())));
    request
}

fn served(message: Option<Result<Bytes, Status>>) -> Vec<String> {
    let response = X509svidResponse::decode(message.unwrap().unwrap()).unwrap();
    response.svids.into_iter().map(|svid| svid.spiffe_id.replace("spiffe://example.org/", "")).collect()
}

async fn open(api: &Arc<Api>) -> Result<Updates, Status> {
    Updates::open(Arc::clone(api), Kind::X509Svids, &request()).await
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_waits_for_every_identity_and_asks_for_them() {
    let api = api();
    entries(&api, &["a", "b"]);
    issue(&api, &[("a", 10_000)]);
    let issuer = async {
        api.identities.asked().await;
        assert_eq!(api.identities.load().index.get("b").unwrap().usage.streams(), 1, "it counts as wanted");
        issue(&api, &[("b", 10_000)]);
    };
    let (stream, ()) = tokio::join!(open(&api), issuer);
    assert_eq!(served(stream.unwrap().next().await), ["a", "b"]);
    assert_eq!(api.identities.load().index.get("b").unwrap().usage.streams(), 0, "the stream is gone");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_never_issued_does_not_keep_the_others_for_ever() {
    let api = api();
    entries(&api, &["a", "b"]);
    issue(&api, &[("a", 10_000)]);
    let start = Instant::now();
    let mut stream = open(&api).await.unwrap();
    assert_eq!(start.elapsed(), PARTIAL_ANSWER_DEADLINE);
    assert_eq!(served(stream.next().await), ["a"]);

    // A renewal of what is held comes through as well.
    let changed = Instant::now();
    assert!(stream.next().now_or_never().is_none());
    issue(&api, &[("a", 20_000)]);
    api.identities.edit(|snapshot| {
        let svids = Arc::make_mut(&mut snapshot.svids);
        let renewed = HeldSvidOf(&svids["a"]).with_chain(b"renewed");
        svids.insert(EntryId::parse("a").unwrap(), renewed);
        true
    });
    assert_eq!(served(stream.next().await), ["a"]);
    assert!(changed.elapsed() <= FIRST_ANSWER_DEADLINE, "{:?}", changed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_later_answer_waits_for_a_new_identity_as_the_first_does() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000)]);
    let mut stream = open(&api).await.unwrap();
    assert_eq!(served(stream.next().await), ["a"]);
    entries(&api, &["a", "b", "c"]);
    issue(&api, &[("b", 10_000)]);
    assert!(stream.next().now_or_never().is_none(), "two of three");
    issue(&api, &[("c", 10_000)]);
    assert_eq!(served(stream.next().await), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_at_all_after_the_wait_is_unavailable_and_not_denied() {
    let api = api();
    entries(&api, &["a"]);
    assert_eq!(open(&api).await.unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_none_for_this_caller_sends_nothing() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000)]);
    let mut stream = open(&api).await.unwrap();
    assert_eq!(served(stream.next().await), ["a"]);
    assert!(stream.next().now_or_never().is_none());
    issue(&api, &[("elsewhere", 10_000)]);
    assert!(stream.next().now_or_never().is_none());
    entries(&api, &[]);
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (tonic::Code::PermissionDenied, "no identity issued"));
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_change_between_the_first_answer_and_the_watch_is_not_lost() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000)]);
    let mut stream = open(&api).await.unwrap();
    entries(&api, &["a", "b"]);
    issue(&api, &[("b", 10_000)]);
    assert_eq!(served(stream.next().await), ["a"]);
    assert_eq!(served(stream.next().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_agent_ends_its_streams() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000)]);
    let mut stream = open(&api).await.unwrap();
    stream.next().await;
    api.identities.close();
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
}

/// A request of a process that is not the agent's own.
fn foreign_request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request.extensions_mut().insert(Arc::new(Caller::new(PeerProcess::of_pid(1).unwrap())));
    request
}

fn limited(config: LimitsConfig) -> Arc<Api> {
    let mut api = api();
    let metrics = Metrics::new(Registry::new("spire_agent", &[]));
    Arc::get_mut(&mut api).unwrap().limits = CallerLimits::new(&config, &metrics);
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000)]);
    api
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_too_often_is_told_so_for_each_method() {
    let api = limited(LimitsConfig {
        fetch_x509_svid: 1,
        fetch_x509_bundles: 1,
        fetch_jwt_bundles: 1,
        fetch_jwt_svid: 1,
        ..LimitsConfig::default()
    });
    let too_often = |status: Status, method: &str| {
        let text = format!("rate limit exceeded for /SpiffeWorkloadAPI/{method}");
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, text.as_str()));
    };
    for (kind, method) in [
        (Kind::X509Svids, "FetchX509SVID"),
        (Kind::X509Bundles, "FetchX509Bundles"),
        (Kind::JwtBundles, "FetchJWTBundles"),
    ] {
        assert!(Updates::open(Arc::clone(&api), kind, &foreign_request(())).await.is_ok());
        too_often(Updates::open(Arc::clone(&api), kind, &foreign_request(())).await.unwrap_err(), method);
        assert!(Updates::open(Arc::clone(&api), kind, &request()).await.is_ok(), "the agent itself may");
    }
    entries(&api, &[]);
    let token = || {
        let audience = vec!["a".to_owned()];
        let message = vouchsafe_proto::workload::JwtsvidRequest { audience, spiffe_id: String::new() };
        crate::workload_api::jwt::fetch(&api, foreign_request(message))
    };
    assert_eq!(token().await.unwrap_err().code(), tonic::Code::PermissionDenied);
    too_often(token().await.unwrap_err(), "FetchJWTSVID");
}

/// Counts lines of the log and remembers the fields of the last one.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<(usize, String)>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        if fields.0.contains("No identity issued") {
            let mut log = self.0.lock().unwrap();
            *log = (log.0 + 1, fields.0);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_is_refused_again_and_again_does_not_fill_the_log() {
    let api = api();
    entries(&api, &[]);
    let log = Log::default();
    let _installed = tracing::subscriber::set_default(log.clone());
    for _ in 0..500 {
        assert_eq!(open(&api).await.unwrap_err().message(), "no identity issued");
    }
    assert_eq!(log.0.lock().unwrap().0, 1);
    tokio::time::advance(crate::refusals::QUIET).await;
    assert!(open(&api).await.is_err());
    let (lines, last) = log.0.lock().unwrap().clone();
    assert_eq!(lines, 2);
    assert!(
        last.contains("unlogged=499") && last.contains("registered=false") && last.contains("pid="),
        "{last}"
    );
}

struct HeldSvidOf<'a>(&'a crate::identities::HeldSvid);

impl HeldSvidOf<'_> {
    fn with_chain(&self, chain: &'static [u8]) -> Arc<crate::identities::HeldSvid> {
        Arc::new(crate::identities::HeldSvid {
            spiffe_id: self.0.spiffe_id.clone(),
            issued_for: self.0.issued_for,
            chain: Bytes::from_static(chain),
            key: self.0.key.clone(),
            lifetime: self.0.lifetime,
            authority_key_id: None,
        })
    }
}
