//! Starting real servers and agents in a world.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vouchsafe_agent::{Agent, Bootstrap};
use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::key_manager::Disk;
use vouchsafe_ca::x509::Subject;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_server::{Policy, Server};
use vouchsafe_testkit::{FaultStore, Faults};

use crate::node::{Node, Program};
use crate::world::{PORT, World};

/// A running server.
#[derive(Debug)]
pub struct ServerUp {
    /// Its counters.
    pub metrics: Registry,
    /// Whether it can do its job.
    pub readiness: Readiness,
    /// Steers its way to the store.
    pub faults: Faults,
}

/// A running agent.
#[derive(Debug)]
pub struct AgentUp {
    /// What it says about itself.
    pub running: vouchsafe_agent::Running,
    /// Its counters.
    pub metrics: Registry,
    /// Whether it can do its job.
    pub readiness: Readiness,
}

impl Program for ServerUp {
    async fn start(
        world: Arc<World>,
        node: Arc<Node<Self>>,
        dir: PathBuf,
    ) -> Result<(Self, Supervisor), String> {
        let (store, faults) = FaultStore::new(world.store.clone());
        world.apply_store_trouble(node.index, &faults);
        let (metrics, readiness) = (Registry::new("spire_server", &[]), Readiness::new(node.clock.clone()));
        let deps = vouchsafe_server::Deps {
            clock: node.clock.clone(),
            entropy: entropy_of(&world, &node),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            store: Arc::new(store),
            keys: keys(&dir)?,
            log_level: LogLevelControl::default(),
            network: world.net.process(node.host),
        };
        let address = SocketAddr::new(world.net.address(node.host), PORT);
        let config = server_config(&world, address, dir);
        let mut group = Supervisor::new();
        Server::start(config, deps, &mut group).await.map_err(|error| chain(&error))?;
        Ok((Self { metrics, readiness, faults }, group))
    }

    fn ended(_: &World, _: &Node<Self>) -> bool {
        false
    }
}

impl Program for AgentUp {
    async fn start(
        world: Arc<World>,
        node: Arc<Node<Self>>,
        dir: PathBuf,
    ) -> Result<(Self, Supervisor), String> {
        let (metrics, readiness) = (Registry::new("spire_agent", &[]), Readiness::new(node.clock.clone()));
        let keys = keys(&dir)?;
        let server = format!("server:{PORT}");
        let mut config = vouchsafe_agent::Config::new(world.trust_domain.clone(), server, dir, keys);
        config.socket_path = AGENT_SOCKET.into();
        config.join_token = Some(token(node.index).as_str().into());
        let bundle = world.bundle().ok_or("no bundle yet")?;
        config.bootstrap = Bootstrap::Bundle(bundle);
        let deps = vouchsafe_agent::Deps {
            clock: node.clock.clone(),
            entropy: entropy_of(&world, &node),
            registry: metrics.clone(),
            readiness: readiness.clone(),
            log_level: LogLevelControl::default(),
            network: world.net.process(node.host),
        };
        let mut group = Supervisor::new();
        let running = Agent::start(config, deps, &mut group).await.map_err(|error| chain(&error))?;
        Ok((Self { running, metrics, readiness }, group))
    }

    fn ended(world: &World, node: &Node<Self>) -> bool {
        let mut facts = world.facts();
        facts.crashed(node.index);
        facts.agents[node.index].banned.is_some()
    }
}

/// The join token of an agent. Every server takes it for one agent.
#[must_use]
pub fn token(agent: usize) -> String {
    format!("token-{}", agent + 1)
}

/// Where an agent's workloads connect.
pub const AGENT_SOCKET: &str = "/agent.sock";
/// Where a server's operator connects.
pub const ADMIN_SOCKET: &str = "/server.sock";

fn keys(dir: &Path) -> Result<Arc<Disk>, String> {
    Disk::open(dir.join("keys.json")).map(Arc::new).map_err(|error| chain(&error))
}

/// A stream of its own for each process that ever runs.
fn entropy_of<P: Program>(world: &World, node: &Node<P>) -> Entropy {
    Entropy::from_seed(world.seed).fork(&format!("{}.{}", node.part, node.life()))
}

fn server_config(world: &World, tcp_address: SocketAddr, data_dir: PathBuf) -> vouchsafe_server::Config {
    vouchsafe_server::Config {
        trust_domain: world.trust_domain.clone(),
        tcp_address,
        admin_socket: ADMIN_SOCKET.into(),
        data_dir,
        admin_ids: Vec::new(),
        join_tokens: true,
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        ca_ttl: world.character.ca_ttl,
        ca_subject: Subject::ca_default(),
        policy: Policy {
            x509_svid_ttl: world.character.svid_ttl,
            jwt_svid_ttl: Duration::from_secs(120),
            agent_ttl: world.character.svid_ttl + Duration::from_secs(100),
            jwt_issuer: None,
        },
        upstream: vouchsafe_server::config::Upstream::None,
        disable_jwt_svids: false,
        admission: vouchsafe_server::config::Admission::default(),
        federation: vouchsafe_server::config::Federation::default(),
        publications: Vec::new(),
        version: "sim",
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
