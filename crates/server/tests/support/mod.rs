//! A real server on a temporary directory, its admin socket, and agents that attest to it over TLS.
//!
//! Nothing is replaced but time (steerable) and the store's health ([`Faults`]); a test that hangs ends the process.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod agent;
pub mod kubernetes;
pub mod messages;
mod watchdog;
pub mod workload;
pub mod x509pop;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::key_manager::{Disk, KeyManager, Memory};
use vouchsafe_ca::x509::Subject;
use vouchsafe_identity::config::{Expect, ServerTrust, client_config};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::bundle::v1::{BatchSetFederatedBundleRequest, GetBundleRequest};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, ListEntriesRequest};
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::{Clock, ClockHandle};
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::supervisor::{self, Supervisor};
use vouchsafe_server::{Config, Deps, Policy, Running, Server, StartError};
use vouchsafe_store::Store;
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_testkit::{FaultStore, Faults};
use vouchsafe_transport::connect::{tls_channel, uds_channel};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use agent::TestAgent;
use watchdog::Watchdog;

pub const HOUR: i64 = 3600;

/// A directory and a clock, which outlive any one server.
pub struct World {
    dir: TempDir,
    pub clock: Clock,
    pub hands: ClockHandle,
    disk: bool,
    _watchdog: Watchdog,
}

impl World {
    /// Signing keys that do not survive a restart.
    pub fn new() -> Self {
        let (clock, hands) = Clock::steerable(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
        let dir = vouchsafe_testkit::folder("vouchsafe-server-");
        Self { dir, clock, hands, disk: false, _watchdog: Watchdog::start() }
    }

    /// Signing keys in a file.
    pub fn with_disk_keys() -> Self {
        Self { disk: true, ..Self::new() }
    }

    pub async fn start(&self) -> TestServer {
        self.try_start(|_| {}).await.unwrap()
    }

    pub async fn try_start(&self, adjust: impl FnOnce(&mut Config)) -> Result<TestServer, StartError> {
        self.start_with(adjust, |_| {}).await
    }

    /// Starts on a store that `prepare` may break before.
    pub async fn start_with(
        &self,
        adjust: impl FnOnce(&mut Config),
        prepare: impl FnOnce(&Faults),
    ) -> Result<TestServer, StartError> {
        let sqlite = Sqlite::open(self.dir.path().join("registry.db"), self.clock.clone()).await.unwrap();
        let store = FaultStore::new(Arc::new(sqlite));
        prepare(&store.1);
        let place = Place { dir: self.dir.path().to_owned(), clock: self.clock.clone() };
        self.start_at(place, store, adjust).await
    }

    /// One more server on the database of `first`, with keys and files of its own, and a clock of its own.
    pub async fn start_beside(&self, first: &TestServer, name: &str, clock: Clock) -> TestServer {
        self.start_beside_with(first, name, clock, |_| {}).await
    }

    pub async fn start_beside_with(
        &self,
        first: &TestServer,
        name: &str,
        clock: Clock,
        adjust: impl FnOnce(&mut Config),
    ) -> TestServer {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let store = FaultStore::new(first.store.clone());
        self.start_at(Place { dir, clock }, store, adjust).await.unwrap()
    }

    async fn start_at(
        &self,
        place: Place,
        (store, faults): (FaultStore, Faults),
        adjust: impl FnOnce(&mut Config),
    ) -> Result<TestServer, StartError> {
        let below = store.inner();
        let Place { dir, clock } = place;
        let keys: Arc<dyn KeyManager> = if self.disk {
            Arc::new(Disk::open(dir.join("keys.json")).unwrap())
        } else {
            Arc::new(Memory::new())
        };
        let metrics = Registry::new("spire_server", &[]);
        let readiness = Readiness::new(clock.clone());
        let deps = Deps {
            clock: clock.clone(),
            entropy: Entropy::from_seed(7),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            store: Arc::new(store),
            keys,
            log_level: LogLevelControl::default(),
            network: vouchsafe_transport::net::Network::default(),
        };
        let mut config = self.config();
        config.admin_socket = dir.join("private/api.sock");
        config.data_dir = dir;
        adjust(&mut config);
        let mut group = Supervisor::new();
        let running = Server::start(config, deps, &mut group).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(group.run(async { drop(stopped.await) }, STOP_GRACE));
        let admin = Api(uds_channel(&running.admin_socket).await.unwrap());
        Ok(TestServer { running, faults, store: below, metrics, readiness, admin, clock, stop, tasks })
    }

    /// Where it keeps its files.
    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The file with renewals that the database does not have yet.
    pub fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("agent-renewals.sealed")
    }

