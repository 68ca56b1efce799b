//! A world to test an agent in.

pub(crate) use std::path::Path;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::time::{Duration, SystemTime};

pub(crate) use tokio::sync::oneshot;
pub(crate) use tokio::time::{Instant, sleep, timeout};
pub(crate) use tonic::metadata::MetadataValue;
pub(crate) use tonic::transport::Channel;
pub(crate) use tonic::{Code, Request, Status, Streaming};
pub(crate) use vouchsafe_agent::{Agent, AgentStatus, Bootstrap, Config, Deps, Phase};
pub(crate) use vouchsafe_ca::key_manager::Disk;
pub(crate) use vouchsafe_proto::denial::Reason;
pub(crate) use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
pub(crate) use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
    X509svidResponse,
};
pub(crate) use vouchsafe_runtime::clock::{Clock, ClockHandle};
pub(crate) use vouchsafe_runtime::entropy::Entropy;
pub(crate) use vouchsafe_runtime::log_level::LogLevelControl;
pub(crate) use vouchsafe_runtime::metrics::Registry;
pub(crate) use vouchsafe_runtime::readiness::Readiness;
pub(crate) use vouchsafe_runtime::supervisor::{self, Supervisor};
pub(crate) use vouchsafe_testkit::Stopwatch;
pub(crate) use vouchsafe_transport::connect::uds_channel;
pub(crate) use vouchsafe_types::jwt_svid::JwtSvid;
pub(crate) use vouchsafe_types::x509_svid::X509Svid;

pub(crate) use crate::fake_server::{Fake, Listening, TOKEN};

/// Nothing here waits for so long, also on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// A server, and a directory for agents that come and go.
pub(crate) struct World {
    pub(crate) fake: Arc<Fake>,
    pub(crate) server: Option<Listening>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Clock,
    pub(crate) hands: ClockHandle,
}

pub(crate) struct RunningAgent {
    pub(crate) client: SpiffeWorkloadApiClient<Channel>,
    pub(crate) status: tokio::sync::watch::Receiver<AgentStatus>,
    pub(crate) registry: Registry,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: tokio::task::JoinSet<Result<(), supervisor::Error>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (clock, hands) = Clock::steerable(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
        let fake = Fake::new(clock.clone()).await;
        let server = Some(fake.listen(None).await);
        Self { fake, server, dir: vouchsafe_testkit::folder("va"), clock, hands }
    }

    pub(crate) async fn stop_server(&mut self) -> std::net::SocketAddr {
        let server = self.server.take().unwrap();
        let address = server.address;
        server.stop().await;
        address
    }

    pub(crate) fn config(&self, address: String) -> Config {
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

    pub(crate) async fn start(&self) -> RunningAgent {
        let address =
            self.server.as_ref().map_or("127.0.0.1:1".to_owned(), |server| server.address.to_string());
        self.start_with(self.config(address)).await
    }

    /// Why an agent with `config` does not start.
    pub(crate) async fn refused(&self, config: Config) -> String {
        let mut supervisor = Supervisor::new();
        let deps = self.deps(Registry::new("spire_agent", &[]));
        Agent::start(config, deps, &mut supervisor).await.unwrap_err().to_string()
    }

    fn deps(&self, registry: Registry) -> Deps {
        Deps {
            clock: self.clock.clone(),
            entropy: Entropy::from_seed(7),
            registry,
            readiness: Readiness::new(self.clock.clone()),
            log_level: LogLevelControl::default(),
            network: vouchsafe_transport::net::Network::default(),
        }
    }

    pub(crate) async fn start_with(&self, config: Config) -> RunningAgent {
        let registry = Registry::new("spire_agent", &[]);
        let deps = self.deps(registry.clone());
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

pub(crate) async fn connect(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(uds_channel(socket).await.unwrap())
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

pub(crate) fn own_uid() -> Vec<String> {
    vec![format!("unix:uid:{}", nix::unistd::geteuid())]
}

impl RunningAgent {
    pub(crate) async fn serving(&mut self) {
        let serving = self.status.wait_for(|status| status.phase == Phase::Serving);
        timeout(SOON, serving).await.expect("serving in time").expect("the agent lives");
    }

    /// Waits until the agent serves, and opens a stream.
    pub(crate) async fn x509(&mut self) -> Streaming<X509svidResponse> {
        self.serving().await;
        self.client.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner()
    }

    pub(crate) async fn x509_once(&mut self) -> Result<X509svidResponse, Status> {
        let mut stream = self.client.fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
        stream.message().await.map(|message| message.expect("a first message"))
    }

    pub(crate) async fn jwt(&mut self, audience: &[&str]) -> Result<Vec<String>, Status> {
        let audience = audience.iter().map(|text| (*text).to_owned()).collect();
        let request = with_header(JwtsvidRequest { audience, spiffe_id: String::new() });
        let response = self.client.fetch_jwtsvid(request).await?.into_inner();
        Ok(response.svids.into_iter().map(|svid| svid.svid).collect())
    }

    pub(crate) async fn stop(mut self) -> Result<(), supervisor::Error> {
        drop(self.stop);
        self.ended.join_next().await.unwrap().unwrap()
    }
}

pub(crate) async fn next(stream: &mut Streaming<X509svidResponse>) -> X509svidResponse {
    timeout(SOON, stream.message()).await.expect("a message in time").unwrap().expect("the stream goes on")
}

pub(crate) fn ids(response: &X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

pub(crate) fn leaf(response: &X509svidResponse) -> X509Svid {
    let chain = vouchsafe_types::certificate::split(&response.svids[0].x509_svid).unwrap();
    X509Svid::parse(chain).unwrap()
}

pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(20)).await;
    }
}
