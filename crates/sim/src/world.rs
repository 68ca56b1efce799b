//! One run: builds the world of a seed, lets it live through its faults, repairs everything, and looks whether it recovers.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::{Record, Sqlite, Store};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::facts::{EntryState, Facts};
use crate::invariants::{Violation, forgets, recovers};
use crate::monitor;
use crate::net::Net;
use crate::node::{Node, Order, Program};
use crate::operator::{self, Operator};
use crate::parts::{AgentUp, ServerUp, token};
use crate::schedule::{self, Accident, Character, Fault, Part, Shape};
use crate::trace::Trace;
use crate::weather::Weather;
use crate::workload::Workload;

/// Everything there is.
pub struct World {
    /// What all of it was drawn from.
    pub seed: u64,
    /// The network.
    pub net: Net,
    /// How it differs from other worlds.
    pub character: Character,
    /// What happened.
    pub trace: Trace,
    /// Where all files are.
    pub dir: TempDir,
    /// The one database of all servers.
    pub store: Arc<dyn Store>,
    /// The servers.
    pub servers: Vec<Arc<Node<ServerUp>>>,
    /// The agents.
    pub agents: Vec<Arc<Node<AgentUp>>>,
    /// Whose identities it is about.
    pub trust_domain: TrustDomain,
    facts: Mutex<Facts>,
    weather: Mutex<Weather>,
    bundle: Mutex<Option<Bundle>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl World {
    /// What is known to be true.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which troubles there are.
    pub fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bundle that agents are installed with.
    #[must_use]
    pub fn bundle(&self) -> Option<Bundle> {
        self.bundle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The SPIFFE ID of an agent.
    #[must_use]
    pub fn agent_id(&self, agent: usize) -> types::Spiffeid {
        let path = format!("/spire/agent/join_token/{}", token(agent));
        types::Spiffeid { trust_domain: self.trust_domain.as_str().to_owned(), path }
    }
}

/// How a run is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much there is, and for how long faults begin.
    pub shape: Shape,
    /// Entries at the start.
    pub entries: usize,
    /// Whether the lines of the trace are kept.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        let shape = Shape { servers: 2, agents: 3, storm: Duration::from_secs(240) };
        Self { shape, entries: 9, keep: false }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first promise that was not kept.
    pub violation: Option<Violation>,
    /// Steps, and what they hash to.
    pub hash: (u64, u64),
    /// Virtual time.
    pub took: Duration,
    /// The trace, if it was kept.
    pub lines: Vec<String>,
}

/// Runs `seed`, on a paused clock of its own.
///
/// # Errors
///
/// This machine cannot run simulations at all.
pub fn run(seed: u64, options: Options) -> Result<Outcome, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let outcome = runtime.block_on(live(seed, options));
    // What is left are tasks that nobody can stop from outside; they have no effect any more.
    runtime.shutdown_background();
    outcome
}

async fn live(seed: u64, options: Options) -> Result<Outcome, std::io::Error> {
    let trace = Trace::new(options.keep);
    let log = trace.clone();
    let ours =
        Targets::new().with_default(tracing::Level::WARN).with_target("vouchsafe", tracing::Level::DEBUG);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).without_time();
    let lines = lines.with_writer(move || log.clone()).with_filter(ours);
    let subscriber = tracing_subscriber::registry().with(lines);
    let _logging = options.keep.then(|| tracing::subscriber::set_default(subscriber));
    let mut tasks = JoinSet::new();
    let outcome = match build(seed, options, trace.clone(), &mut tasks).await {
        Ok(world) => lead(&world, options, &mut tasks).await,
        Err(error) => Err(Violation { invariant: "starts", what: error }),
    };
    tasks.shutdown().await;
    if let Err(violation) = outcome {
        trace.violated(violation);
    }
    let (hash, took, lines) = (trace.hash(), trace.elapsed(), trace.lines());
    Ok(Outcome { seed, violation: trace.violation(), hash, took, lines })
}