    fn config(&self) -> Config {
        let hour = Duration::from_secs(3600);
        Config {
            trust_domain: trust_domain(),
            tcp_address: "127.0.0.1:0".parse().unwrap(),
            admin_socket: self.dir.path().join("private/api.sock"),
            data_dir: self.dir.path().to_owned(),
            admin_ids: Vec::new(),
            join_tokens: true,
            ca_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            ca_ttl: 24 * hour,
            ca_subject: Subject::ca_default(),
            policy: Policy {
                x509_svid_ttl: hour,
                jwt_svid_ttl: hour / 12,
                agent_ttl: hour,
                jwt_issuer: Some("https://issuer.example.org".into()),
            },
            upstream: vouchsafe_server::config::Upstream::None,
            disable_jwt_svids: false,
            admission: vouchsafe_server::config::Admission::default(),
            federation: vouchsafe_server::config::Federation::default(),
            publications: Vec::new(),
            version: "test",
        }
    }
}

/// Where a server keeps its files, and what it takes for the time.
struct Place {
    dir: std::path::PathBuf,
    clock: Clock,
}

/// A running server.
pub struct TestServer {
    pub running: Running,
    /// Steers its store.
    pub faults: Faults,
    /// Its store without the faults.
    pub store: Arc<dyn Store>,
    pub metrics: Registry,
    pub readiness: Readiness,
    pub admin: Api,
    pub clock: Clock,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<Result<(), supervisor::Error>>,
}

/// Longer than anything here may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

impl TestServer {
    /// Stops as on SIGTERM.
    pub async fn stop(mut self) -> Result<(), supervisor::Error> {
        self.stop.send(()).unwrap();
        drop(self.admin);
        self.tasks.join_next().await.unwrap().unwrap()
    }

    /// Ends without a chance to tidy up.
    pub async fn crash(mut self) {
        self.tasks.shutdown().await;
        while UnixStream::connect(&self.running.admin_socket).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn address(&self) -> String {
        self.running.tcp_address.to_string()
    }

    /// A new TLS connection that presents what `own` holds, if anything.
    pub fn connect(&self, own: Option<&SvidCell>) -> Api {
        let roots = RootsCell::new(TrustRoots::of([&self.running.bundle()]));
        connect(&self.address(), &roots, own, &self.clock)
    }

    pub async fn token(&self) -> String {
        let request = CreateJoinTokenRequest { ttl: 600, ..CreateJoinTokenRequest::default() };
        self.admin.agents().create_join_token(request).await.unwrap().into_inner().value
    }

    /// A newly attested agent.
    pub async fn agent(&self) -> TestAgent {
        let token = self.token().await;
        TestAgent::attest(self, &token).await.unwrap()
    }

    /// Holds an empty bundle of another trust domain, so that entries may federate with it.
    pub async fn hold_bundle(&self, name: &str) {
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![types::Bundle { trust_domain: name.into(), ..types::Bundle::default() }],
            output_mask: None,
        };
        self.admin.bundles().batch_set_federated_bundle(request).await.unwrap();
    }

    /// Creates an entry that must be new.
    pub async fn create(&self, entry: types::Entry) -> types::Entry {
        let (status, entry) = self.try_create(entry).await;
        assert_eq!((status.code, status.message.as_str()), (0, "OK"));
        entry.unwrap()
    }

    pub async fn try_create(&self, entry: types::Entry) -> (types::Status, Option<types::Entry>) {
        let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let answer = self.admin.entries().batch_create_entry(request).await.unwrap().into_inner();
        let [result] = <[_; 1]>::try_from(answer.results).unwrap();
        (result.status.unwrap(), result.entry)
    }

    pub async fn entries(&self) -> Vec<types::Entry> {
        let answer = self.admin.entries().list_entries(ListEntriesRequest::default()).await;
        answer.unwrap().into_inner().entries
    }

    pub async fn bundle(&self) -> types::Bundle {
        self.admin.bundles().get_bundle(GetBundleRequest::default()).await.unwrap().into_inner()
    }
}

/// Clients of every service over one channel.
#[derive(Clone)]
pub struct Api(pub Channel);

impl Api {
    pub fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.0.clone())
    }

    pub fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.0.clone())
    }

    pub fn svids(&self) -> SvidClient<Channel> {
        SvidClient::new(self.0.clone())
    }

    pub fn trust_domains(&self) -> TrustDomainClient<Channel> {
        TrustDomainClient::new(self.0.clone())
    }

    pub fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.0.clone())
    }

    pub fn authorities(&self) -> LocalAuthorityClient<Channel> {
        LocalAuthorityClient::new(self.0.clone())
    }
}

/// A TLS connection to the server at `address` by somebody who believes `roots`.
pub fn connect(address: &str, roots: &RootsCell, own: Option<&SvidCell>, clock: &Clock) -> Api {
    let trust = ServerTrust::Verified(roots.clone(), Expect::Id(SpiffeId::server(&trust_domain())));
    let config = client_config(trust, own, clock.clone()).unwrap();
    Api(tls_channel(address, Arc::new(config)).unwrap())
}

pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// The roots of a bundle that was received.
pub fn roots_of(bundle: &types::Bundle) -> RootsCell {
    RootsCell::new(TrustRoots::of([&received(bundle)]))
}

pub fn received(bundle: &types::Bundle) -> Bundle {
    vouchsafe_proto::convert::bundle_from_proto(bundle).unwrap()
}

/// Asks `question` again and again until it answers; the watchdog ends a test for which it never does.
pub async fn eventually<T>(mut question: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
