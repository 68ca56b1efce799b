//! A whole agent against a fake server, over real sockets: this process is the workload.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod fake_server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use vouchsafe_agent::{Agent, AgentStatus, Bootstrap, Config, Deps, Phase};
use vouchsafe_ca::key_manager::Disk;
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
    X509svidResponse,
};
use vouchsafe_runtime::clock::{Clock, ClockHandle};
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::supervisor::{self, Supervisor};
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_types::jwt_svid::JwtSvid;
use vouchsafe_types::x509_svid::X509Svid;

use fake_server::{Fake, Listening, TOKEN};

const SOON: Duration = Duration::from_secs(20);

/// A server, and a directory for agents that come and go.
struct World {
    fake: Arc<Fake>,
    server: Option<Listening>,
    dir: tempfile::TempDir,
    clock: Clock,
    hands: ClockHandle,
}

struct RunningAgent {
    client: SpiffeWorkloadApiClient<Channel>,
    status: tokio::sync::watch::Receiver<AgentStatus>,
    registry: Registry,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinSet<Result<(), supervisor::Error>>,
}

impl World {
    async fn new() -> Self {
        let (clock, hands) = Clock::steerable(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
        let fake = Fake::new(clock.clone()).await;
        let server = Some(fake.listen(None).await);
        Self { fake, server, dir: tempfile::tempdir().unwrap(), clock, hands }
    }

    async fn stop_server(&mut self) -> std::net::SocketAddr {
        let server = self.server.take().unwrap();
        let address = server.address;
        server.stop().await;
        address
    }

    fn config(&self, address: String) -> Config {
        let keys = Arc::new(Disk::open(self.dir.path().join("keys.json")).unwrap());
        let mut config =
            Config::new(self.fake.trust_domain.clone(), address, self.dir.path().to_owned(), keys);
        config.join_token = Some(TOKEN.into());
        let fake = Arc::clone(&self.fake);
        config.bootstrap = Bootstrap::Source(Arc::new(move || Ok(fake.bundle())));
        config.sync_interval = Duration::from_millis(200);
        config.socket_path = self.dir.path().join("public/api.sock");
        config
    }

    async fn start(&self) -> RunningAgent {
        let address =
            self.server.as_ref().map_or("127.0.0.1:1".to_owned(), |server| server.address.to_string());
        self.start_with(self.config(address)).await
    }

    async fn start_with(&self, config: Config) -> RunningAgent {
        let registry = Registry::new("spire_agent", &[]);
        let deps = Deps {
            clock: self.clock.clone(),
            entropy: Entropy::from_seed(7),
            registry: registry.clone(),
            readiness: Readiness::new(self.clock.clone()),
            log_level: LogLevelControl::default(),
        };
        let mut supervisor = Supervisor::new();
        let running = Agent::start(config, deps, &mut supervisor).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut ended = tokio::task::JoinSet::new();
        ended.spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            supervisor.run(shutdown, Duration::from_secs(5)).await
        });
        RunningAgent {
            client: connect(&running.socket_path).await,
            status: running.status,
            registry,
            stop,
            ended,
        }
    }
}

