//! Whom a change concerns. Pure.
//!
//! An entry concerns the agents from which a path of parents leads to it: agent or node alias, then entry by entry. The
//! path is climbed from the entry, so the cost follows the agents that have it and not the agents and entries that there
//! are. When an entry that is itself a parent changes, everything below it may come or
//! go, and the agents concerned compare all they have. Whether entries on the path have expired is not looked at: a
//! superfluous notice costs a look, a missing one an identity.
//!
//! Why nobody is forgotten: let an agent be authorized for an entry before the change and not after it (or the other way
//! round, or for another revision). Of the path that made it so, take the changed entry nearest to the agent. All above it
//! is unchanged, so climbing from it reaches the agent. It is the entry in question, or it has children and the agent
//! compares everything. If it is the agent itself that changed, it compares everything.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::audience::Audience;
use crate::model::{Entries, Snapshot, is_alias};

/// What happened between two snapshots.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Entries, as (then, now).
    pub(crate) entries: Vec<ThenNow>,
    /// Agents of which anything changed.
    pub(crate) agents: Vec<SpiffeId>,
    /// Trust domains whose bundle changed.
    pub(crate) bundles: Vec<TrustDomain>,
}

/// An entry before and after; `None` when there was none.
pub(crate) type ThenNow = (Option<Arc<Entry>>, Option<Arc<Entry>>);

impl Difference {
    /// Between `before` and `after`. Costs what changed.
    pub(crate) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        use imbl::ordmap::DiffItem;
        let entries = after.entries.changed_since(&before.entries);
        let agents = before.agents.diff(&after.agents).map(|item| match item {
            DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => {
                id.clone()
            }
        });
        // There are few bundles, and one that did not change is the same object.
        let same = |name: &TrustDomain| match (before.bundles.get(name), after.bundles.get(name)) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now) || then == now,
            (then, now) => then.is_none() && now.is_none(),
        };
        let names: BTreeSet<&TrustDomain> = before.bundles.keys().chain(after.bundles.keys()).collect();
        Self {
            entries: entries.map(|(then, now)| (then.cloned(), now.cloned())).collect(),
            agents: agents.collect(),
            bundles: names.into_iter().filter(|name| !same(name)).cloned().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.agents.is_empty() && self.bundles.is_empty()
    }
}

/// What an agent has to look at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct News {
    /// Everything that it may ask for.
    pub(crate) compare: bool,
    /// These entries. At most [`MAX_ENTRIES`]; beyond that `compare`.
    pub(crate) entries: BTreeSet<EntryId>,
    /// The bundles of these trust domains.
    pub(crate) bundles: BTreeSet<TrustDomain>,
    /// Whether it may still listen.
    pub(crate) admission: bool,
}

/// Entries that are told one by one. Above it the agent compares everything, which is then cheaper.
pub(crate) const MAX_ENTRIES: usize = 64;

impl News {
    /// Everything: what a new listener gets.
    pub(crate) fn everything() -> Self {
        Self { compare: true, ..Self::default() }
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.compare |= other.compare;
        self.admission |= other.admission;
        self.bundles.extend(other.bundles.iter().cloned());
        if !self.compare {
            self.entries.extend(other.entries.iter().cloned());
        }
        self.bound();
    }

    fn bound(&mut self) {
        if self.compare || self.entries.len() > MAX_ENTRIES {
            self.compare = true;
            self.entries.clear();
        }
    }
}

