//! Who declares which entry, what the server has, and what to do about the difference. Pure: no I/O, no clock.
//!
//! **What is declared.** Each `ClusterSPIFFEID` of the configured class makes an entry for each Pod that it selects; those with
//! `fallback` only where no other did. Each `ClusterStaticEntry` makes one. Entries are similar when SPIFFE ID, parent and
//! selectors agree; of similar ones the oldest object's is set and the others are masked.
//!
//! **What it costs.** [`Ledger::observe`] looks at what differs from what was observed last, and renders the Pods that it
//! concerns; [`Ledger::plan`] looks at the entries that these declare or declared. Only a changed `ClusterSPIFFEID` is
//! rendered for all Pods.
//!
//! **What is withdrawn.** An entry that nobody declares is deleted, also when a person made it (unless entries have a prefix
//! of their own), as spire-controller-manager does. In one thing this differs: *an object that was broken withdraws nothing*. While
//! its spec makes no sense, the last version that did stays in force; where a new version gives nothing for a Pod, the
//! entry that the version before made stays. After a restart, when those versions are not known, an undeclared entry is kept as
//! long as a broken object could have declared it. What fails because the *Pod* changed is withdrawn: it is not the Pod it was.
//! And an entry stays while the server refuses what its object declares in its place.

mod compare;
mod plan;
mod pods;
mod refusals;
mod rules;
mod slots;
mod tally;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use vouchsafe_cluster::Name;

pub use self::plan::{Create, Delete, Plan, Update};
use self::pods::HeldPod;
use self::rules::{HeldRule, HeldStatic};
use self::slots::Slot;
pub use self::tally::{StaticStanding, Tally};
use crate::draft::Key;
use crate::objects::{ClusterSpiffeId, ClusterStaticEntry, Endpoints, Namespace, Node, Pod};
use crate::render::{Place, node_objects};
use crate::settings::{Class, EntryIds, IgnoredNamespaces};
use crate::template::Object;

/// Everything that is followed, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is what its type says")]
pub struct World {
    pub rules: OrdMap<Name, Arc<ClusterSpiffeId>>,
    pub statics: OrdMap<Name, Arc<ClusterStaticEntry>>,
    pub pods: OrdMap<Name, Arc<Pod>>,
    pub nodes: OrdMap<Name, Arc<Node>>,
    pub namespaces: OrdMap<Name, Arc<Namespace>>,
    pub endpoints: OrdMap<Name, Arc<Endpoints>>,
    /// Whether there are objects that could not be read, now or ever.
    pub unreadable: bool,
}

/// What is configured and never changes.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What is the same for all Pods.
    pub place: Place,
    /// Whose objects are followed.
    pub class: Class,
    /// Whose Pods get nothing.
    pub ignored: IgnoredNamespaces,
    /// Which entries are ours.
    pub entry_ids: EntryIds,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Ledger {
    terms: Terms,
    world: World,
    rules: BTreeMap<Arc<str>, HeldRule>,
    statics: BTreeMap<Arc<str>, HeldStatic>,
    pods: HashMap<Name, HeldPod>,
    pods_by_uid: HashMap<String, Name>,
    pods_on: HashMap<String, HashSet<Name>>,
    nodes: HashMap<String, (Object, Object)>,
    /// By the UID of a Pod, the services in front of it.
    services: HashMap<String, BTreeSet<(String, String)>>,
    slots: HashMap<Key, Slot>,
    /// Slots to look at.
    dirty: HashSet<Key>,
    /// Undeclared entries that a broken object may have declared.
    held_back: HashSet<Key>,
    /// Slots that the server would not take.
    refused: HashSet<Key>,
    /// How many comparisons these wait for at most.
    longest_wait: u32,
    /// Whether nothing is deleted at present.
    sparing: bool,
}

