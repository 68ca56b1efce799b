//! The admin socket: this process is the delegate, and some children are workloads.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use vouchsafe_ca::key::PrivateKey;
use vouchsafe_proto::spire::agent::debug::v1::GetInfoRequest;
use vouchsafe_proto::spire::agent::debug::v1::debug_client::DebugClient;
use vouchsafe_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_client::DelegatedIdentityClient;
use vouchsafe_proto::spire::api::agent::delegatedidentity::v1::{
    FetchJwtsviDsRequest, SubscribeToJwtBundlesRequest, SubscribeToX509BundlesRequest,
    SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
};
use vouchsafe_proto::spire::api::agent::logger::v1::logger_client::LoggerClient;
use vouchsafe_proto::spire::api::agent::logger::v1::{GetLoggerRequest, SetLogLevelRequest};
use vouchsafe_proto::spire::api::types;

use super::support::*;

type Delegated = DelegatedIdentityClient<Channel>;

/// An agent with an admin socket; whoever has `spiffe://example.org/delegate` is a delegate.
async fn start(world: &World) -> (RunningAgent, Channel) {
    let mut config = world.config(world.server.as_ref().unwrap().address.to_string());
    let socket = world.dir.path().join("private/admin.sock");
    config.admin.socket_path = Some(socket.clone());
    config.admin.authorized_delegates = ["spiffe://example.org/delegate".to_owned()].into();
    config.unix.as_mut().unwrap().discover_workload_path = true;
    config.unix.as_mut().unwrap().workload_size_limit = -1;
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    (agent, uds_channel(&socket).await.unwrap())
}

/// This process is a delegate.
fn delegate(world: &World) {
    world.fake.put("delegate", &own_uid(), |_| ());
}

fn of_workload(selectors: &[&str], pid: i32) -> SubscribeToX509sviDsRequest {
    SubscribeToX509sviDsRequest { selectors: selectors.iter().map(|text| selector(text)).collect(), pid }
}

fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').unwrap();
    types::Selector { r#type: kind.into(), value: value.into() }
}

async fn update(stream: &mut Streaming<SubscribeToX509sviDsResponse>) -> SubscribeToX509sviDsResponse {
    timeout(SOON, stream.message()).await.expect("a message in time").unwrap().expect("the stream goes on")
}

fn paths(update: &SubscribeToX509sviDsResponse) -> Vec<String> {
    let id = |svid: &types::X509svid| svid.id.as_ref().unwrap().path.clone();
    update.x509_svids.iter().map(|svid| id(svid.x509_svid.as_ref().unwrap())).collect()
}

async fn refusal(client: &mut Delegated, request: SubscribeToX509sviDsRequest) -> (Code, String) {
    let status = client.subscribe_to_x509svi_ds(request).await.unwrap_err();
    (status.code(), status.message().to_owned())
}

/// A child that runs a program until it is dropped.
struct Workload(Child);

impl Workload {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn path(&self) -> String {
        format!("unix:path:{}", std::fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap().display())
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn the_admin_socket_is_off_unless_asked_for_and_then_not_for_everybody() {
    let world = World::new().await;
    let mut agent = world.start().await;
    agent.serving().await;
    let sockets = std::fs::read_dir(world.dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("private"));
    assert_eq!(sockets.count(), 0);
    agent.stop().await.unwrap();

    let (agent, _) = start(&world).await;
    let mode =
        |path: &str| std::fs::metadata(world.dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("private"), mode("private/admin.sock")), (0o750, 0o770));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn debug_says_what_the_agent_is_doing_and_logger_changes_the_level() {
    let world = World::new().await;
    delegate(&world);
    let (mut agent, channel) = start(&world).await;
    assert!(agent.x509_once().await.is_ok());
    agent.status.wait_for(|status| status.x509_svids == 1).await.unwrap();
    let info = DebugClient::new(channel.clone()).get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.cached_x509_svids_count, info.svids_count, info.cached_jwt_svids_count), (1, 1, 0));
    assert!((1_900_000_000..1_900_000_100).contains(&info.last_sync_success), "{}", info.last_sync_success);
    let [leaf, authority] = info.svid_chain.as_slice() else { panic!("{info:?}") };
    assert!(leaf.id.as_ref().unwrap().path.starts_with("/spire/agent/join_token/"), "{leaf:?}");
    assert_eq!(leaf.subject, "O=SPIRE,C=US");
    assert!(authority.subject.ends_with("O=SPIFFE,C=US") && authority.id.is_some(), "{authority:?}");