/// Whom of `audience` the `difference` between two snapshots concerns. The audience knows the agents as they are after it;
/// those in `moved` had other selectors before.
pub(crate) fn concerned(
    difference: &Difference,
    (before, after): (&Snapshot, &Snapshot),
    (audience, moved): (&Audience, &HashSet<SpiffeId>),
    own: &TrustDomain,
) -> HashMap<SpiffeId, News> {
    let mut told: HashMap<SpiffeId, News> = HashMap::new();
    let by_parent = entries_by_parent(difference, (&before.entries, &after.entries));
    for (parent, news) in &by_parent {
        let mut agents = HashSet::new();
        // What is above the changed entry nearest to an agent is the same in both snapshots.
        climb(parent, &after.entries, audience, &mut agents);
        tell(&mut told, agents, news);
    }
    for (alias, news) in aliases(difference, (&before.entries, &after.entries)) {
        tell(&mut told, audience.having(&alias.selectors), &news);
    }
    for name in &difference.bundles {
        let news = News { bundles: BTreeSet::from([name.clone()]), ..News::default() };
        if name == own {
            tell(&mut told, audience.all(), &news);
        } else {
            tell(&mut told, federating(name, &after.entries, audience), &news);
        }
    }
    for id in difference.agents.iter().filter_map(|id| audience.get(id)) {
        let news = News { admission: true, compare: moved.contains(id), ..News::default() };
        tell(&mut told, [id], &news);
    }
    told
}

fn tell<'a>(told: &mut HashMap<SpiffeId, News>, agents: impl IntoIterator<Item = &'a SpiffeId>, news: &News) {
    for agent in agents {
        told.entry(agent.clone()).or_default().add(news);
    }
}

/// The changed entries that are no aliases, by their parents: most entries of a batch share few of these.
fn entries_by_parent(difference: &Difference, snapshots: (&Entries, &Entries)) -> HashMap<SpiffeId, News> {
    let mut by_parent: HashMap<SpiffeId, News> = HashMap::new();
    for (then, now) in &difference.entries {
        for entry in then.iter().chain(now).filter(|entry| !is_alias(entry)) {
            let news = by_parent.entry(entry.parent_id.clone()).or_default();
            if news.compare {
                continue;
            }
            news.entries.insert(entry.id.clone());
            news.compare = is_parent(entry, snapshots);
            news.bound();
        }
    }
    by_parent
}

/// The changed aliases that lead to anything.
fn aliases<'a>(
    difference: &'a Difference,
    snapshots: (&'a Entries, &'a Entries),
) -> impl Iterator<Item = (&'a Arc<Entry>, News)> {
    let changed = difference.entries.iter().flat_map(|(then, now)| then.iter().chain(now));
    let aliases = changed.filter(move |entry| is_alias(entry) && is_parent(entry, snapshots));
    aliases.map(|alias| (alias, News::everything()))
}

fn is_parent(entry: &Entry, (before, after): (&Entries, &Entries)) -> bool {
    [before, after].iter().any(|entries| entries.children(&entry.spiffe_id).next().is_some())
}

/// Adds the listeners from which a path leads to entries under `parent`.
fn climb<'a>(
    parent: &'a SpiffeId,
    entries: &'a Entries,
    audience: &'a Audience,
    found: &mut HashSet<&'a SpiffeId>,
) {
    let mut seen = HashSet::new();
    let mut above = vec![parent];
    while let Some(parent) = above.pop() {
        if !seen.insert(parent) {
            continue;
        }
        found.extend(audience.get(parent));
        for entry in entries.with_spiffe_id(parent) {
            if is_alias(entry) {
                found.extend(audience.having(&entry.selectors));
            } else {
                above.push(&entry.parent_id);
            }
        }
    }
}

/// The listeners with entries that federate with `name`. Looks at every entry: foreign bundles rarely change.
fn federating<'a>(name: &TrustDomain, entries: &'a Entries, audience: &'a Audience) -> HashSet<&'a SpiffeId> {
    let naming = entries.after(None).filter(|entry| entry.federates_with.contains(name));
    let parents: HashSet<&SpiffeId> = naming.map(|entry| &entry.parent_id).collect();
    let mut found = HashSet::new();
    for parent in parents {
        climb(parent, entries, audience, &mut found);
    }
    found
}

#[cfg(test)]
mod tests;
