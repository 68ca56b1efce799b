//! Looks at every part each second and compares what it says with the truth.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vouchsafe_runtime::readiness::State;

use crate::invariants::{
    Versions, Violation, does_not_stampede, knows_its_age, never_goes_backwards, says_when_it_is_degraded,
    stays_within_bounds,
};
use crate::world::World;

/// Watches a world until its end.
pub async fn watch(world: Arc<World>) {
    let mut windows = Windows::default();
    loop {
        sleep(Duration::from_secs(1)).await;
        for agent in 0..world.agents.len() {
            note_contact(&world, agent);
            report(&world, agent_versions(&world, agent));
            report(&world, agent_age(&world, agent));
        }
        for server in 0..world.servers.len() {
            report(&world, server_readiness(&world, server));
        }
        report(&world, bounds(&world));
        report(&world, windows.look(&world));
    }
}

fn report(world: &World, verdict: Result<(), Violation>) {
    if let Err(violation) = verdict {
        world.trace.violated(violation);
    }
}

fn note_contact(world: &World, agent: usize) {
    let host = world.agents[agent].host;
    let in_reach = world.servers.iter().any(|server| world.net.reachable(host, server.host));
    let mut facts = world.facts();
    let noted = &mut facts.agents[agent];
    let when = if in_reach { &mut noted.contact } else { &mut noted.alone };
    *when = Some(Instant::now());
}

fn agent_versions(world: &World, agent: usize) -> Result<(), Violation> {
    let node = &world.agents[agent];
    let Some(up) = node.up() else { return Ok(()) };
    let snapshot = up.running.identities.load();
    if !snapshot.synchronized {
        return Ok(());
    }
    let mut versions: Versions = snapshot
        .index
        .iter()
        .map(|slot| (slot.entry.id.to_string(), u64::try_from(slot.entry.revision_number).unwrap_or(0)))
        .collect();
    if let Some(bundles) = &snapshot.bundles {
        versions.insert("bundle".into(), bundles.own.bundle.sequence_number);
    }
    let mut facts = world.facts();
    let history = &mut facts.agents[agent].versions;
    let verdict = match history.last() {
        Some((_, before)) => never_goes_backwards(&node.part.to_string(), before, &versions),
        None => Ok(()),
    };
    if history.last().is_none_or(|(_, before)| *before != versions) {
        history.push((Instant::now(), versions));
        if history.len() > 32 {
            history.remove(0);
        }
    }
    verdict
}

fn agent_age(world: &World, agent: usize) -> Result<(), Violation> {
    let node = &world.agents[agent];
    let Some(up) = node.up() else { return Ok(()) };
    let Some(last) = up.running.status.borrow().last_sync else { return Ok(()) };
    let facts = world.facts();
    let Some(contact) = facts.agents[agent].contact else { return Ok(()) };
    let turned = facts.jumped.max(facts.agents[agent].clock_changed);
    if turned.is_some_and(|turned| turned >= contact) {
        return Ok(());
    }
    let claimed = node.clock.now().duration_since(last).unwrap_or_default();
    knows_its_age(&node.part.to_string(), claimed, contact.elapsed())
}

fn server_readiness(world: &World, server: usize) -> Result<(), Violation> {
    let node = &world.servers[server];
    let (Some(up), Some(up_since)) = (node.up(), node.up_since()) else { return Ok(()) };
    let report = up.readiness.report();
    let store = report.parts.iter().filter(|part| part.name.contains("datastore"));
    let degraded = store.map(|part| part.state).any(|state| state != State::Ready);
    let (away, since) = world.weather().store(server);
    let long = if away { NOTICED } else { FORGOTTEN };
    if degraded != away && up_since.elapsed() > since.elapsed() {
        let name =
            if away { "ms until a store's loss is noticed" } else { "ms until a store's return is noticed" };
        world.facts().saw(name, since.elapsed().as_millis());
    }
    let known = since.elapsed() > long && up_since.elapsed() > long;
    says_when_it_is_degraded(&node.part.to_string(), known.then_some(away), degraded)
}

fn bounds(world: &World) -> Result<(), Violation> {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let parts = world.servers.len() + world.agents.len();
    stays_within_bounds("tasks", tasks, TASKS * parts)?;
    let (connections, bytes) = world.net.load();
    let mut facts = world.facts();
    facts.saw("tasks", tasks);
    facts.saw("connections", connections);
    facts.saw("bytes under way", bytes);
    drop(facts);
    stays_within_bounds("connections", connections, OPEN * parts)?;
    stays_within_bounds("bytes under way", bytes, UNDER_WAY)
}

/// Calls in the last [`WINDOW`].
#[derive(Debug, Default)]
struct Windows {
    seen: VecDeque<Totals>,
}

/// Calls since the beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    connections: u64,
    store: u64,
}

impl Windows {
    fn look(&mut self, world: &World) -> Result<(), Violation> {
        let mut now = Totals { connections: world.net.attempts(), ..Totals::default() };
        for up in world.servers.iter().filter_map(|node| node.up()) {
            now.store += up.faults.reads() + up.faults.writes();
        }
        self.seen.push_back(now);
        let Some(before) = (self.seen.len() > WINDOW).then(|| self.seen.pop_front()).flatten() else {
            return Ok(());
        };
        let (agents, servers) = (world.agents.len() as u64, world.servers.len() as u64);
        let (connections, calls) =
            (now.connections - before.connections, now.store.saturating_sub(before.store));
        let mut facts = world.facts();
        facts.saw("connections in a window", connections);
        facts.saw("store calls in a window", calls);
        drop(facts);
        // A server that started anew has counted nothing yet, so a window over its start counts less.
        does_not_stampede("connections", connections, agents * servers * ATTEMPTS)?;
        does_not_stampede("store calls", calls, servers * STORE_CALLS)
    }
}

/// Seconds of a window.
const WINDOW: usize = 10;
/// Connections of one agent to one server in a window. It calls for three reasons (its own SVID, entries, SVIDs of workloads);
/// each tries again after about 1, 2, 4 and 8 s at first, which is five times in the first 10 s.
const ATTEMPTS: u64 = 3 * 5;
/// Calls of one server to the store in a window: the feed looks again after 250 ms to 1 s while the store is away, and each
/// of the others who write has a pause that grows.
const STORE_CALLS: u64 = 50;
/// Tasks for each part. None for a call, a certificate or an entry.
const TASKS: usize = 30;
/// Connections for each part: an agent has one to each server, its workloads have one, and one is being opened.
const OPEN: usize = 4;
/// Bytes that are under way in the whole network.
const UNDER_WAY: usize = 32 << 10;
/// A store that was away for so long is noticed: a slow call that has begun still succeeds, after at most 5 s, the feed looks
/// 5 s later, and that call fails after 8 s.
const NOTICED: Duration = Duration::from_secs(19);
/// A store that is back for so long is noticed: a call that is not answered fails after 8 s, the next comes within 1 s, and
/// then everything is read, which is four calls of at most 5 s each.
const FORGOTTEN: Duration = Duration::from_secs(30);
