//! Which X.509-SVIDs to ask for now, in which order, and which to let go. Pure.
//!
//! 1. What a workload waits for.
//! 2. What no workload has asked for yet, ahead of need, as long as there is room in the cache.
//! 3. What a tainted authority signed, or one that is gone.
//! 4. What was issued for an older revision of its entry.
//! 5. What is due for renewal, soonest to expire first.
//!
//! The limit of the cache is soft: an entry with an open stream always has its SVID. Above the limit the SVIDs that
//! were not used for the longest time and have no stream are let go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use vouchsafe_types::entry::EntryId;

use crate::entries::{EntryIndex, EntrySlot};
use crate::identities::HeldSvid;
use crate::rotation::Standing;
use crate::taint::Distrust;

/// One SVID to ask for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its entry.
    pub slot: Arc<EntrySlot>,
    /// Why.
    pub reason: Reason,
    /// When the held SVID ends (unix seconds), if one is held.
    pub expires_at: Option<i64>,
}

/// Why an SVID is asked for; earlier variants go first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// A workload waits and has nothing that works.
    Wanted,
    /// There is none, or none that works.
    Missing,
    /// The authority that signed it is tainted, or nobody verifies by it any more.
    Distrusted,
    /// The entry changed since it was issued.
    Outdated,
    /// Its renewal time has come.
    Expiring,
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to ask for, most urgent first.
    pub asks: Vec<Ask>,
    /// What to let go.
    pub evict: Vec<EntryId>,
    /// When the next renewal falls due (unix seconds).
    pub next_due: Option<i64>,
}

/// What the plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The entries.
    pub index: &'a EntryIndex,
    /// The SVIDs.
    pub svids: &'a HashMap<EntryId, Arc<HeldSvid>>,
    /// Entries that are being asked for, or that were asked for so recently that asking again would be a storm.
    pub busy: &'a HashSet<EntryId>,
    /// What leads to these authorities is replaced,
    pub distrust: &'a Distrust,
    /// except for what leads to these: the server has nothing better now.
    pub tolerated: &'a HashSet<&'a [u8]>,
    /// Soft limit of SVIDs.
    pub limit: usize,
}

/// Decides.
#[must_use]
pub fn plan(now: i64, view: View<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut prefetch = Vec::new();
    let mut held = 0;
    for slot in view.index.iter().filter(|slot| !slot.entry.store_svid) {
        let svid = view.svids.get(&slot.entry.id);
        held += usize::from(svid.is_some());
        let expires_at = svid.map(|svid| svid.lifetime.not_after);
        let ask = |reason| Ask { slot: Arc::clone(slot), reason, expires_at };
        let unusable = svid.is_none_or(|svid| svid.lifetime.standing(now) == Standing::Unusable);
        if view.busy.contains(&slot.entry.id) {
            continue;
        }
        match svid {
            _ if unusable && slot.usage.streams() > 0 => plan.asks.push(ask(Reason::Wanted)),
            Some(_) if unusable => plan.asks.push(ask(Reason::Missing)),
            None if !slot.entry.disable_x509_svid_prefetch => prefetch.push(ask(Reason::Missing)),
            None => {}
            Some(svid) if svid.issued_for != (slot.entry.revision_number, slot.entry.created_at) => {
                plan.asks.push(ask(Reason::Outdated));
            }
            Some(svid) if view.is_distrusted(svid) => plan.asks.push(ask(Reason::Distrusted)),
            Some(svid) if svid.lifetime.standing(now) == Standing::Due => {
                plan.asks.push(ask(Reason::Expiring));
            }
            Some(svid) => {
                let due = svid.lifetime.renew_at;
                plan.next_due = Some(plan.next_due.map_or(due, |next| next.min(due)));
            }
        }
    }
    let newcomers = plan.asks.iter().filter(|ask| ask.expires_at.is_none()).count();
    let room = view.limit.saturating_sub(held + newcomers + view.busy.len());
    prefetch.sort_unstable_by(|a, b| a.slot.entry.id.cmp(&b.slot.entry.id));
    plan.asks.extend(prefetch.into_iter().take(room));
    plan.asks.sort_by(|a, b| urgency(a).cmp(&urgency(b)));
    plan.evict = evict(&view, held + newcomers);
    plan
}