async fn connect(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(uds_channel(socket).await.unwrap())
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn own_uid() -> Vec<String> {
    vec![format!("unix:uid:{}", nix::unistd::geteuid())]
}

impl RunningAgent {
    async fn serving(&mut self) {
        let serving = self.status.wait_for(|status| status.phase == Phase::Serving);
        timeout(SOON, serving).await.expect("serving in time").expect("the agent lives");
    }

    /// Waits until the agent serves, and opens a stream.
    async fn x509(&mut self) -> Streaming<X509svidResponse> {
        self.serving().await;
        self.client.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner()
    }

    async fn x509_once(&mut self) -> Result<X509svidResponse, Status> {
        let mut stream = self.client.fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
        stream.message().await.map(|message| message.expect("a first message"))
    }

    async fn jwt(&mut self, audience: &[&str]) -> Result<Vec<String>, Status> {
        let audience = audience.iter().map(|text| (*text).to_owned()).collect();
        let request = with_header(JwtsvidRequest { audience, spiffe_id: String::new() });
        let response = self.client.fetch_jwtsvid(request).await?.into_inner();
        Ok(response.svids.into_iter().map(|svid| svid.svid).collect())
    }

    async fn stop(mut self) -> Result<(), supervisor::Error> {
        drop(self.stop);
        self.ended.join_next().await.unwrap().unwrap()
    }
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> X509svidResponse {
    timeout(SOON, stream.message()).await.expect("a message in time").unwrap().expect("the stream goes on")
}

fn ids(response: &X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

fn leaf(response: &X509svidResponse) -> X509Svid {
    let chain = vouchsafe_types::certificate::split(&response.svids[0].x509_svid).unwrap();
    X509Svid::parse(chain).unwrap()
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_workload_gets_its_identities_and_every_change_of_them() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |entry| entry.hint = "main".into());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let first = next(&mut stream).await;
    assert_eq!(ids(&first), ["spiffe://example.org/web"]);
    assert_eq!(first.svids[0].hint, "main");
    assert_eq!(first.svids[0].bundle, world.fake.bundle().x509_concatenated());
    assert!(vouchsafe_ca::key::PrivateKey::from_pkcs8(&first.svids[0].x509_svid_key).is_ok());

    world.fake.put("api", &own_uid(), |_| ());
    let both = next(&mut stream).await;
    assert_eq!(
        ids(&both),
        ["spiffe://example.org/api", "spiffe://example.org/web"],
        "only when both are issued"
    );

    world.fake.remove("api");
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/web"]);
    world.fake.remove("web");
    let end = timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::PermissionDenied, "no identity issued"));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_lags_behind_withdraws_nothing() {
    let world = World::new().await;
    world.fake.put("api", &own_uid(), |_| ());
    world.fake.put("web", &own_uid(), |_| ());
    let before = world.fake.entries.lock().unwrap().get("web").cloned().unwrap();
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    assert_eq!(ids(&next(&mut stream).await).len(), 2);

    // A replica that has neither the change of one entry nor the other entry.
    *world.fake.entries.lock().unwrap() = [("web".to_owned(), before.clone())].into();
    let noticed = agent.status.wait_for(|status| status.sync_error.is_some());
    timeout(SOON, noticed).await.unwrap().unwrap();
    assert_eq!(agent.x509_once().await.unwrap().svids.len(), 2);

    // It catches up, and now the withdrawal counts.
    let after = vouchsafe_proto::spire::api::types::Entry { revision_number: 2, ..before };
    *world.fake.entries.lock().unwrap() = [("web".to_owned(), after)].into();
    while next(&mut stream).await.svids.len() != 1 {}
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn many_entries_come_in_pages_and_their_svids_ahead_of_need() {
    let world = World::new().await;
    world.fake.whole_list.store(7, Ordering::SeqCst);
    for n in 0..40 {
        world.fake.put(&format!("e{n:02}"), &["unix:uid:4294967294".to_owned()], |_| ());
    }
    world.fake.put("mine", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let fake = Arc::clone(&world.fake);
    eventually("issuing ahead of need", move || fake.issued.load(Ordering::SeqCst) == 41).await;
    assert_eq!(ids(&agent.x509_once().await.unwrap()), ["spiffe://example.org/mine"]);
    let metrics = agent.registry.render();
    assert!(metrics.contains("spire_agent_sync_entries_total 41"), "{metrics}");
    assert!(metrics.contains("spire_agent_manager_sync_fetch_entries_updates{status=\"OK\"}"), "{metrics}");
    sleep(Duration::from_millis(600)).await;
    assert_eq!(world.fake.issued.load(Ordering::SeqCst), 41, "nothing is issued twice");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn requests_that_cannot_be_answered_say_why() {
    let world = World::new().await;
    let mut agent = world.start().await;
    agent.serving().await;
    let refused = |code: Code, message: &str, status: Status| {
        assert_eq!((status.code(), status.message()), (code, message))
    };

    let bare = agent.client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    refused(Code::InvalidArgument, "security header missing from request", bare);
    let mut twice = with_header(X509BundlesRequest {});
    twice.metadata_mut().append("workload.spiffe.io", MetadataValue::from_static("true"));
    let twice = agent.client.fetch_x509_bundles(twice).await.unwrap_err();
    refused(Code::InvalidArgument, "security header missing from request", twice);
    refused(Code::PermissionDenied, "no identity issued", agent.x509_once().await.unwrap_err());
    refused(Code::InvalidArgument, "audience must be specified", agent.jwt(&[]).await.unwrap_err());
    refused(Code::PermissionDenied, "no identity issued", agent.jwt(&["a"]).await.unwrap_err());
    let bad_id = with_header(JwtsvidRequest { audience: vec!["a".into()], spiffe_id: "nonsense".into() });
    let bad_id = agent.client.fetch_jwtsvid(bad_id).await.unwrap_err();
    assert!(
        bad_id.code() == Code::InvalidArgument
            && bad_id.message().starts_with("invalid requested SPIFFE ID: ")
    );
    let no_svid = ValidateJwtsvidRequest { audience: "a".into(), svid: String::new() };
    let no_svid = agent.client.validate_jwtsvid(with_header(no_svid)).await.unwrap_err();
    refused(Code::InvalidArgument, "svid must be specified", no_svid);
    let bundles = agent.client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap_err();
    refused(Code::PermissionDenied, "no identity issued", bundles);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn without_identity_the_own_bundle_is_given_only_where_that_is_allowed() {
    let world = World::new().await;
    let address = world.server.as_ref().unwrap().address.to_string();
    let config = Config { allow_unauthenticated_verifiers: true, ..world.config(address) };
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    let mut bundles =
        agent.client.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.unwrap().into_inner();
    let message = bundles.message().await.unwrap().unwrap();
    assert_eq!(message.bundles["spiffe://example.org"], world.fake.bundle().x509_concatenated());
    let mut bundles =
        agent.client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap().into_inner();
    let keys: serde_json::Value =
        serde_json::from_slice(&bundles.message().await.unwrap().unwrap().bundles["spiffe://example.org"])
            .unwrap();
    assert_eq!(keys["keys"][0]["kid"], "kid-1");
    assert_eq!(agent.x509_once().await.unwrap_err().code(), Code::PermissionDenied);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_is_issued_once_validated_and_renewed_while_the_old_one_is_still_handed_out() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let token = agent.jwt(&["b", "a"]).await.unwrap();
    assert_eq!(agent.jwt(&["a", "b"]).await.unwrap(), token, "the order of the audience does not matter");
    assert_eq!(world.fake.jwts.load(Ordering::SeqCst), 1);

    let validate = ValidateJwtsvidRequest { audience: "a".into(), svid: token[0].clone() };
    let valid = agent.client.validate_jwtsvid(with_header(validate.clone())).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/web");
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    let other = ValidateJwtsvidRequest { audience: "c".into(), ..validate };
    let invalid = agent.client.validate_jwtsvid(with_header(other)).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);

    world.hands.jump(200);
    let fake = Arc::clone(&world.fake);
    eventually("renewal ahead of the end", move || fake.jwts.load(Ordering::SeqCst) == 2).await;
    sleep(Duration::from_millis(100)).await;
    assert_ne!(agent.jwt(&["a", "b"]).await.unwrap(), token);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_asked_for_before_its_entry_changed_is_given_to_nobody_who_asks_after() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    world.fake.hand_out_jwts.send_replace(false);
    let mut early = connect(&world.config(String::new()).socket_path).await;
    let request = with_header(JwtsvidRequest { audience: vec!["a".into()], spiffe_id: String::new() });
    let mut before = tokio::task::JoinSet::new();
    before.spawn(async move { early.fetch_jwtsvid(request).await });
    let fake = Arc::clone(&world.fake);
    eventually("the first request", move || fake.jwts.load(Ordering::SeqCst) == 1).await;

    world.fake.put("web", &own_uid(), |entry| entry.spiffe_id.as_mut().unwrap().path = "/other".into());
    while ids(&agent.x509_once().await.unwrap()) != ["spiffe://example.org/other"] {}
    let release = async {
        sleep(Duration::from_millis(300)).await;
        world.fake.hand_out_jwts.send_replace(true);
    };
    let (after, ()) = tokio::join!(agent.jwt(&["a"]), release);
    let subject = |token: &str| JwtSvid::parse_unverified(token).unwrap().id.to_string();
    assert_eq!(subject(&after.unwrap()[0]), "spiffe://example.org/other");
    assert_eq!(
        subject(&before.join_next().await.unwrap().unwrap().unwrap().into_inner().svids[0].svid),
        "spiffe://example.org/web"
    );
    let cached = agent.jwt(&["a"]).await.unwrap();
    assert_eq!(subject(&cached[0]), "spiffe://example.org/other", "the late one did not replace it");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_workload_that_asks_for_ever_new_audiences_keeps_no_other_from_its_token() {
    let world = World::new().await;
    world.fake.put("noisy", &own_uid(), |_| ());
    world.fake.put("quiet", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    world.fake.hand_out_jwts.send_replace(false);
    let token = |id: &str, audience: String| {
        let spiffe_id = format!("spiffe://example.org/{id}");
        let request = with_header(JwtsvidRequest { audience: vec![audience], spiffe_id });
        let mut client = agent.client.clone();
        async move { client.fetch_jwtsvid(request).await }
    };
    // It gives up at once and asks again.
    for n in 0..300 {
        drop(timeout(Duration::from_millis(2), token("noisy", n.to_string())).await);
    }
    let fake = Arc::clone(&world.fake);
    let asked = move |id: &str| fake.jwts_asked.lock().unwrap().iter().filter(|asked| *asked == id).count();
    let mut quiet = tokio::task::JoinSet::new();
    quiet.spawn(token("quiet", "a".to_owned()));
    eventually("the other's request", || asked("quiet") == 1).await;
    assert!((1..=16).contains(&asked("noisy")), "{} requests for one entry", asked("noisy"));
    world.fake.hand_out_jwts.send_replace(true);
    quiet.join_next().await.unwrap().unwrap().unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_hanging_server_delays_nothing_that_is_held() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let token = agent.jwt(&["a"]).await.unwrap();
    let svid = agent.x509_once().await.unwrap();
    world.fake.hang.store(true, Ordering::SeqCst);
    world.hands.jump(200);
    sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(agent.jwt(&["a"]).await.unwrap(), token);
        assert_eq!(agent.x509_once().await.unwrap(), svid);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_svid_is_renewed_at_half_of_its_life_with_a_new_key() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let first = next(&mut stream).await;
    world.hands.jump(1_500);
    assert!(timeout(Duration::from_secs(6), stream.message()).await.is_err(), "too early");
    world.hands.jump(500);
    let second = next(&mut stream).await;
    assert_ne!(leaf(&first).serial, leaf(&second).serial);
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    let fake = Arc::clone(&world.fake);
    eventually("renewal of the agent's own SVID", move || fake.renewals.load(Ordering::SeqCst) == 1).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_restarted_agent_serves_from_its_last_state_while_the_server_is_away() {
    let mut world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let svid = agent.x509_once().await.unwrap();
    let token = agent.jwt(&["a"]).await.unwrap();
    agent.stop().await.unwrap();
    let address = world.stop_server().await;

    let mut agent = world.start().await;
    assert_eq!(agent.status.borrow().phase, Phase::Serving, "at once");
    assert_eq!(agent.x509_once().await.unwrap(), svid);
    assert_eq!(agent.jwt(&["a"]).await.unwrap(), token);
    agent.stop().await.unwrap();

    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.dir.path().join("agent-state.sealed")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    // The server comes back: the same SVID goes on, and news arrive.
    world.server = Some(world.fake.listen(Some(address)).await);
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    assert_eq!(next(&mut stream).await, svid);
    world.fake.put("web", &own_uid(), |entry| entry.hint = "new".into());
    let renewed = loop {
        let message = next(&mut stream).await;
        if message.svids[0].x509_svid != svid.svids[0].x509_svid {
            break message;
        }
    };
    assert_eq!(renewed.svids[0].hint, "new");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_at_first_is_waited_for() {
    let mut world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let address = world.stop_server().await;
    let mut agent = world.start_with(world.config(address.to_string())).await;
    let early = agent.x509_once().await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "{early}");
    world.server = Some(world.fake.listen(Some(address)).await);
    let mut stream = agent.x509().await;
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/web"]);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_used_join_token_ends_the_agent_with_a_clear_error() {
    let world = World::new().await;
    world.fake.tokens.lock().unwrap().clear();
    let mut agent = world.start().await;
    let error = timeout(SOON, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("join token does not exist or has already been used"), "{cause}");
    assert!(cause.contains("create another"), "{cause}");
}

#[tokio::test]
async fn a_banned_agent_forgets_its_svid_and_ends() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    next(&mut stream).await;
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentBanned);
    let error = timeout(SOON, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("banned"), "{error:?}");
    let data: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.dir.path().join("agent-data.json")).unwrap()).unwrap();
    assert_eq!(data["svid"], serde_json::json!([]));
}

#[tokio::test]
async fn an_evicted_agent_ends_unless_the_server_only_stumbled() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    next(&mut agent.x509().await).await;
    let deny = |reason| *world.fake.denial.lock().unwrap() = reason;
    deny(Some(Reason::AgentNotAttested));
    sleep(Duration::from_secs(4)).await;
    assert_eq!(ids(&agent.x509_once().await.unwrap()), ["spiffe://example.org/web"]);
    deny(None);
    timeout(SOON, agent.status.wait_for(|status| status.sync_error.is_none())).await.unwrap().unwrap();
    deny(Some(Reason::AgentNotAttested));
    let error = timeout(SOON * 2, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("does not know this agent"), "{cause}");
}

#[tokio::test]
async fn an_agent_whose_own_svid_ended_goes_on_serving() {
    let world = World::new().await;
    world.fake.x509_ttl.store(100 * 3600, Ordering::SeqCst);
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let svid = agent.x509_once().await.unwrap();
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentExpired);
    world.hands.jump(2 * 3600);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(agent.x509_once().await.unwrap(), svid);
    assert!(agent.ended.try_join_next().is_none(), "the agent ended");
    let asked = world.fake.renewals_asked.load(Ordering::SeqCst);
    assert!((1..30).contains(&asked), "{asked} attempts to renew in six seconds");
    agent.stop().await.unwrap();
}

/// Both clocks jump, as they do on one machine; the server replaces its authorities, as it must.
async fn a_jump_of_the_clock(seconds: i64) {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let before = leaf(&next(&mut stream).await);
    agent.jwt(&["a"]).await.unwrap();
    let jumped = Instant::now();
    world.hands.jump(seconds);
    world.fake.replace_authorities().await;
    loop {
        let message =
            timeout(Duration::from_secs(60), stream.message()).await.expect("in time").unwrap().unwrap();
        let now = world.clock.unix_now();
        let svid = leaf(&message);
        if svid.serial != before.serial && svid.not_before <= now && now < svid.not_after {
            assert_eq!(message.svids[0].bundle, world.fake.bundle().x509_concatenated());
            break;
        }
    }
    let token = agent.jwt(&["a"]).await.unwrap();
    let validate = ValidateJwtsvidRequest { audience: "a".into(), svid: token[0].clone() };
    agent.client.validate_jwtsvid(with_header(validate)).await.unwrap();
    assert!(jumped.elapsed() < Duration::from_secs(60), "{:?}", jumped.elapsed());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn everything_is_valid_again_after_the_clock_jumped_72_hours_ahead() {
    a_jump_of_the_clock(72 * 3600).await;
}

#[tokio::test]
async fn everything_is_valid_again_after_the_clock_jumped_72_hours_back() {
    a_jump_of_the_clock(-72 * 3600).await;
}
