//! Registration entries, and which of them an agent may ask for.
//!
//! An agent is authorized for the entries whose parent it is, for those whose parent is one of its *node aliases*
//! (an entry under the server's own ID whose selectors the agent has), and from there for every descendant: an entry
//! whose parent is the SPIFFE ID of an authorized entry. An entry that has expired authorizes nothing.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{HashMap, OrdMap, OrdSet};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::selector::Selector;
use vouchsafe_types::spiffe_id::SpiffeId;

/// Entries by ID, by parent, by SPIFFE ID, and node aliases by one of their selectors.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    by_id: OrdMap<EntryId, Arc<Entry>>,
    by_parent: HashMap<SpiffeId, Ids>,
    by_spiffe_id: HashMap<SpiffeId, Ids>,
    aliases: HashMap<Selector, Ids>,
}

/// What a key leads to: mostly one entry, for which a set would take a kilobyte. Never empty.
#[derive(Clone, Debug)]
enum Ids {
    One(EntryId),
    Many(OrdSet<EntryId>),
}

impl Entries {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.by_id.get(id)
    }

    /// All entries in the order of their IDs, from the first after `after`.
    pub fn after(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id.range::<_, str>((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, entry)| entry)
    }

    /// The entries that give `id` to a workload.
    pub fn with_spiffe_id<'a>(&'a self, id: &SpiffeId) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.by_spiffe_id.get(id).into_iter().flat_map(Ids::iter).filter_map(|id| self.by_id.get(id))
    }

    /// The entries whose parent is `parent`.
    pub(crate) fn children<'a>(&'a self, parent: &SpiffeId) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.by_parent.get(parent).into_iter().flat_map(Ids::iter).filter_map(|id| self.by_id.get(id))
    }

    /// What differs from `before`, as (then, now). Costs what changed between the two, not how many entries there are.
    pub(crate) fn changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<Entry>>, Option<&'a Arc<Entry>>)> {
        before.by_id.diff(&self.by_id).map(|item| match item {
            DiffItem::Add(_, now) => (None, Some(now)),
            DiffItem::Update { old: (_, then), new: (_, now) } => (Some(then), Some(now)),
            DiffItem::Remove(_, then) => (Some(then), None),
        })
    }

    /// Adds an entry, or replaces the one with its ID.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) {
        self.remove(&entry.id);
        add(&mut self.by_parent, entry.parent_id.clone(), &entry.id);
        add(&mut self.by_spiffe_id, entry.spiffe_id.clone(), &entry.id);
        if let Some(selector) = alias_key(&entry) {
            add(&mut self.aliases, selector.clone(), &entry.id);
        }
        self.by_id.insert(entry.id.clone(), entry);
    }

    pub(super) fn remove(&mut self, id: &EntryId) {
        let Some(entry) = self.by_id.remove(id) else { return };
        take(&mut self.by_parent, &entry.parent_id, id);
        take(&mut self.by_spiffe_id, &entry.spiffe_id, id);
        if let Some(selector) = alias_key(&entry) {
            take(&mut self.aliases, selector, id);
        }
    }

    /// Every entry that `agent` may ask for at `now` (Unix seconds), in the order of their IDs.
    #[must_use]
    pub fn authorized(&self, agent: &Agent, now: i64) -> Vec<Arc<Entry>> {
        let mut found = OrdMap::new();
        let mut parents: VecDeque<SpiffeId> = self.parents_of(agent, now).collect();
        let mut seen: HashSet<SpiffeId> = parents.iter().cloned().collect();
        while let Some(parent) = parents.pop_front() {
            for entry in self.children(&parent).filter(|entry| is_live(entry, now)) {
                if seen.insert(entry.spiffe_id.clone()) {
                    parents.push_back(entry.spiffe_id.clone());
                }
                found.insert(entry.id.clone(), entry.clone());
            }
        }
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The entry `id`, if `agent` may ask for it at `now`. Climbs from the entry, so it costs the depth of the
    /// entry and not the number of entries.
    #[must_use]
    pub fn authorized_entry(&self, agent: &Agent, id: &str, now: i64) -> Option<&Arc<Entry>> {
        let wanted = self.by_id.get(id).filter(|entry| is_live(entry, now))?;
        let roots: HashSet<SpiffeId> = self.parents_of(agent, now).collect();
        let mut seen = HashSet::new();
        let mut climb = vec![&wanted.parent_id];
        while let Some(parent) = climb.pop() {
            if roots.contains(parent) {
                return Some(wanted);
            }
            if seen.insert(parent) {
                let above = self.with_spiffe_id(parent).filter(|entry| is_live(entry, now));
                climb.extend(above.map(|entry| &entry.parent_id));
            }
        }
        None
    }

    /// The agent's own ID and its aliases.
    fn parents_of<'a>(&'a self, agent: &'a Agent, now: i64) -> impl Iterator<Item = SpiffeId> + 'a {
        let aliases =
            agent.selectors.iter().filter_map(|selector| self.aliases.get(selector)).flat_map(Ids::iter);
        let aliases = aliases
            .filter_map(|id| self.by_id.get(id))
            .filter(move |alias| is_live(alias, now) && agent.selectors.contains_all(&alias.selectors))
            .map(|alias| alias.spiffe_id.clone());
        std::iter::once(agent.id.clone()).chain(aliases)
    }
}

/// Whether `entry` still counts at `now`.
pub(crate) fn is_live(entry: &Entry, now: i64) -> bool {
    !entry.is_expired(now)
}

/// The selector under which a node alias is found; `None` for every other entry.
fn alias_key(entry: &Entry) -> Option<&Selector> {
    is_alias(entry).then(|| entry.selectors.iter().next()).flatten()
}

/// Whether `entry` gives agents that have its selectors another ID.
pub(crate) fn is_alias(entry: &Entry) -> bool {
    entry.parent_id == SpiffeId::server(&entry.parent_id.trust_domain())
}

fn add<K: Clone + Eq + std::hash::Hash>(index: &mut HashMap<K, Ids>, key: K, id: &EntryId) {
    match index.get_mut(&key) {
        Some(ids) => ids.insert(id),
        None => drop(index.insert(key, Ids::One(id.clone()))),
    }
}

fn take<K: Clone + Eq + std::hash::Hash>(index: &mut HashMap<K, Ids>, key: &K, id: &EntryId) {
    if index.get_mut(key).is_some_and(|ids| ids.remove(id)) {
        index.remove(key);
    }
}

impl Ids {
    fn iter(&self) -> impl Iterator<Item = &EntryId> {
        let (one, many) = match self {
            Self::One(id) => (Some(id), None),
            Self::Many(ids) => (None, Some(ids)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, id: &EntryId) {
        match self {
            Self::One(held) if held == id => {}
            Self::One(held) => *self = Self::Many([held.clone(), id.clone()].into_iter().collect()),
            Self::Many(ids) => drop(ids.insert(id.clone())),
        }
    }

    /// `true` when nothing is left, and so nothing of this may be kept.
    fn remove(&mut self, id: &EntryId) -> bool {
        match self {
            Self::One(held) => held == id,
            Self::Many(ids) => {
                ids.remove(id);
                ids.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests;