impl Ledger {
    /// Knows of nothing yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            world: World::default(),
            rules: BTreeMap::new(),
            statics: BTreeMap::new(),
            pods: HashMap::new(),
            pods_by_uid: HashMap::new(),
            pods_on: HashMap::new(),
            nodes: HashMap::new(),
            services: HashMap::new(),
            slots: HashMap::new(),
            dirty: HashSet::new(),
            held_back: HashSet::new(),
            refused: HashSet::new(),
            longest_wait: LONGEST_WAIT,
            sparing: false,
        }
    }

    /// Takes up what has changed, and says how many Pods were looked at. `world` must be complete: what it lacks is gone.
    pub fn observe(&mut self, world: World) -> usize {
        let old = std::mem::replace(&mut self.world, world);
        let now = self.world.clone();
        let mut touched = self.take_nodes(&old.nodes, &now.nodes);
        touched.extend(self.take_endpoints(&old.endpoints, &now.endpoints));
        for change in old.pods.diff(&now.pods) {
            touched.insert(changed(change).0.clone());
        }
        let namespaces: BTreeSet<_> =
            old.namespaces.diff(&now.namespaces).map(|change| changed(change).0.name.clone()).collect();
        let rules = self.take_rules(&old.rules, &now.rules);
        self.take_statics(&old.statics, &now.statics);
        if rules {
            touched.extend(now.pods.keys().cloned());
        } else if !namespaces.is_empty() {
            let within = |name: &Name| name.namespace.as_ref().is_some_and(|name| namespaces.contains(name));
            touched.extend(now.pods.keys().filter(|name| within(name)).cloned());
        }
        for name in &touched {
            self.evaluate(name);
        }
        if rules || !namespaces.is_empty() {
            self.count_namespaces();
        }
        touched.len()
    }

    /// Whether some rule needs to know the services in front of Pods.
    #[must_use]
    pub fn wants_endpoints(world: &World, class: &Class) -> bool {
        let wants = |object: &ClusterSpiffeId| {
            object.spec.get("autoPopulateDNSNames").and_then(serde_json::Value::as_bool) == Some(true)
        };
        world.rules.values().any(|object| class.has(&**object) && wants(object))
    }

    /// The Pods on nodes that have changed.
    fn take_nodes(&mut self, old: &OrdMap<Name, Arc<Node>>, now: &OrdMap<Name, Arc<Node>>) -> HashSet<Name> {
        let mut touched = HashSet::new();
        for change in old.diff(now) {
            let (name, node) = changed(change);
            match node {
                Some(node) => self.nodes.insert(name.name.clone(), node_objects(node)),
                None => self.nodes.remove(&name.name),
            };
            touched.extend(self.pods_on.get(&name.name).into_iter().flatten().cloned());
        }
        touched
    }

    /// The Pods that have got or lost a service.
    fn take_endpoints(
        &mut self,
        old: &OrdMap<Name, Arc<Endpoints>>,
        now: &OrdMap<Name, Arc<Endpoints>>,
    ) -> HashSet<Name> {
        let mut touched = HashSet::new();
        for change in old.diff(now) {
            let (name, endpoints) = changed(change);
            let service = (name.namespace.clone().unwrap_or_default(), name.name.clone());
            let of = |endpoints: Option<&Arc<Endpoints>>| -> BTreeSet<String> {
                endpoints.into_iter().flat_map(|endpoints| endpoints.pods()).map(str::to_owned).collect()
            };
            let (before, after) = (of(old.get(name)), of(endpoints));
            for uid in before.difference(&after) {
                if let Some(services) = self.services.get_mut(uid) {
                    services.remove(&service);
                    if services.is_empty() {
                        self.services.remove(uid);
                    }
                }
            }
            for uid in after.difference(&before) {
                self.services.entry(uid.clone()).or_default().insert(service.clone());
            }
            let uids = before.symmetric_difference(&after);
            touched.extend(uids.filter_map(|uid| self.pods_by_uid.get(uid)).cloned());
        }
        touched
    }
}

/// How many comparisons a refused entry waits for at most, unless told otherwise.
const LONGEST_WAIT: u32 = 30;

/// The name that a difference is about, and what it is now.
fn changed<'a, V>(change: DiffItem<'a, 'a, Name, V>) -> (&'a Name, Option<&'a V>) {
    match change {
        DiffItem::Add(name, new) | DiffItem::Update { new: (name, new), .. } => (name, Some(new)),
        DiffItem::Remove(name, _) => (name, None),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::terms as test_terms;