    let mut logger = LoggerClient::new(channel);
    let level = logger.get_logger(GetLoggerRequest {}).await.unwrap().into_inner().current_level();
    assert_eq!(level, types::LogLevel::Info);
    let request = SetLogLevelRequest { new_level: types::LogLevel::Debug.into() };
    let changed = logger.set_log_level(request).await.unwrap().into_inner();
    assert_eq!(
        (changed.current_level(), changed.launch_level()),
        (types::LogLevel::Debug, types::LogLevel::Info)
    );
    let metrics = agent.registry.render();
    for series in ["debug_api_connection 1", "logger_api_connection 2", "logger_api_connections 0"] {
        assert!(metrics.contains(&format!("spire_agent_{series}")), "{series}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_delegate_gets_the_svids_of_a_workload_and_every_change_of_them() {
    let world = World::new().await;
    delegate(&world);
    world.fake.put("web", &["x:app:web".to_owned()], |entry| entry.hint = "same".into());
    world.fake.put("web-too", &["x:app:web".to_owned()], |entry| entry.hint = "same".into());
    world.fake.put("admin", &["x:app:web".to_owned()], |entry| entry.admin = true);
    world.fake.put("downstream", &["x:app:web".to_owned()], |entry| entry.downstream = true);
    let (agent, channel) = start(&world).await;
    let mut client = Delegated::new(channel);
    let request = of_workload(&["x:app:web", "x:zone:a", "x:app:web"], 0);
    let mut stream = client.subscribe_to_x509svi_ds(request).await.unwrap().into_inner();
    let first = update(&mut stream).await;
    assert_eq!(
        paths(&first),
        ["/web", "/web-too"],
        "neither admin nor downstream, and each hint as often as it is"
    );
    for svid in &first.x509_svids {
        let public = svid.x509_svid.as_ref().unwrap();
        let chain = public.cert_chain.iter().map(|der| Arc::from(&**der)).collect();
        let parsed = X509Svid::parse(chain).unwrap();
        assert_eq!((parsed.not_after, public.hint.as_str()), (public.expires_at, "same"));
        assert!(PrivateKey::from_pkcs8(&svid.x509_svid_key).is_ok());
    }

    world.fake.remove("web-too");
    assert_eq!(paths(&update(&mut stream).await), ["/web"]);
    world.fake.remove("web");
    assert_eq!(paths(&update(&mut stream).await), Vec::<String>::new(), "the stream goes on");
    world.fake.put("web", &["x:app:web".to_owned()], |_| ());
    assert_eq!(paths(&update(&mut stream).await), ["/web"]);
    let metrics = agent.registry.render();
    for series in [
        "delegated_identity_api_connection 1",
        "delegated_identity_api_connections 1",
        "delegated_identity_api_subscribe_x509_svids_first_update_elapsed_time_count 1",
    ] {
        assert!(metrics.contains(&format!("spire_agent_{series}")), "{series}\n{metrics}");
    }
    drop(stream);
    let registry = agent.registry.clone();
    eventually("the stream's end", move || {
        registry.render().contains("spire_agent_delegated_identity_api_connections 0")
    })
    .await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_workload_that_is_named_by_its_process_is_attested() {
    let world = World::new().await;
    delegate(&world);
    let mut workload = Workload::start();
    world.fake.put("sleeper", &[workload.path()], |_| ());
    let (agent, channel) = start(&world).await;
    let mut client = Delegated::new(channel);
    let request = of_workload(&[], workload.pid());
    let mut stream = client.subscribe_to_x509svi_ds(request.clone()).await.unwrap().into_inner();
    assert_eq!(paths(&update(&mut stream).await), ["/delegate", "/sleeper"]);
    workload.end();
    let gone = (Code::Unavailable, "workload attestation failed".to_owned());
    assert_eq!(refusal(&mut client, request).await, gone);
    assert_eq!(refusal(&mut client, of_workload(&[], -1)).await, gone);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn who_is_no_delegate_gets_nothing_and_a_delegate_must_say_whom_it_means() {
    let world = World::new().await;
    let (agent, channel) = start(&world).await;
    let mut client = Delegated::new(channel);
    let request = of_workload(&["x:app:web"], 0);
    let nobody = (Code::PermissionDenied, "no identity issued".to_owned());
    assert_eq!(refusal(&mut client, request.clone()).await, nobody);
    world.fake.put("web", &own_uid(), |_| ());
    let not_me = (Code::PermissionDenied, "caller not configured as an authorized delegate".to_owned());
    let deadline = Instant::now() + SOON;
    while refusal(&mut client, request.clone()).await != not_me {
        assert!(Instant::now() < deadline, "the entry arrives");
    }
    let bundles = client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {}).await.unwrap_err();
    assert_eq!(bundles.code(), Code::PermissionDenied);
    let jwt_bundles = client.subscribe_to_jwt_bundles(SubscribeToJwtBundlesRequest {}).await.unwrap_err();
    assert_eq!(jwt_bundles.code(), Code::PermissionDenied);

    delegate(&world);
    while client.subscribe_to_x509svi_ds(request.clone()).await.is_err() {
        assert!(Instant::now() < deadline, "the entry arrives");
    }
    let which = "must provide either selectors or non-zero PID, but not both".to_owned();
    for wrong in [of_workload(&[], 0), of_workload(&["x:app:web"], 1)] {
        assert_eq!(refusal(&mut client, wrong).await, (Code::InvalidArgument, which.clone()));
    }
    let unparsed = (Code::InvalidArgument, "could not parse provided selectors".to_owned());
    for wrong in [("", "v"), ("a:b", "v"), ("k", "")] {
        let selectors = vec![types::Selector { r#type: wrong.0.into(), value: wrong.1.into() }];
        assert_eq!(refusal(&mut client, SubscribeToX509sviDsRequest { selectors, pid: 0 }).await, unparsed);
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_delegate_that_loses_its_entry_loses_its_streams() {
    let world = World::new().await;
    delegate(&world);
    world.fake.put("other", &own_uid(), |_| ());
    let (agent, channel) = start(&world).await;
    let mut client = Delegated::new(channel);
    let mut svids =
        client.subscribe_to_x509svi_ds(of_workload(&["x:app:web"], 0)).await.unwrap().into_inner();
    let mut bundles =
        client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {}).await.unwrap().into_inner();
    assert!(update(&mut svids).await.x509_svids.is_empty());
    assert!(bundles.message().await.unwrap().is_some());
    world.fake.remove("delegate");
    let end = timeout(SOON, svids.message()).await.unwrap().unwrap_err();
    assert_eq!(end.message(), "caller not configured as an authorized delegate");
    let end = timeout(SOON, bundles.message()).await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::PermissionDenied);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_delegate_gets_tokens_of_a_workload() {
    let world = World::new().await;
    delegate(&world);
    world.fake.put("web", &["x:app:web".to_owned()], |entry| entry.hint = "main".into());
    world.fake.put("admin", &["x:app:web".to_owned()], |entry| entry.admin = true);
    let (agent, channel) = start(&world).await;
    let mut client = Delegated::new(channel);
    let request = |audience: &[&str], app: &str| FetchJwtsviDsRequest {
        audience: audience.iter().map(|text| (*text).to_owned()).collect(),
        selectors: vec![selector(app)],
        pid: 0,
    };
    let svids = client.fetch_jwtsvi_ds(request(&["b", "a"], "x:app:web")).await.unwrap().into_inner().svids;
    let [svid] = svids.as_slice() else { panic!("{svids:?}") };
    let token = JwtSvid::parse_unverified(&svid.token).unwrap();
    assert_eq!((token.id.as_str(), svid.hint.as_str()), ("spiffe://example.org/web", "main"));
    assert_eq!((Some(svid.issued_at), svid.expires_at), (token.issued_at, token.expires_at));
    let again = client.fetch_jwtsvi_ds(request(&["a", "b"], "x:app:web")).await.unwrap().into_inner().svids;
    assert_eq!((again, world.fake.jwts.load(Ordering::SeqCst)), (svids, 1));

    let none = client.fetch_jwtsvi_ds(request(&["a"], "x:app:other")).await.unwrap_err();
    assert_eq!((none.code(), none.message()), (Code::PermissionDenied, "no identity issued"));
    let silent = client.fetch_jwtsvi_ds(request(&[], "x:app:web")).await.unwrap_err();
    assert_eq!((silent.code(), silent.message()), (Code::InvalidArgument, "audience must be specified"));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_delegate_gets_the_bundles_and_every_change_of_them() {
    let world = World::new().await;
    delegate(&world);
    let (agent, channel) = start(&world).await;
    let mut client = Delegated::new(channel);
    let own = "spiffe://example.org";
    let mut x509 =
        client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {}).await.unwrap().into_inner();
    let mut jwt =
        client.subscribe_to_jwt_bundles(SubscribeToJwtBundlesRequest {}).await.unwrap().into_inner();
    let first = x509.message().await.unwrap().unwrap().ca_certificates;
    assert_eq!(first[own], world.fake.bundle().x509_concatenated());
    let keys =
        |jwks: &[u8]| serde_json::from_slice::<serde_json::Value>(jwks).unwrap()["keys"][0]["kid"].clone();
    assert_eq!(keys(&jwt.message().await.unwrap().unwrap().bundles[own]), "kid-1");
    world.fake.rotate().await;
    let second = timeout(SOON, x509.message()).await.unwrap().unwrap().unwrap().ca_certificates;
    assert_eq!(second[own], world.fake.bundle().x509_concatenated());
    assert_ne!(second, first);
    assert!(timeout(SOON, jwt.message()).await.unwrap().unwrap().is_some());
    agent.stop().await.unwrap();
}
