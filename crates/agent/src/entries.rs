//! The registration entries that this agent may serve, and which of them a workload matches.
//!
//! An entry belongs to a workload when *every* selector of the entry is among the workload's selectors. Each entry
//! is filed under its rarest selector, so a lookup touches only entries that share at least that one with the
//! workload: the cost follows what matches, never how many entries there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use vouchsafe_proto::convert::{ConvertError, entry_patch_from_proto, spiffe_id_from_proto};
use vouchsafe_proto::revisions::entries_digest;
use vouchsafe_proto::spire::api::types as proto;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

/// The part of a registration entry that an agent asks for ([`output_mask`]); the server keeps the rest to itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WorkloadEntry {
    /// The entry's identifier.
    pub id: EntryId,
    /// The identity that matching workloads get.
    pub spiffe_id: SpiffeId,
    /// What a workload must have, all of it.
    pub selectors: SelectorSet,
    /// Trust domains whose bundles matching workloads get as well.
    pub federates_with: Box<[TrustDomain]>,
    /// What the operator calls this identity, for workloads that have several. Empty when there is none.
    pub hint: Box<str>,
    /// Grows by one with every change of the entry.
    pub revision_number: i64,
    /// Unix seconds; tells a new entry from an older one of the same identifier.
    pub created_at: i64,
    /// The identity may administer the server.
    pub admin: bool,
    /// The identity is a downstream server.
    pub downstream: bool,
    /// The SVID goes to an SVID store, not to workloads.
    pub store_svid: bool,
    /// Issue an X.509-SVID only when a workload asks for it.
    pub disable_x509_svid_prefetch: bool,
    /// Every JWT-SVID carries its own `jti`, so none may be handed out twice.
    pub jwt_svid_include_jti: bool,
}

impl WorkloadEntry {
    /// Reads what the server sent under [`output_mask`].
    ///
    /// # Errors
    ///
    /// The field that is missing or malformed.
    pub fn from_proto(message: &proto::Entry) -> Result<Self, ConvertError> {
        let patch = entry_patch_from_proto(message, Some(&output_mask()))?;
        Ok(Self {
            id: EntryId::parse(&message.id)
                .map_err(|error| ConvertError::Field { field: "entry ID", source: Box::new(error) })?,
            spiffe_id: spiffe_id_from_proto(message.spiffe_id.as_ref())?,
            selectors: patch.selectors.unwrap_or_default(),
            federates_with: patch.federates_with.unwrap_or_default().into(),
            hint: message.hint.as_str().into(),
            revision_number: message.revision_number,
            created_at: message.created_at,
            admin: message.admin,
            downstream: message.downstream,
            store_svid: message.store_svid,
            disable_x509_svid_prefetch: patch.disable_x509_svid_prefetch.unwrap_or_default(),
            jwt_svid_include_jti: patch.jwt_svid_include_jti.unwrap_or_default(),
        })
    }
}

/// The fields of an entry that an agent needs.
#[must_use]
pub fn output_mask() -> proto::EntryMask {
    proto::EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        created_at: true,
        additional_attributes: true,
        ..proto::EntryMask::default()
    }
}

/// An entry and who uses it. The same slot stays in every [`EntryIndex`] for as long as the entry does not change,
/// so two snapshots that share a slot agree on the entry.
#[derive(Debug)]
pub struct EntrySlot {
    /// The entry.
    pub entry: WorkloadEntry,
    /// Survives changes of the entry.
    pub usage: Arc<Usage>,
}

/// How much an entry is used. Counts, not locks: requests touch these.
#[derive(Debug, Default)]
pub struct Usage {
    streams: AtomicU32,
    last_used: AtomicU64,
}

