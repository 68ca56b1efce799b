//! What the simulation knows to be true: what the operator wants, and what workloads were handed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::invariants::Versions;

/// The truth of one run.
#[derive(Debug)]
pub struct Facts {
    /// Entries by id.
    pub entries: BTreeMap<String, EntryFact>,
    /// By agent.
    pub agents: Vec<AgentFacts>,
    /// When all clocks jumped last.
    pub jumped: Option<Instant>,
    /// The most that was seen of what has a bound.
    pub most: BTreeMap<&'static str, u64>,
}

/// An entry as the operator wants it.
#[derive(Clone, Debug)]
pub struct EntryFact {
    /// Whose.
    pub agent: usize,
    /// Path of its SPIFFE ID.
    pub path: String,
    /// What is known of it.
    pub state: EntryState,
}

/// How far the operator's wish has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryState {
    /// Asked for; nobody said yes.
    Asked,
    /// Acknowledged.
    Present,
    /// It should go; nobody said that it is gone.
    Leaving,
    /// It is gone.
    Gone,
}

/// What is known of an agent.
#[derive(Debug, Default)]
pub struct AgentFacts {
    /// What was handed out, by path; the newest last.
    pub handed: BTreeMap<String, Vec<Handed>>,
    /// What its snapshot held, newest last.
    pub versions: Vec<(Instant, Versions)>,
    /// When its ban was asked for, and when it was acknowledged.
    pub banned: Option<(Instant, Option<Instant>)>,
    /// When a server was last within its reach.
    pub contact: Option<Instant>,
    /// When no server was within its reach last.
    pub alone: Option<Instant>,
    /// When its clock was changed last.
    pub clock_changed: Option<Instant>,
    /// Tokens that were handed out in this life, by path: when they end.
    pub tokens: BTreeMap<String, i64>,
}

/// An SVID that a workload got.
#[derive(Clone, Debug)]
pub struct Handed {
    /// When.
    pub at: Instant,
    /// Which.
    pub serial: String,
    /// Its life (Unix seconds).
    pub life: (i64, i64),
}

impl Facts {
    /// For so many agents.
    #[must_use]
    pub fn new(agents: usize) -> Self {
        let agents = (0..agents).map(|_| AgentFacts::default()).collect();
        Self { entries: BTreeMap::new(), agents, jumped: None, most: BTreeMap::new() }
    }

    /// Notes how much there was of `what`.
    pub fn saw(&mut self, what: &'static str, how_much: impl TryInto<u64>) {
        let most = self.most.entry(what).or_default();
        *most = (*most).max(how_much.try_into().unwrap_or(u64::MAX));
    }

    /// The paths that `agent` should no longer serve, once it knows.
    #[must_use]
    pub fn unwanted(&self, agent: usize) -> BTreeSet<String> {
        let gone = self.entries.values().filter(|e| e.agent == agent && e.state == EntryState::Gone);
        gone.map(|entry| entry.path.clone()).collect()
    }

    /// The paths that `agent` should serve.
    #[must_use]
    pub fn wanted(&self, agent: usize) -> BTreeSet<String> {
        let wanted = self.entries.values().filter(|e| e.agent == agent && e.state == EntryState::Present);
        wanted.map(|entry| entry.path.clone()).collect()
    }

    /// The paths that were handed out by `agent`, are valid at `wall`, and were not taken away.
    #[must_use]
    pub fn held(&self, agent: usize, wall: i64) -> BTreeSet<String> {
        let (facts, wanted) = (&self.agents[agent], self.wanted(agent));
        if facts.banned.is_some() {
            return BTreeSet::new();
        }
        let valid = |handed: &&Handed| handed.life.0 <= wall && wall + 1 < handed.life.1;
        let newest = facts.handed.iter().filter(|(_, all)| all.last().as_ref().is_some_and(valid));
        newest.map(|(path, _)| path.clone()).filter(|path| wanted.contains(path)).collect()
    }

    /// Notes that an SVID was handed out. Whether it is one that was never seen before.
    pub fn note(&mut self, agent: usize, path: &str, handed: Handed) -> bool {
        let all = self.agents[agent].handed.entry(path.to_owned()).or_default();
        if all.iter().any(|before| before.serial == handed.serial) {
            return false;
        }
        all.push(handed);
        if all.len() > REMEMBERED {
            all.remove(0);
        }
        true
    }

    /// The agent's process ended: what it got a moment ago may not be on its disk.
    pub fn crashed(&mut self, agent: usize) {
        let Some(saved_until) = Instant::now().checked_sub(SAVED_AFTER) else { return };
        let facts = &mut self.agents[agent];
        facts.tokens.clear();
        for all in facts.handed.values_mut() {
            while all.last().is_some_and(|newest| newest.at > saved_until) {
                all.pop();
            }
        }
        while facts.versions.last().is_some_and(|(at, _)| *at > saved_until) {
            facts.versions.pop();
        }
    }
}

/// After so long everything that an agent has is on its disk: it writes 2 s after the change before at the latest, and the
/// writer leaves a quarter of a second between two writes.
pub const SAVED_AFTER: Duration = Duration::from_millis(2300);
/// SVIDs of one path that are remembered.
const REMEMBERED: usize = 8;
