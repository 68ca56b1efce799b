//! Whether everything is as the operator wants it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vouchsafe_store::Record;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::Entry;

use crate::facts::EntryState;
use crate::invariants::{Violation, forgets, recovers};
use crate::workload::Workload;
use crate::world::World;

/// Waits until each agent serves all that the operator wants.
///
/// # Errors
///
/// What is still missing after [`RECOVERY`].
pub async fn recovery(world: &Arc<World>, when: &str) -> Result<(), Violation> {
    let began = Instant::now();
    loop {
        let verdict = all_served(world).await;
        if verdict.is_ok() {
            world.trace.line("plan", &format!("{when}: all is served after {:?}", began.elapsed()));
            world.facts().saw("ms until all is served", began.elapsed().as_millis());
            let up = world.all_up_since().map_or(began, |since| since.max(began));
            world.facts().saw("ms until all is served since all run", up.elapsed().as_millis());
            return verdict;
        }
        let all_up = world.all_up_since().map_or(AWAY, |since| since.saturating_duration_since(began));
        if began.elapsed() > all_up + RECOVERY || world.trace.violation().is_some() {
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

/// How long it may take from the repair, and from the start of the last part, until all is served: the longest pause between
/// two attempts of an agent is 30 s, and a server looks into its store every 5 s.
const RECOVERY: Duration = Duration::from_secs(36);
/// How long a part may be away after the repair: one that may not go on is started again after 120 s.
const AWAY: Duration = Duration::from_secs(121);