fn urgency(ask: &Ask) -> (Reason, i64, &EntryId) {
    (ask.reason, ask.expires_at.unwrap_or(0), &ask.slot.entry.id)
}

fn evict(view: &View<'_>, count: usize) -> Vec<EntryId> {
    let surplus = count.saturating_sub(view.limit);
    if surplus == 0 {
        return Vec::new();
    }
    let mut idle: Vec<_> = view
        .svids
        .keys()
        .filter_map(|id| view.index.get(id.as_str()))
        .filter(|slot| slot.usage.streams() == 0)
        .map(|slot| (slot.usage.last_used(), &slot.entry.id))
        .collect();
    idle.sort_unstable();
    idle.into_iter().take(surplus).map(|(_, id)| id.clone()).collect()
}

impl View<'_> {
    fn is_distrusted(&self, svid: &HeldSvid) -> bool {
        let root = svid.authority_key_id.as_deref();
        self.distrust.covers(root) && !root.is_some_and(|root| self.tolerated.contains(root))
    }
}

/// How many SVIDs to ask for in one call: halved by a failure, doubled by a success.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize {
    now: usize,
    max: usize,
}

impl BatchSize {
    /// Starts at `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { now: max.max(1), max: max.max(1) }
    }

    /// The size of the next call.
    #[must_use]
    pub fn get(&self) -> usize {
        self.now
    }

    /// A call failed.
    pub fn shrink(&mut self) {
        self.now = (self.now / 2).max(1);
    }

    /// A call succeeded.
    pub fn grow(&mut self) {
        self.now = (self.now * 2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::WorkloadEntry;
    use crate::entries::tests::entry;
    use crate::identities::tests::svid;

    fn index(ids: &[&str]) -> EntryIndex {
        EntryIndex::build(ids.iter().map(|id| entry(id, &["unix:uid:1"])), &EntryIndex::default())
    }

    fn svids(list: &[(&str, i64)]) -> HashMap<EntryId, Arc<HeldSvid>> {
        list.iter().map(|(id, end)| (EntryId::parse(id).unwrap(), svid(id, *end))).collect()
    }

    fn run(now: i64, index: &EntryIndex, svids: &HashMap<EntryId, Arc<HeldSvid>>, limit: usize) -> Plan {
        let (busy, distrust, tolerated) = (&HashSet::new(), &Distrust::default(), &HashSet::new());
        plan(now, View { index, svids, busy, distrust, tolerated, limit })
    }

    fn asked(plan: &Plan) -> Vec<(&str, Reason)> {
        plan.asks.iter().map(|ask| (ask.slot.entry.id.as_str(), ask.reason)).collect()
    }

    #[test]
    fn first_issue_goes_before_renewal_and_the_soonest_to_expire_first() {
        let index = index(&["late", "soon", "new", "waiting"]);
        index.get("waiting").unwrap().usage.opened(1);
        let held = svids(&[("late", 1_000), ("soon", 900)]);
        let plan = run(800, &index, &held, 100);
        assert_eq!(
            asked(&plan),
            [
                ("waiting", Reason::Wanted),
                ("new", Reason::Missing),
                ("soon", Reason::Expiring),
                ("late", Reason::Expiring)
            ]
        );
    }

    #[test]
    fn nothing_is_asked_for_while_all_is_well_and_the_next_due_time_is_known() {
        let index = index(&["a", "b"]);
        let held = svids(&[("a", 10_000), ("b", 20_000)]);
        let plan = run(10, &index, &held, 100);
        assert!(plan.asks.is_empty() && plan.evict.is_empty());
        assert_eq!(plan.next_due, Some(held["a"].lifetime.renew_at));
    }

    #[test]
    fn a_changed_entry_gets_a_new_svid() {
        let changed = WorkloadEntry { revision_number: 1, ..entry("a", &["unix:uid:1"]) };
        let index = EntryIndex::build([changed], &EntryIndex::default());
        assert_eq!(asked(&run(10, &index, &svids(&[("a", 10_000)]), 100)), [("a", Reason::Outdated)]);
    }

    #[test]
    fn ahead_of_need_stops_at_the_limit_but_a_waiting_workload_is_served_above_it() {
        let index = index(&["a", "b", "c", "d"]);
        index.get("d").unwrap().usage.opened(1);
        let plan = run(10, &index, &svids(&[("a", 10_000)]), 2);
        assert_eq!(asked(&plan), [("d", Reason::Wanted)]);
        let full = run(10, &index, &svids(&[("a", 10_000), ("b", 10_000)]), 2);
        assert_eq!(asked(&full), [("d", Reason::Wanted)]);
        assert_eq!(full.evict.len(), 1);
    }

    #[test]
    fn the_least_recently_used_without_a_stream_goes_first() {
        let index = index(&["a", "b", "c"]);
        let usage = |id: &str| Arc::clone(&index.get(id).unwrap().usage);
        usage("a").opened(1);
        usage("b").opened(9);
        usage("b").closed();
        usage("c").opened(5);
        usage("c").closed();
        let plan = run(10, &index, &svids(&[("a", 10_000), ("b", 10_000), ("c", 10_000)]), 2);
        assert_eq!(plan.evict, [EntryId::parse("c").unwrap()]);
    }

    #[test]
    fn entries_that_do_not_want_it_are_not_prefetched_and_busy_ones_not_asked_twice() {
        let lazy = WorkloadEntry { disable_x509_svid_prefetch: true, ..entry("lazy", &["unix:uid:1"]) };
        let store = WorkloadEntry { store_svid: true, ..entry("store", &["unix:uid:1"]) };
        let index = EntryIndex::build([lazy, store, entry("busy", &["unix:uid:1"])], &EntryIndex::default());
        let busy = HashSet::from([EntryId::parse("busy").unwrap()]);
        let (svids, distrust, tolerated) = (&HashMap::new(), &Distrust::default(), &HashSet::new());
        let plan = plan(10, View { index: &index, svids, busy: &busy, distrust, tolerated, limit: 10 });
        assert!(plan.asks.is_empty());
    }

    #[test]
    fn what_a_tainted_authority_or_one_that_is_gone_signed_is_replaced_unless_there_is_nothing_better() {
        let index = index(&["a"]);
        let mut held =
            HeldSvid { authority_key_id: Some([7].into()), ..Arc::into_inner(svid("a", 10_000)).unwrap() };
        held.lifetime.received_at = 5;
        let held = HashMap::from([(EntryId::parse("a").unwrap(), Arc::new(held))]);
        let busy = HashSet::new();
        let asks = |distrust: &Distrust, tolerated: &[&[u8]]| {
            let tolerated = tolerated.iter().copied().collect();
            let view =
                View { index: &index, svids: &held, busy: &busy, distrust, tolerated: &tolerated, limit: 10 };
            plan(10, view).asks.into_iter().map(|ask| ask.reason).collect::<Vec<_>>()
        };
        let known = |trusted: &[&[u8]], tainted: &[&[u8]]| Distrust::for_tests(trusted, tainted);
        assert!(asks(&known(&[&[7]], &[]), &[]).is_empty());
        assert!(asks(&known(&[], &[]), &[]).is_empty(), "nothing is known");
        assert_eq!(asks(&known(&[&[8]], &[&[7]]), &[]), [Reason::Distrusted], "tainted");
        assert_eq!(asks(&known(&[&[8]], &[]), &[]), [Reason::Distrusted], "gone");
        assert!(asks(&known(&[&[8]], &[]), &[&[7]]).is_empty(), "the server has nothing better");
    }

    #[test]
    fn a_batch_shrinks_by_half_and_grows_back() {
        let mut size = BatchSize::new(500);
        for expected in [250, 125, 62, 31, 15, 7, 3, 1, 1] {
            size.shrink();
            assert_eq!(size.get(), expected);
        }
        size.grow();
        assert_eq!(size.get(), 2);
        (0..20).for_each(|_| size.grow());
        assert_eq!(size.get(), 500);
    }
}