/// A world whose servers start.
async fn build(
    seed: u64,
    options: Options,
    trace: Trace,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<World>, String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let character = Character::of(seed);
    let base = Path::new("/dev/shm");
    let dir = if base.is_dir() { TempDir::new_in(base) } else { TempDir::new() };
    let dir = dir.map_err(|error| text(&error))?;
    let shape = options.shape;
    let names = (0..shape.servers).map(Part::Server).chain((0..shape.agents).map(Part::Agent));
    let names: Vec<_> = names.map(|part| part.to_string()).collect();
    let net = Net::new(seed, &names, character.delay);
    net.alias("server", &(0..shape.servers).collect::<Vec<_>>());
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let store = Sqlite::open(dir.path().join("datastore.sqlite3"), Clock::derived(wall)).await;
    let store = Arc::new(store.map_err(|error| text(&error))?);
    let nodes = |count, first, part: fn(usize) -> Part| (0..count).map(move |i| ((part(i), i), first + i));
    let (servers, server_orders): (Vec<_>, Vec<_>) =
        nodes(shape.servers, 0, Part::Server).map(|(part, host)| Node::new(part, host, wall)).unzip();
    let (agents, agent_orders): (Vec<_>, Vec<_>) = nodes(shape.agents, shape.servers, Part::Agent)
        .map(|(part, host)| Node::new(part, host, wall))
        .unzip();
    let world = Arc::new(World {
        seed,
        character,
        net,
        trace,
        dir,
        store,
        servers,
        agents,
        trust_domain: TrustDomain::parse("example.org").map_err(|error| text(&error))?,
        facts: Mutex::new(Facts::new(shape.agents)),
        weather: Mutex::new(Weather::new(shape.servers)),
        bundle: Mutex::default(),
    });
    for (node, orders) in world.servers.iter().zip(server_orders) {
        tasks.spawn(node.clone().live(world.clone(), orders));
    }
    all_up(&world.servers).await?;
    let mut operator = Operator::new(world.clone());
    operator.set_up(options.entries).await?;
    let bundle = first_bundle(&world).await?;
    *world.bundle.lock().unwrap_or_else(PoisonError::into_inner) = Some(bundle);
    for (node, orders) in world.agents.iter().zip(agent_orders) {
        tasks.spawn(node.clone().live(world.clone(), orders));
        let workload = Workload::new(world.clone(), node.index);
        tasks.spawn(workload.clone().fetch());
        tasks.spawn(workload.clone().follow());
        tasks.spawn(workload.tokens());
    }
    all_up(&world.agents).await?;
    recovery(&world, "at the start").await.map_err(|violation| violation.to_string())?;
    tasks.spawn(monitor::watch(world.clone()));
    tasks.spawn(operator.run());
    Ok(world)
}

