//! Where the first bundle comes from, and when the agent looks there again.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use vouchsafe_agent::trust::origin::{BundleFormat, Origin, Place};
use vouchsafe_agent::{Rebootstrap, RebootstrapMode};
use vouchsafe_types::bundle::format;

use super::attestation;
use super::support::*;

/// A daemon that answers every request with what `text` gives, and says what it was asked.
struct Daemon {
    socket: std::path::PathBuf,
    asked: tokio::sync::mpsc::UnboundedReceiver<String>,
    _tasks: tokio::task::JoinSet<()>,
}

impl Daemon {
    fn start(dir: &Path, text: impl Fn() -> Option<String> + Send + 'static) -> Self {
        let socket = dir.join("bundle.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                tell.send(String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned())
                    .unwrap();
                let (status, body) = text().map_or(("503 No", String::new()), |text| ("200 OK", text));
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        Self { socket, asked, _tasks: tasks }
    }

    fn origin(&self) -> Bootstrap {
        let place =
            Place::Socket { socket: self.socket.clone(), url: "http://localhost/bundle?site=1".into() };
        Bootstrap::From(Origin { place, format: BundleFormat::Spiffe })
    }
}

#[tokio::test]
async fn a_bundle_is_asked_for_until_there_is_one() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let (fake, tries) = (Arc::clone(&world.fake), std::sync::atomic::AtomicUsize::new(0));
    let mut daemon = Daemon::start(world.dir.path(), move || {
        (tries.fetch_add(1, Ordering::SeqCst) > 0).then(|| format::to_spiffe_json(&fake.bundle()).unwrap())
    });
    let address = world.server.as_ref().unwrap().address;
    let config = Config { bootstrap: daemon.origin(), ..world.config(address.to_string()) };
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    let first = daemon.asked.recv().await.unwrap();
    let said = format!(
        "GET /bundle?site=1&spiffe-trust-domain=example.org&spire-attest-mode=bootstrap\
         &spire-attest-start-time=2030-03-17T17%3A46%3A40Z&spire-connection-attempts=1\
         &spire-server-address=127.0.0.1&spire-server-port={} HTTP/1.1",
        address.port()
    );
    assert_eq!(first, said);
    assert!(daemon.asked.recv().await.unwrap().contains("spire-connection-attempts=2&"));
    let metrics = agent.registry.render();
    for name in [
        "spire_agent_bootstrapped 1",
        "spire_agent_bootstrap_attempts{mode=\"bootstrap\"} 2",
        "spire_agent_bootstrap_seconds{mode=\"bootstrap\"} 1900000000",
        "spire_agent_bootstrap_attempts{mode=\"rebootstrap\"} 0",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_wrong_bundle_is_forgotten_when_an_operator_puts_the_right_one_in_its_place() {
    let world = World::new().await;
    let of_another_server = World::new().await.fake.bundle();
    let path = world.dir.path().join("bundle.json");
    let put = |bundle| std::fs::write(&path, format::to_spiffe_json(bundle).unwrap()).unwrap();
    put(&of_another_server);
    let origin = Origin { place: Place::File(path.clone()), format: BundleFormat::Spiffe };
    let address = world.server.as_ref().unwrap().address.to_string();
    let config = Config { bootstrap: Bootstrap::From(origin), ..world.config(address) };
    let mut agent = world.start_with(config).await;
    let attempts = |agent: &RunningAgent| {
        let text = agent.registry.render();
        let line =
            text.lines().find(|line| line.starts_with("spire_agent_bootstrap_attempts{mode=\"bootstrap\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    // The second one has come to its end.
    eventually("a third attempt", || attempts(&agent) >= 3).await;
    put(&world.fake.bundle());
    agent.serving().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_agent_bootstraps_from_another_agents_workload_api() {
    let upstream = World::new().await;
    upstream.fake.put("nested", &own_uid(), |_| ());
    let mut above = upstream.start().await;
    above.serving().await;
    let mut world = World::new().await;
    world.fake = Arc::clone(&upstream.fake);
    world.server = Some(world.fake.listen(None).await);
    let socket = upstream.config(String::new()).socket_path;
    let origin = Origin { place: Place::WorkloadApi(socket.clone()), format: BundleFormat::Pem };
    let config = Config {
        bootstrap: Bootstrap::From(origin),
        join_token: None,
        node_attestor: Some(vouchsafe_agent::node::attestor::NodeAttestor::X509Pop(
            vouchsafe_agent::node::x509pop::X509Pop::WorkloadApi(socket),
        )),
        ..attestation::config(&world).await
    };
    let mut below = world.start_with(config).await;
    below.serving().await;
    assert_eq!(ids(&below.x509_once().await.unwrap()), ["spiffe://example.org/nested"]);
    below.stop().await.unwrap();
    above.stop().await.unwrap();
}

/// The server is replaced by another of the same name, with authorities that nobody knows.
async fn lost_trust(mode: RebootstrapMode, delay: Duration) -> (World, RunningAgent) {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let config = attestation::config(&world).await;
    let config = Config { rebootstrap: Rebootstrap { mode, delay }, ..config };
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    agent.x509_once().await.unwrap();
    let mut world = world;
    let address = world.stop_server().await;
    world.fake.replace_authorities().await;
    world.server = Some(world.fake.listen(Some(address)).await);
    (world, agent)
}

#[tokio::test]
async fn an_agent_that_may_rebootstrap_does_so_after_the_delay_and_serves_all_the_time() {
    let (world, mut agent) = lost_trust(RebootstrapMode::Auto, Duration::from_secs(2)).await;
    let since = Instant::now();
    let fake = Arc::clone(&world.fake);
    let check = async {
        eventually("another attestation", || fake.attestations.load(Ordering::SeqCst) == 2).await;
        since.elapsed()
    };
    let took = check.await;
    assert!(took >= Duration::from_secs(2), "{took:?}");
    let mut stream = agent.x509().await;
    let bundle = world.fake.bundle().x509_concatenated();
    while next(&mut stream).await.svids[0].bundle != bundle {}
    let fresh = agent.status.wait_for(|status| status.sync_error.is_none());
    timeout(SOON, fresh).await.unwrap().unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_may_not_rebootstrap_goes_on_serving_what_it_has() {
    let (world, mut agent) = lost_trust(RebootstrapMode::Never, Duration::ZERO).await;
    let lost = agent.status.wait_for(|status| status.sync_error.is_some());
    timeout(SOON, lost).await.unwrap().unwrap();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.fake.attestations.load(Ordering::SeqCst), 1);
    assert_eq!(ids(&agent.x509_once().await.unwrap()), ["spiffe://example.org/web"]);
    assert!(agent.ended.try_join_next().is_none(), "the agent ended");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn rebootstrapping_at_any_price_needs_an_attestation_that_can_be_repeated() {
    let world = World::new().await;
    let address = world.server.as_ref().unwrap().address.to_string();
    let with = |mode| {
        let delay = Duration::from_secs(600);
        Config { rebootstrap: Rebootstrap { mode, delay }, ..world.config(address.clone()) }
    };
    let mut agent = world.start_with(with(RebootstrapMode::Always)).await;
    let error = timeout(SOON, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("you have requested rebootstrap support"), "{cause}");

    let mut agent = world.start_with(with(RebootstrapMode::Auto)).await;
    agent.serving().await;
    agent.stop().await.unwrap();
}
