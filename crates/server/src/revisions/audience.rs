//! Who listens: the agents with an open stream, by ID and by selector.

use std::collections::{HashMap, HashSet};

use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;

/// Agents that listen, and what their node attestors found out about them. Bounded by the agents that there are.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    by_id: HashMap<SpiffeId, SelectorSet>,
    by_selector: HashMap<Selector, HashSet<SpiffeId>>,
}

impl Audience {
    /// Adds an agent, or replaces its selectors. Says whether anything changed.
    pub(crate) fn put(&mut self, agent: &SpiffeId, selectors: &SelectorSet) -> bool {
        if self.by_id.get(agent) == Some(selectors) {
            return false;
        }
        self.remove(agent);
        for selector in selectors.iter() {
            self.by_selector.entry(selector.clone()).or_default().insert(agent.clone());
        }
        self.by_id.insert(agent.clone(), selectors.clone());
        true
    }

    pub(crate) fn remove(&mut self, agent: &SpiffeId) {
        let Some(selectors) = self.by_id.remove(agent) else { return };
        for selector in selectors.iter() {
            if let Some(having) = self.by_selector.get_mut(selector) {
                having.remove(agent);
                if having.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
        }
    }

    /// The listener with this ID, if there is one.
    pub(crate) fn get<'a>(&'a self, agent: &SpiffeId) -> Option<&'a SpiffeId> {
        self.by_id.get_key_value(agent).map(|(id, _)| id)
    }

    /// Everyone.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SpiffeId> {
        self.by_id.keys()
    }

    /// Those that have all of `selectors`. Costs as much as the rarest of these has agents. Nobody for none.
    pub(crate) fn having<'a>(&'a self, selectors: &'a SelectorSet) -> impl Iterator<Item = &'a SpiffeId> {
        let rarest = selectors
            .iter()
            .map(|selector| self.by_selector.get(selector))
            .min_by_key(|having| having.map_or(0, HashSet::len));
        let has_all = |agent: &&SpiffeId| {
            self.by_id.get(*agent).is_some_and(|has: &SelectorSet| has.contains_all(selectors))
        };
        rarest.flatten().into_iter().flatten().filter(has_all)
    }
}