/// The bundle with an authority of each server.
async fn first_bundle(world: &World) -> Result<Bundle, String> {
    for _ in 0..100 {
        let bundle = operator::bundle(world).await?;
        if bundle.x509_authorities.len() >= world.servers.len() {
            return Ok(bundle);
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err("the servers' authorities are not in the bundle".into())
}

async fn all_up<P: Program>(nodes: &[Arc<Node<P>>]) -> Result<(), String> {
    for _ in 0..600 {
        if nodes.iter().all(|node| node.up().is_some()) {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err("not all parts start".into())
}

/// The faults, then the repair, then the last look.
async fn lead(world: &Arc<World>, options: Options, tasks: &mut JoinSet<()>) -> Result<(), Violation> {
    let began = Instant::now();
    world.trace.step("plan", &format!("{:?}", world.character));
    for (at, fault) in schedule::plan(world.seed, options.shape) {
        wait_until(world, began + at).await;
        if world.trace.violation().is_some() {
            return Ok(());
        }
        strike(world, fault, tasks);
    }
    wait_until(world, began + options.shape.storm).await;
    world.clear_up();
    let wall = world.servers[0].clock.now();
    for node in &world.servers {
        node.hands.set(wall);
    }
    for node in &world.agents {
        node.hands.set(wall);
        world.facts().agents[node.index].clock_changed = Some(Instant::now());
    }
    world.trace.step("plan", "everything is repaired");
    recovery(world, "after the repair").await
}

/// Waits, unless something is wrong already.
async fn wait_until(world: &World, until: Instant) {
    while Instant::now() < until && world.trace.violation().is_none() {
        sleep(Duration::from_secs(1).min(until.duration_since(Instant::now()))).await;
    }
}

fn strike(world: &Arc<World>, fault: Fault, tasks: &mut JoinSet<()>) {
    world.trace.step("plan", &format!("{fault:?}"));
    match fault {
        Fault::For(lasts, trouble) => {
            let (number, world) = (world.begin(trouble), world.clone());
            tasks.spawn(async move {
                sleep(lasts).await;
                world.end(number);
                world.trace.step("plan", &format!("over: {trouble:?}"));
            });
        }
        Fault::Once(accident) => happen(world, accident, tasks),
    }
}

fn happen(world: &Arc<World>, accident: Accident, tasks: &mut JoinSet<()>) {
    match accident {
        Accident::Crash(part, away) => order(world, part, Order::Crash(away)),
        Accident::PowerCut(part, away) => {
            world.power(part, false);
            order(world, part, Order::Crash(away));
            let world = world.clone();
            tasks.spawn(async move {
                sleep(away).await;
                world.power(part, true);
            });
        }
        Accident::Restart(part) => order(world, part, Order::Restart),
        Accident::Reset(agent) => {
            for server in &world.servers {
                world.net.reset(world.agents[agent].host, server.host);
            }
        }
        Accident::Jump(seconds) => {
            world.servers.iter().for_each(|node| node.hands.jump(seconds));
            world.agents.iter().for_each(|node| node.hands.jump(seconds));
            let mut facts = world.facts();
            facts.jumped = Some(Instant::now());
            // A token from the future is none.
            facts.agents.iter_mut().for_each(|agent| agent.tokens.clear());
        }
        Accident::Skew(Part::Server(server), seconds) => world.servers[server].hands.jump(seconds),
        Accident::Skew(Part::Agent(agent), seconds) => {
            world.agents[agent].hands.jump(seconds);
            let mut facts = world.facts();
            let agent = &mut facts.agents[agent];
            agent.clock_changed = Some(Instant::now());
            agent.tokens.clear();
        }
    }
}

fn order(world: &World, part: Part, order: Order) {
    match part {
        Part::Server(server) => world.servers[server].order(order),
        Part::Agent(agent) => world.agents[agent].order(order),
    }
}

/// Waits until each agent serves all that the operator wants.
async fn recovery(world: &Arc<World>, when: &str) -> Result<(), Violation> {
    let began = Instant::now();
    loop {
        let verdict = all_served(world).await;
        if verdict.is_ok() {
            world.trace.remark("plan", &format!("{when}: all is served after {:?}", began.elapsed()));
            return verdict;
        }
        if began.elapsed() > RECOVERY || world.trace.violation().is_some() {
            return verdict;
        }
        sleep(Duration::from_secs(2)).await;
    }
}

async fn all_served(world: &Arc<World>) -> Result<(), Violation> {
    for agent in 0..world.agents.len() {
        if world.facts().agents[agent].banned.is_some() {
            continue;
        }
        let served = Workload::new(world.clone(), agent).look().await.unwrap_or_default();
        let name = world.agents[agent].part.to_string();
        recovers(&name, &world.facts().wanted(agent), &served)?;
        forgets(&name, &world.facts().unwanted(agent), &served)?;
    }
    let stored = stored(world).await.map_err(|error| Violation { invariant: "recovers", what: error })?;
    for agent in 0..world.agents.len() {
        if world.facts().agents[agent].banned.is_none() {
            is_current(world, agent, &stored.entries)?;
        }
    }
    let facts = world.facts();
    let acknowledged = facts.entries.iter().filter(|(_, entry)| entry.state == EntryState::Present);
    let found = stored.entries.iter().map(|entry| entry.id.to_string()).collect();
    recovers("the database", &acknowledged.map(|(id, _)| id.clone()).collect(), &found)
}

/// Whether the agent has the newest revision of each entry, and an SVID that was issued for it.
fn is_current(world: &World, agent: usize, stored: &[Entry]) -> Result<(), Violation> {
    let (node, parent) = (&world.agents[agent], world.agent_id(agent));
    let Some(up) = node.up() else { return Ok(()) };
    let snapshot = up.running.identities.load();
    let name = |id: &str, revision: i64, created: i64| format!("{id} revision {revision} of {created}");
    let own = stored.iter().filter(|entry| entry.parent_id.path() == parent.path);
    let expected = own.map(|e| name(e.id.as_str(), e.revision_number, e.created_at)).collect();
    let issued =
        snapshot.svids.iter().map(|(id, svid)| name(id.as_str(), svid.issued_for.0, svid.issued_for.1));
    recovers(&node.part.to_string(), &expected, &issued.collect())
}

/// What is in the database.
#[derive(Debug, Default)]
pub struct Stored {
    /// Entries.
    pub entries: Vec<Entry>,
    /// The trust domain's bundle.
    pub bundle: Option<Bundle>,
}

/// Reads the database, past all troubles.
///
/// # Errors
///
/// It cannot be read.
pub async fn stored(world: &World) -> Result<Stored, String> {
    let mut stored = Stored::default();
    let mut note = |record| match record {
        Record::Entry(entry) => stored.entries.push(entry),
        Record::Bundle(bundle) if bundle.trust_domain == world.trust_domain => stored.bundle = Some(bundle),
        _ => {}
    };
    world.store.load(&mut note).await.map_err(|error| error.to_string())?;
    Ok(stored)
}

/// How long it may take from the repair until all is served: the longest delay between two attempts, and what follows.
const RECOVERY: Duration = Duration::from_secs(150);
/// Where servers listen.
pub const PORT: u16 = 8081;
