//! A server and an agent over real sockets, and a clock that jumps by three days under both of them.
//!
//! The agent knows the server by the bundle of its first start alone, as one on another machine would: whatever it
//! learns of new authorities it must learn over connections that it can verify.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use vouchsafe_agent::{Agent, Bootstrap};
use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::key_manager::Disk;
use vouchsafe_ca::x509::Subject;
use vouchsafe_proto::convert::spiffe_id_to_proto;
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest};
use vouchsafe_runtime::clock::{Clock, ClockHandle};
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::supervisor::{self, Supervisor};
use vouchsafe_server::{Config, Deps, Policy, Running, Server};
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_types::certificate;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;
use vouchsafe_types::x509_svid::X509Svid;

/// What issue 2 allows from the jump until everything is valid again.
const ALLOWED: Duration = Duration::from_secs(60);
const THREE_DAYS: i64 = 72 * 3600;

struct World {
    clock: Clock,
    hands: ClockHandle,
    workload: SpiffeWorkloadApiClient<Channel>,
    tasks: JoinSet<Result<(), supervisor::Error>>,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = vouchsafe_testkit::folder("vj");
        let (clock, hands) = Clock::steerable(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let mut group = Supervisor::new();
        let server = start_server(folder.path(), &trust_domain, &clock, &mut group).await;
        let token = join_token(&server).await;
        let agent_id = SpiffeId::agent(&trust_domain, &format!("join_token/{token}")).unwrap();
        register_this_user(&server, &trust_domain, &agent_id).await;

        let keys = Arc::new(Disk::open(folder.path().join("agent-keys.json")).unwrap());
        let address = server.tcp_address.to_string();
        let mut config =
            vouchsafe_agent::Config::new(trust_domain, address, folder.path().join("agent"), keys);
        config.join_token = Some(token.as_str().into());
        config.bootstrap = Bootstrap::Bundle(server.bundle());
        let deps = vouchsafe_agent::Deps {
            clock: clock.clone(),
            entropy: Entropy::from_seed(2),
            registry: Registry::new("spire_agent", &[]),
            readiness: Readiness::new(clock.clone()),
            log_level: LogLevelControl::default(),
            network: vouchsafe_transport::net::Network::default(),
        };
        let agent = Agent::start(config, deps, &mut group).await.unwrap();
        let workload = SpiffeWorkloadApiClient::new(uds_channel(&agent.socket_path).await.unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(group.run(std::future::pending(), Duration::from_secs(5)));
        Self { clock, hands, workload, tasks, _folder: folder }
    }

    /// Waits until a workload gets an X.509-SVID and a JWT-SVID that are valid now.
    async fn settles(&mut self, when: &str) {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < ALLOWED {
            assert!(self.tasks.try_join_next().is_none(), "{when}: a task ended");
            match self.attempt().await {
                Ok(()) => return,
                Err(why) => last = why,
            }
            sleep(Duration::from_millis(250)).await;
        }
        panic!("{when}: not valid again after {ALLOWED:?}: {last}");
    }

    async fn attempt(&mut self) -> Result<(), String> {
        let updates =
            self.workload.fetch_x509svid(asked(X509svidRequest {})).await.map_err(|e| e.to_string())?;
        let update =
            updates.into_inner().message().await.map_err(|e| e.to_string())?.ok_or("stream ended")?;
        let chain = certificate::split(&update.svids[0].x509_svid).map_err(|e| e.to_string())?;
        let svid = X509Svid::parse(chain).map_err(|e| e.to_string())?;
        let now = self.clock.unix_now();
        if !(svid.not_before..svid.not_after).contains(&now) {
            return Err(format!("SVID valid {}..{}, now {now}", svid.not_before, svid.not_after));
        }
        let bundle = certificate::split(&update.svids[0].bundle).map_err(|e| e.to_string())?;
        let roots = bundle.iter().filter_map(|der| certificate::Certificate::parse(der).ok());
        if !roots.into_iter().any(|root| (root.not_before..root.not_after).contains(&now)) {
            return Err("no authority of the bundle is valid now".into());
        }
        let audience = format!("at-{now}");
        let request = JwtsvidRequest { audience: vec![audience.clone()], spiffe_id: String::new() };
        let tokens =
            self.workload.fetch_jwtsvid(asked(request)).await.map_err(|e| e.to_string())?.into_inner();
        let request = ValidateJwtsvidRequest { audience, svid: tokens.svids[0].svid.clone() };
        self.workload.validate_jwtsvid(asked(request)).await.map_err(|e| e.to_string())?;
        Ok(())
    }
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn start_server(
    folder: &Path,
    trust_domain: &TrustDomain,
    clock: &Clock,
    group: &mut Supervisor,
) -> Running {
    let data_dir = folder.join("server");
    std::fs::create_dir(&data_dir).unwrap();
    let store = Sqlite::open(data_dir.join("datastore.sqlite3"), clock.clone()).await.unwrap();
    let deps = Deps {
        clock: clock.clone(),
        entropy: Entropy::from_seed(1),
        metrics: Registry::new("spire_server", &[]),
        readiness: Readiness::new(clock.clone()),
        store: Arc::new(store),
        keys: Arc::new(Disk::open(data_dir.join("keys.json")).unwrap()),
        log_level: LogLevelControl::default(),
        network: vouchsafe_transport::net::Network::default(),
    };
    let hour = Duration::from_secs(3600);
    let config = Config {
        trust_domain: trust_domain.clone(),
        tcp_address: "127.0.0.1:0".parse().unwrap(),
        admin_socket: data_dir.join("private/api.sock"),
        data_dir,
        admin_ids: Vec::new(),
        join_tokens: true,
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        ca_ttl: 24 * hour,
        ca_subject: Subject::ca_default(),
        policy: Policy { x509_svid_ttl: hour, jwt_svid_ttl: hour / 12, agent_ttl: hour, jwt_issuer: None },
        upstream: vouchsafe_server::config::Upstream::None,
        disable_jwt_svids: false,
        admission: vouchsafe_server::config::Admission::default(),
        federation: vouchsafe_server::config::Federation::default(),
        publications: Vec::new(),
        version: "test",
    };
    Server::start(config, deps, group).await.unwrap()
}

async fn join_token(server: &Running) -> String {
    let mut client = AgentClient::new(uds_channel(&server.admin_socket).await.unwrap());
    let request = CreateJoinTokenRequest { ttl: 600, ..CreateJoinTokenRequest::default() };
    client.create_join_token(request).await.unwrap().into_inner().value
}

async fn register_this_user(server: &Running, trust_domain: &TrustDomain, agent: &SpiffeId) {
    let uid = nix::unistd::geteuid();
    let mut client = EntryClient::new(uds_channel(&server.admin_socket).await.unwrap());
    let entry = types::Entry {
        spiffe_id: Some(spiffe_id_to_proto(&SpiffeId::new(trust_domain, "/me").unwrap())),
        parent_id: Some(spiffe_id_to_proto(agent)),
        selectors: vec![types::Selector { r#type: "unix".into(), value: format!("uid:{uid}") }],
        ..types::Entry::default()
    };
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let results = client.batch_create_entry(request).await.unwrap().into_inner().results;
    assert_eq!(results[0].status.as_ref().unwrap().code, 0, "{results:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_days_forward_and_back_leave_everything_valid_within_a_minute() {
    let mut world = World::start().await;
    world.settles("at the start").await;
    for (jump, name) in [(THREE_DAYS, "forward"), (-THREE_DAYS, "back"), (-THREE_DAYS, "back again")] {
        world.hands.jump(jump);
        world.settles(name).await;
    }
}
