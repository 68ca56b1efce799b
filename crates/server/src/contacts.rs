//! Which agents are in contact with this server, and since when others are not. In memory only: each server knows its own.
//!
//! An agent is connected while it holds a revision stream, and for [`CONNECTED_FOR`] after its last call: agents without
//! the stream, SPIRE's among them, poll every few seconds. Agents that were not heard of for [`FORGET_AFTER`] are forgotten,
//! so there are never more than agents that were let in within that time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::Registry as Metrics;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::agents::Agents;
use crate::model::ReadModel;
use crate::revisions::Revisions;

/// How long after its last call an agent counts as connected, in seconds. Twelve intervals of a SPIRE agent.
const CONNECTED_FOR: i64 = 60;
/// After how many seconds of silence an agent is forgotten.
const FORGET_AFTER: i64 = 24 * 3600;
/// The first number of agents at which the silent ones are looked for.
const FEW: usize = 1_024;

/// See the module.
pub(crate) struct Contacts {
    clock: Clock,
    heard: Mutex<Heard>,
}

/// The last call of each agent, in Unix seconds.
struct Heard {
    at: HashMap<SpiffeId, i64>,
    /// At how many agents to look for those that are silent.
    look_at: usize,
}

impl Contacts {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, heard: Mutex::new(Heard { at: HashMap::new(), look_at: FEW }) }
    }

    /// An agent calls that was let in.
    pub(crate) fn heard_of(&self, id: &SpiffeId) {
        let now = self.clock.unix_now();
        let mut heard = self.lock();
        if let Some(at) = heard.at.get_mut(id) {
            *at = now;
            return;
        }
        heard.at.insert(id.clone(), now);
        if heard.at.len() >= heard.look_at {
            heard.at.retain(|_, at| *at > now - FORGET_AFTER);
            heard.look_at = (heard.at.len() * 2).max(FEW);
        }
    }

    /// When the agent called last (Unix seconds), if it did so since this server started.
    pub(crate) fn last_heard(&self, id: &SpiffeId) -> Option<i64> {
        self.lock().at.get(id).copied()
    }

    /// Whether an agent that called at that time counts as connected.
    pub(crate) fn is_recent(&self, at: i64) -> bool {
        at >= self.clock.unix_now() - CONNECTED_FOR
    }

    /// How many agents are connected; `listens` says which ones hold a stream.
    pub(crate) fn connected(&self, listens: impl Fn(&SpiffeId) -> bool) -> usize {
        self.lock().at.iter().filter(|(id, at)| self.is_recent(**at) || listens(id)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of agents and their contact with this server.
pub(crate) struct AgentContacts {
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) revisions: Arc<Revisions>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) clock: Clock,
}

impl AgentContacts {
    /// Shows it as gauges in `metrics` from now on. `vouchsafe_agents_attested` minus `vouchsafe_agents_connected` of all servers is
    /// how many agents have an SVID and no contact.
    pub(crate) fn show(self: Arc<Self>, metrics: &Metrics) {
        metrics.before_render("agents", move |metrics| {
            let now = self.clock.unix_now();
            let connected = self.contacts.connected(|id| self.revisions.listens(id));
            let attested = |agent: &&Arc<Agent>| !agent.is_banned() && agent.expires_at > now;
            let attested = self.model.load().agents.values().filter(attested).count();
            metrics.gauge("vouchsafe_agents_connected", &[]).set(connected as f64);
            metrics.gauge("vouchsafe_agents_attested", &[]).set(attested as f64);
            metrics.gauge("vouchsafe_agent_updates_pending", &[]).set(self.agents.backlog() as f64);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn agent(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x/{name}")).unwrap()
    }

    fn contacts() -> Contacts {
        Contacts::new(Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_connected_for_a_minute_after_a_call_and_while_it_listens() {
        let contacts = contacts();
        contacts.heard_of(&agent("polls"));
        contacts.heard_of(&agent("listens"));
        assert_eq!(contacts.connected(|_| false), 2);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(contacts.connected(|id| *id == agent("listens")), 1);
        contacts.heard_of(&agent("polls"));
        assert_eq!(contacts.connected(|_| false), 1);
        assert_eq!(contacts.last_heard(&agent("listens")), Some(1_000_000));
        assert_eq!(contacts.last_heard(&agent("never")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_are_gone_for_good_are_forgotten() {
        let contacts = contacts();
        for round in 0..4 {
            for number in 0..FEW {
                contacts.heard_of(&agent(&format!("{round}-{number}")));
            }
            tokio::time::advance(Duration::from_secs(FORGET_AFTER as u64 + 1)).await;
        }
        assert!(contacts.lock().at.len() <= 2 * FEW);
        assert_eq!(contacts.last_heard(&agent("0-1")), None);
    }
}