impl Usage {
    /// Streams that are open for the entry.
    #[must_use]
    pub fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// When the entry was last asked for; unix seconds, 0 for never.
    #[must_use]
    pub fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(crate) fn opened(&self, now: u64) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.last_used.store(now, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An immutable set of entries with the lookup by selectors.
#[derive(Debug, Default)]
pub struct EntryIndex {
    slots: HashMap<EntryId, Arc<EntrySlot>>,
    by_selector: HashMap<Selector, Vec<Arc<EntrySlot>>>,
}

impl EntryIndex {
    /// Files `entries`. Slots of `before` whose entry did not change are taken over as they are, and an entry that
    /// changed keeps its [`Usage`].
    #[must_use]
    pub fn build(entries: impl IntoIterator<Item = WorkloadEntry>, before: &Self) -> Self {
        let slots: HashMap<_, _> = entries
            .into_iter()
            .map(|entry| match before.slots.get(&entry.id) {
                Some(slot) if slot.entry == entry => (entry.id.clone(), Arc::clone(slot)),
                Some(slot) => {
                    let usage = Arc::clone(&slot.usage);
                    (entry.id.clone(), Arc::new(EntrySlot { entry, usage }))
                }
                None => (entry.id.clone(), Arc::new(EntrySlot { entry, usage: Arc::default() })),
            })
            .collect();
        let by_selector = file_under_rarest(&slots);
        Self { slots, by_selector }
    }

    /// The index without `removed` and with `changed`, which take the place of what is held. Slots are taken over as in
    /// [`EntryIndex::build`].
    #[must_use]
    pub fn with(&self, changed: impl IntoIterator<Item = WorkloadEntry>, removed: &[EntryId]) -> Self {
        let mut slots = self.slots.clone();
        for id in removed {
            slots.remove(id);
        }
        for entry in changed {
            let held = slots.get(&entry.id);
            if held.is_some_and(|slot| slot.entry == entry) {
                continue;
            }
            let usage = held.map(|slot| Arc::clone(&slot.usage)).unwrap_or_default();
            slots.insert(entry.id.clone(), Arc::new(EntrySlot { entry, usage }));
        }
        let by_selector = file_under_rarest(&slots);
        Self { slots, by_selector }
    }

    /// What a server that authorizes exactly these entries sends as their digest.
    #[must_use]
    pub fn digest(&self) -> Vec<u8> {
        let mut slots: Vec<_> = self.slots.values().map(|slot| &slot.entry).collect();
        slots.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        entries_digest(slots.into_iter().map(|e| (e.id.as_str(), e.revision_number, e.created_at)))
    }

    /// The entry with this identifier.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<EntrySlot>> {
        self.slots.get(id)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<EntrySlot>> {
        self.slots.values()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The entries that a workload with `selectors` has, ordered by identifier, at most one per hint.
    ///
    /// Of entries with the same hint the oldest keeps it and the others are left out. Entries of SVID stores are
    /// not for workloads.
    #[must_use]
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<EntrySlot>> {
        let mut found = self.matching_with_every_hint(selectors);
        drop_repeated_hints(&mut found);
        found
    }

    /// [`EntryIndex::matching`] with the entries that repeat another one's hint.
    #[must_use]
    pub fn matching_with_every_hint(&self, selectors: &SelectorSet) -> Vec<Arc<EntrySlot>> {
        let mut found: Vec<_> = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flatten()
            .filter(|slot| !slot.entry.store_svid && selectors.contains_all(&slot.entry.selectors))
            .cloned()
            .collect();
        found.sort_unstable_by(|a, b| a.entry.id.cmp(&b.entry.id));
        found
    }
}

fn file_under_rarest(slots: &HashMap<EntryId, Arc<EntrySlot>>) -> HashMap<Selector, Vec<Arc<EntrySlot>>> {
    let mut uses: HashMap<&Selector, usize> = HashMap::new();
    for selector in slots.values().flat_map(|slot| slot.entry.selectors.iter()) {
        *uses.entry(selector).or_default() += 1;
    }
    let mut filed: HashMap<Selector, Vec<Arc<EntrySlot>>> = HashMap::new();
    for slot in slots.values() {
        // An entry without selectors would match everyone; the server refuses such entries and so do we.
        if let Some(rarest) = slot.entry.selectors.iter().min_by_key(|selector| uses.get(selector).copied()) {
            filed.entry(rarest.clone()).or_default().push(Arc::clone(slot));
        }
    }
    filed
}

fn drop_repeated_hints(found: &mut Vec<Arc<EntrySlot>>) {
    if found.iter().filter(|slot| !slot.entry.hint.is_empty()).count() < 2 {
        return;
    }
    let mut keeper: HashMap<Box<str>, (i64, EntryId)> = HashMap::new();
    for slot in found.iter().filter(|slot| !slot.entry.hint.is_empty()) {
        let rank = (slot.entry.created_at, slot.entry.id.clone());
        keeper
            .entry(slot.entry.hint.clone())
            .and_modify(|best| *best = rank.clone().min(best.clone()))
            .or_insert(rank);
    }
    found.retain(|slot| {
        let keeps = keeper.get(&slot.entry.hint).is_none_or(|(_, id)| *id == slot.entry.id);
        if !keeps {
            tracing::warn!(hint = %slot.entry.hint, entry_id = %slot.entry.id, "Ignoring entry with duplicate hint");
        }
        keeps
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn entry(id: &str, selectors: &[&str]) -> WorkloadEntry {
        WorkloadEntry {
            id: EntryId::parse(id).unwrap(),
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).unwrap(),
            selectors: selectors.iter().map(|s| Selector::parse(s).unwrap()).collect(),
            federates_with: Box::default(),
            hint: Box::default(),
            revision_number: 0,
            created_at: 0,
            admin: false,
            downstream: false,
            store_svid: false,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    fn selectors(list: &[&str]) -> SelectorSet {
        list.iter().map(|s| Selector::parse(s).unwrap()).collect()
    }

    fn ids(found: &[Arc<EntrySlot>]) -> Vec<&str> {
        found.iter().map(|slot| slot.entry.id.as_str()).collect()
    }

    #[test]
    fn an_entry_matches_only_when_all_its_selectors_are_there() {
        let index = EntryIndex::build(
            [
                entry("b", &["unix:uid:1"]),
                entry("a", &["unix:uid:1", "unix:gid:2"]),
                entry("c", &["unix:uid:3"]),
            ],
            &EntryIndex::default(),
        );
        assert_eq!(ids(&index.matching(&selectors(&["unix:uid:1"]))), ["b"]);
        assert_eq!(
            ids(&index.matching(&selectors(&["unix:uid:1", "unix:gid:2", "unix:user:x"]))),
            ["a", "b"]
        );
        assert!(index.matching(&selectors(&["unix:gid:2"])).is_empty());
        assert!(index.matching(&SelectorSet::default()).is_empty());
    }

    #[test]
    fn an_entry_for_an_svid_store_matches_no_workload() {
        let stored = WorkloadEntry { store_svid: true, ..entry("a", &["unix:uid:1"]) };
        let index = EntryIndex::build([stored], &EntryIndex::default());
        assert!(index.matching(&selectors(&["unix:uid:1"])).is_empty());
    }

    #[test]
    fn the_oldest_entry_keeps_a_hint_and_the_identifier_breaks_ties() {
        let hinted = |id: &str, created_at| WorkloadEntry {
            hint: "web".into(),
            created_at,
            ..entry(id, &["unix:uid:1"])
        };
        let check = |list: [WorkloadEntry; 3], expected: &[&str]| {
            let index = EntryIndex::build(list, &EntryIndex::default());
            assert_eq!(ids(&index.matching(&selectors(&["unix:uid:1"]))), expected);
        };
        check([hinted("a", 9), hinted("b", 3), entry("c", &["unix:uid:1"])], &["b", "c"]);
        check([hinted("b", 3), hinted("a", 3), entry("c", &["unix:uid:1"])], &["a", "c"]);
    }

    #[test]
    fn an_unchanged_entry_keeps_its_slot_and_a_changed_one_its_usage() {
        let first = EntryIndex::build(
            [entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"])],
            &EntryIndex::default(),
        );
        let changed = WorkloadEntry { revision_number: 1, ..entry("b", &["unix:uid:1"]) };
        let second = EntryIndex::build([entry("a", &["unix:uid:1"]), changed], &first);
        let slot = |index: &EntryIndex, id: &str| Arc::clone(index.get(id).unwrap());
        assert!(Arc::ptr_eq(&slot(&first, "a"), &slot(&second, "a")));
        assert!(!Arc::ptr_eq(&slot(&first, "b"), &slot(&second, "b")));
        assert!(Arc::ptr_eq(&slot(&first, "b").usage, &slot(&second, "b").usage));
    }

    proptest! {
        /// The index finds exactly what looking at every entry finds.
        #[test]
        fn the_index_agrees_with_a_full_scan(
            entries in prop::collection::vec(prop::collection::btree_set(0_u8..8, 1..4), 0..30),
            workload in prop::collection::btree_set(0_u8..8, 0..8),
        ) {
            let name = |n: &u8| format!("unix:uid:{n}");
            let list: Vec<_> = entries.iter().enumerate().map(|(at, set)| {
                let set: Vec<_> = set.iter().map(name).collect();
                entry(&format!("e{at:02}"), &set.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            let have: Vec<_> = workload.iter().map(name).collect();
            let have = selectors(&have.iter().map(String::as_str).collect::<Vec<_>>());
            let expected: Vec<_> = list.iter()
                .filter(|e| have.contains_all(&e.selectors))
                .map(|e| e.id.clone())
                .collect();
            let found = EntryIndex::build(list, &EntryIndex::default()).matching(&have);
            prop_assert_eq!(found.iter().map(|s| s.entry.id.clone()).collect::<Vec<_>>(), expected);
        }
    }
}
