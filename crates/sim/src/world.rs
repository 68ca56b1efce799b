//! One run: builds the world of a seed, lets it live through its faults, repairs everything, and looks whether it recovers.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::{Sqlite, Store};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::facts::Facts;
use crate::invariants::Violation;
use crate::monitor;
use crate::net::Net;
use crate::node::{Node, Program};
use crate::operator::{self, Operator};
use crate::parts::{AgentUp, ServerUp, token};
use crate::randomness;
use crate::recovery::recovery;
use crate::schedule::{self, Character, Dice, Part, Shape};
use crate::trace::Trace;
use crate::weather::{Weather, strike};
use crate::workload::Workload;

/// Everything there is.
pub struct World {
    /// What all of it was drawn from.
    pub seed: u64,
    /// When it began.
    pub began: Instant,
    /// The network.
    pub net: Net,
    /// How much there is.
    pub shape: Shape,
    /// How it differs from other worlds.
    pub character: Character,
    /// What happened.
    pub trace: Trace,
    /// Where all files are.
    pub dir: PathBuf,
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

    /// Since when all parts run, if they do.
    #[must_use]
    pub fn all_up_since(&self) -> Option<Instant> {
        let servers = self.servers.iter().map(|node| node.up_since());
        servers
            .chain(self.agents.iter().map(|node| node.up_since()))
            .try_fold(self.began, |last, up| up.map(|up| up.max(last)))
    }

    /// The SPIFFE ID of an agent.
    #[must_use]
    pub fn agent_id(&self, agent: usize) -> types::Spiffeid {
        let path = format!("/spire/agent/join_token/{}", token(agent));
        types::Spiffeid { trust_domain: self.trust_domain.as_str().to_owned(), path }
    }
}

/// How a run is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much there is, and for how long faults begin.
    pub shape: Shape,
    /// Entries at the start.
    pub entries: usize,
    /// Whether the lines of the trace are kept.
    pub keep: bool,
    /// An empty directory for all files.
    pub dir: PathBuf,
}

impl Options {
    /// As all seeds are run, with the files in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        let shape = Shape { servers: 2, agents: 3, storm: Duration::from_secs(240) };
        Self { shape, entries: 9, keep: false, dir }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first promise that was not kept.
    pub violation: Option<Violation>,
    /// Lines of the trace, and what all of them hash to. The log counts only if it is kept.
    pub hash: (u64, u64),
    /// Virtual time.
    pub took: Duration,
    /// The trace, if it was kept.
    pub lines: Vec<String>,
}

/// Runs `seed`, on a paused clock and a thread of its own. Once in the life of a process: what is drawn from
/// [`crate::randomness`] depends on all that was drawn before.
///
/// # Errors
///
/// This machine cannot run simulations at all.
pub fn run(seed: u64, options: Options) -> Result<Outcome, std::io::Error> {
    randomness::seed(seed);
    let life = thread::Builder::new().stack_size(STACK).spawn(move || {
        let mut disk = Dice(Entropy::from_seed(seed).fork("disk"));
        blocking::between_tasks(move || disk.pauses());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let outcome = runtime.block_on(live(seed, options));
        // What is left are tasks that nobody can stop from outside; they have no effect any more.
        runtime.shutdown_background();
        outcome
    })?;
    life.join().unwrap_or_else(|_| Err(std::io::Error::other("the simulation panicked")))
}

async fn live(seed: u64, options: Options) -> Result<Outcome, std::io::Error> {
    let (trace, storm) = (Trace::new(options.keep), options.shape.storm);
    let log = trace.clone();
    let ours =
        Targets::new().with_default(tracing::Level::WARN).with_target("vouchsafe", tracing::Level::DEBUG);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).without_time();
    let lines = lines.with_writer(move || log.clone()).with_filter(ours);
    let subscriber = tracing_subscriber::registry().with(lines);
    let _logging = options.keep.then(|| tracing::subscriber::set_default(subscriber));
    let mut tasks = JoinSet::new();
    let outcome = match build(seed, options, trace.clone(), &mut tasks).await {
        Ok(world) => {
            let outcome = lead(&world, storm, &mut tasks).await;
            let (packets, hash) = world.net.sent();
            for (what, most) in &world.facts().most {
                world.trace.line("most", &format!("{what}: {most}"));
            }
            world.trace.line("net", &format!("{packets} packets, hash {hash:016x}"));
            outcome
        }
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
    let shape = options.shape;
    let names = (0..shape.servers).map(Part::Server).chain((0..shape.agents).map(Part::Agent));
    let names: Vec<_> = names.map(|part| part.to_string()).collect();
    let net = Net::new(seed, &names, character.delay);
    net.alias("server", &(0..shape.servers).collect::<Vec<_>>());
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(randomness::DATE.unsigned_abs());
    let store = Sqlite::open(options.dir.join("datastore.sqlite3"), Clock::derived(wall)).await;
    let store = Arc::new(store.map_err(|error| text(&error))?);
    let nodes = |count, first, part: fn(usize) -> Part| (0..count).map(move |i| ((part(i), i), first + i));
    let (servers, server_orders): (Vec<_>, Vec<_>) =
        nodes(shape.servers, 0, Part::Server).map(|(part, host)| Node::new(part, host, wall)).unzip();
    let (agents, agent_orders): (Vec<_>, Vec<_>) = nodes(shape.agents, shape.servers, Part::Agent)
        .map(|(part, host)| Node::new(part, host, wall))
        .unzip();
    let world = Arc::new(World {
        seed,
        began: Instant::now(),
        shape,
        character,
        net,
        trace,
        dir: options.dir,
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
async fn lead(world: &Arc<World>, storm: Duration, tasks: &mut JoinSet<()>) -> Result<(), Violation> {
    let began = Instant::now();
    world.trace.line("plan", &format!("{:?}", world.character));
    for (at, fault) in schedule::plan(world.seed, world.shape) {
        wait_until(world, began + at).await;
        if world.trace.violation().is_some() {
            return Ok(());
        }
        strike(world, fault, tasks);
    }
    wait_until(world, began + storm).await;
    world.clear_up();
    let wall = world.servers[0].clock.now();
    for node in &world.servers {
        node.hands.set(wall);
    }
    for node in &world.agents {
        node.hands.set(wall);
        world.facts().agents[node.index].clock_changed = Some(Instant::now());
    }
    world.trace.line("plan", "everything is repaired");
    recovery(world, "after the repair").await
}

/// Waits, unless something is wrong already.
async fn wait_until(world: &World, until: Instant) {
    while Instant::now() < until && world.trace.violation().is_none() {
        sleep(Duration::from_secs(1).min(until.duration_since(Instant::now()))).await;
    }
}

/// Tasks do all their work on one thread, and without optimization it takes more of its stack.
const STACK: usize = 8 << 20;
/// Where servers listen.
pub const PORT: u16 = 8081;
