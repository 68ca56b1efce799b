//! All simulated agents, and what they saw.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::ENTRIES_EACH;
use crate::client::{Admin, Node, Remote, entry, new_csr};
use crate::simulated::{self, Arrival, Mode, Seen, Shared};
use crate::world::World;

pub(crate) struct Fleet {
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    arrivals: tokio::sync::Mutex<mpsc::UnboundedReceiver<Arrival>>,
    admin: tokio::sync::Mutex<Admin>,
    agents: Vec<Agent>,
    tasks: JoinSet<()>,
}

struct Agent {
    path: String,
    seen: Arc<Seen>,
}

impl Fleet {
    pub(crate) async fn new(world: &World) -> Self {
        let (mode, mode_seen) = watch::channel(Mode::Push);
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let remote = Remote::of(world.port, &world.admin().await).await;
        let shared = Arc::new(Shared::new(remote, new_csr().await, mode_seen, arrived));
        let (arrivals, admin) = (arrivals.into(), world.admin().await.into());
        Self { shared, mode, arrivals, admin, agents: Vec::new(), tasks: JoinSet::new() }
    }

    /// Adds agents until there are `count`, with their entries, and waits until each holds its SVIDs.
    pub(crate) async fn grow_to(&mut self, count: usize, world: &World) {
        let new = count - self.agents.len();
        let nodes = self.attest(new, world).await;
        let entries: Vec<_> = nodes
            .iter()
            .flat_map(|node| {
                (0..ENTRIES_EACH)
                    .map(|number| entry(&node.path, &path_of(&node.path, number), selector(number)))
            })
            .collect();
        for batch in entries.chunks(BATCH) {
            self.admin.lock().await.create(batch.to_vec()).await;
        }
        for node in nodes {
            let seen = Arc::new(Seen::default());
            self.agents.push(Agent { path: node.path.clone(), seen: seen.clone() });
            self.tasks.spawn(simulated::live(node, self.shared.clone(), seen));
        }
        let wanted = self.entries();
        self.eventually("every agent holds its SVIDs", || self.shared.held.load(Ordering::Relaxed) >= wanted)
            .await;
        while self.arrivals.lock().await.try_recv().is_ok() {}
    }

    async fn attest(&self, count: usize, world: &World) -> Vec<Node> {
        let admin = world.admin().await;
        let mut shares = JoinSet::new();
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(admin.join_token(None).await);
        }
        for tokens in tokens.chunks(count.div_ceil(AT_ONCE)).map(<[String]>::to_vec) {
            let shared = self.shared.clone();
            shares.spawn(async move {
                let mut nodes = Vec::new();
                for token in tokens {
                    nodes.push(shared.remote.attest(&token).await);
                }
                nodes
            });
        }
        shares.join_all().await.into_iter().flatten().collect()
    }

    /// Creates `count` entries, one after the other, for agents all over the fleet, and removes them at the end. Gives for
    /// each the time from the call to the SVID in the agent's hands.
    pub(crate) async fn follow(&self, count: usize) -> Vec<Duration> {
        let mut arrivals = self.arrivals.lock().await;
        while arrivals.try_recv().is_ok() {}
        let (mut delays, mut created) = (Vec::new(), Vec::new());
        for number in 0..count {
            let agent = &self.agents[number * self.agents.len() / count];
            let new = entry(&agent.path, &format!("followed/{number}"), selector(ENTRIES_EACH + number));
            let start = Instant::now();
            let id = self.admin.lock().await.create(vec![new]).await.remove(0);
            let arrived = loop {
                let arrival =
                    timeout(PATIENCE, arrivals.recv()).await.expect("the SVID of a new entry").unwrap();
                if arrival.entry_id == id {
                    break arrival.at;
                }
            };
            delays.push(arrived - start);
            created.push(id);
        }
        self.admin.lock().await.delete(created).await;
        delays
    }

    pub(crate) fn switch(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }

    pub(crate) fn entries(&self) -> usize {
        self.agents.len() * ENTRIES_EACH
    }

    /// Starts counting anew.
    pub(crate) fn forget_latencies(&self) {
        self.shared.sync_latencies.lock().unwrap().clear();
        self.shared.calls.store(0, Ordering::Relaxed);
        self.shared.failures.store(0, Ordering::Relaxed);
    }

    pub(crate) fn sync_latencies(&self) -> Vec<Duration> {
        self.shared.sync_latencies.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> f64 {
        self.shared.calls.load(Ordering::Relaxed) as f64
    }

    pub(crate) fn failures(&self) -> usize {
        self.shared.failures.load(Ordering::Relaxed)
    }

    pub(crate) async fn wait_until_all_are_away(&self) {
        self.eventually("every agent noticed", || self.agents.iter().all(|agent| !agent.seen.in_touch()))
            .await;
    }

    /// When each agent was in touch again.
    pub(crate) async fn wait_until_all_are_back(&self) -> Vec<Instant> {
        self.eventually("every agent is back", || self.agents.iter().all(|agent| agent.seen.in_touch()))
            .await;
        self.agents.iter().map(|agent| agent.seen.since()).collect()
    }

    async fn eventually(&self, what: &str, met: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !met() {
            assert!(Instant::now() < until, "still not after {PATIENCE:?}: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn path_of(agent: &str, number: usize) -> String {
    format!("workload/{}/{number}", agent.rsplit('/').next().unwrap())
}

fn selector(number: usize) -> String {
    format!("uid:{}", 100_000 + number)
}

/// Agents that attest at the same time.
const AT_ONCE: usize = 8;
/// Entries per call.
const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(20);
