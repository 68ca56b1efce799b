//! Similar entries: those that are declared, and those that the server has.

use std::fmt;
use std::sync::Arc;

use vouchsafe_cluster::Name;
use vouchsafe_types::EntryId;

use super::Ledger;
use super::plan::{Create, Delete, Plan, Update};
use super::refusals::Refusal;
use super::rules::Rank;
use crate::draft::{Draft, Key};
use crate::settings::Owner;

/// All that is known about similar entries.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Who declares it.
    pub(super) bids: Vec<Bid>,
    /// Who declared it before.
    pub(super) former: Vec<Claimant>,
    /// What the server has, of what is ours to change. More than one only if somebody meddled.
    pub(super) current: Vec<Current>,
    /// What the server has that is ours to delete only.
    pub(super) outdated: Vec<Current>,
    /// Whether this process has seen a declaration, so that it knows when the last one is gone.
    pub(super) declared_once: bool,
    /// What the server would not take, and why.
    pub(super) refusal: Option<Refusal>,
    /// What was updated to, when the server gave something else back: it knows less fields, and is not asked again.
    pub(super) settled: Option<Arc<Draft>>,
    /// What is counted for this slot.
    pub(super) booked: Vec<(Claimant, Standing)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Current {
    pub(super) id: EntryId,
    pub(super) draft: Arc<Draft>,
}

/// That somebody declares an entry.
#[derive(Clone, Debug)]
pub(super) struct Bid {
    pub(super) rank: Arc<Rank>,
    pub(super) by: Claimant,
    pub(super) draft: Arc<Draft>,
}

/// Who declares an entry.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Claimant {
    /// A `ClusterSPIFFEID`, for this Pod.
    Pod { rule: Arc<str>, pod: Name },
    /// A `ClusterStaticEntry`.
    Static(Arc<str>),
}

/// How a bid stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// The server has it.
    Set,
    /// The server is to have it.
    Pending,
    /// This other object's is set.
    Masked(Arc<str>),
    /// The server would not take it.
    Refused(Arc<str>),
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { rule, .. } => write!(f, "ClusterSPIFFEID {rule}"),
            Self::Static(name) => write!(f, "ClusterStaticEntry {name}"),
        }
    }
}

impl Ledger {
    pub(super) fn declare(&mut self, bid: Bid) {
        let key = bid.draft.key();
        let slot = self.slots.entry(key.clone()).or_default();
        slot.declared_once = true;
        slot.bids.push(bid);
        self.dirty.insert(key);
    }

    pub(super) fn withdraw(&mut self, draft: &Draft, by: &Claimant) {
        let key = draft.key();
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.bids.retain(|bid| bid.by != *by);
            if !slot.former.contains(by) {
                slot.former.push(by.clone());
            }
            self.dirty.insert(key);
        }
    }

    /// What to do about everything that has changed since the last plan.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let keys: Vec<Key> = self.dirty.drain().chain(self.held_back.drain()).collect();
        for key in keys {
            self.settle(key, &mut plan);
        }
        plan.delete = self.still_to_delete(plan.delete);
        plan
    }

    /// How many entries there are to be.
    #[must_use]
    pub fn declared(&self) -> usize {
        self.slots.values().filter(|slot| !slot.bids.is_empty()).count()
    }

    /// How many entries stay that would be deleted, if it were safe: a broken object may have declared them, what is to take
    /// their place is refused, or not everything is known.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.held_back.len()
    }

    fn settle(&mut self, key: Key, plan: &mut Plan) {
        let Some(mut slot) = self.slots.remove(&key) else { return };
        for (by, standing) in std::mem::take(&mut slot.booked) {
            self.unbook(&by, &standing);
        }
        slot.bids.sort_by(|a, b| a.rank.cmp(&b.rank));
        match slot.bids.first().cloned() {
            Some(winner) => {
                slot.former.clear();
                let standing = slot.set(&key, &winner.draft, plan);
                slot.book(&winner, standing);
                for (by, standing) in &slot.booked {
                    self.book(by, standing);
                }
            }
            None if slot.current.is_empty() && slot.outdated.is_empty() => return,
            None if !slot.declared_once && self.may_be_missed(&key) => {
                self.held_back.insert(key.clone());
            }
            None => slot.delete(&key, plan),
        }
        self.slots.insert(key, slot);
    }

    /// Whether a broken object may have declared such an entry before this process started.
    fn may_be_missed(&self, key: &Key) -> bool {
        match key.pod_uid() {
            _ if self.world.unreadable => true,
            Some(uid) => self.may_have_had_more(uid),
            None => self.misses_a_static_entry(),
        }
    }

    /// The server has created this, or had it already.
    pub fn created(&mut self, key: &Key, id: EntryId, draft: Draft) {
        self.outcome_of(key, |slot| {
            let wanted = slot.bids.first().map(|bid| bid.draft.clone());
            slot.settled = wanted.filter(|wanted| draft.differs_from(wanted));
            slot.current = vec![Current { id, draft: Arc::new(draft) }];
            slot.outdated.clear();
            slot.refusal = None;
        });
    }

    /// The server had a similar entry. It is changed next, if that is needed and ours to do.
    pub fn existed(&mut self, key: &Key, id: EntryId, draft: Draft) {
        if self.terms.entry_ids.owner(id.as_str()) == Owner::Ours {
            self.outcome_of(key, |slot| {
                slot.current = vec![Current { id, draft: Arc::new(draft) }];
            });
        } else {
            self.refused(key, &format!("a similar entry exists with the id {id}, which is not one of ours"));
        }
    }

    /// The server has changed the entry, and it says this now.
    pub fn updated(&mut self, key: &Key, draft: Draft) {
        self.outcome_of(key, |slot| {
            let wanted = slot.bids.first().map(|bid| bid.draft.clone());
            slot.settled = wanted.filter(|wanted| draft.differs_from(wanted));
            slot.refusal = None;
            if let Some(current) = slot.current.first_mut() {
                current.draft = Arc::new(draft);
            }
        });
    }

    /// The entry is gone.
    pub fn deleted(&mut self, key: &Key, id: &EntryId) {
        self.outcome_of(key, |slot| {
            slot.current.retain(|current| current.id != *id);
            slot.outdated.retain(|outdated| outdated.id != *id);
        });
    }

    /// Nobody knows what the server has done: it is planned again.
    pub fn undone(&mut self, key: &Key) {
        self.dirty.insert(key.clone());
    }

    pub(super) fn outcome_of(&mut self, key: &Key, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.get_mut(key) {
            change(slot);
            self.dirty.insert(key.clone());
        }
    }
}

impl Slot {
    /// Plans what makes the server have `wanted`, and says how that stands.
    fn set(&mut self, key: &Key, wanted: &Arc<Draft>, plan: &mut Plan) -> Standing {
        let refusal = self.refusal.as_ref().filter(|refusal| refusal.holds_for(wanted));
        let refused = refusal.map(|refusal| Standing::Refused(refusal.reason.clone()));
        let Some(current) = self.current.first() else {
            if refused.is_none() {
                let replaces = self.outdated.iter().map(|one| (one.id.clone(), one.draft.clone())).collect();
                plan.create.push(Create { key: key.clone(), draft: wanted.clone(), replaces });
            }
            return refused.unwrap_or(Standing::Pending);
        };
        let more = self.current.iter().skip(1).chain(&self.outdated);
        plan.delete.extend(more.map(|one| Delete { key: key.clone(), id: one.id.clone() }));
        if !current.draft.differs_from(wanted) || self.settled.as_ref() == Some(wanted) {
            return Standing::Set;
        }
        if refused.is_none() {
            plan.update.push(Update { key: key.clone(), id: current.id.clone(), draft: wanted.clone() });
        }
        refused.unwrap_or(Standing::Pending)
    }

    /// Notes how each bid stands: the winner so, the others behind it.
    fn book(&mut self, winner: &Bid, standing: Standing) {
        let masked = Standing::Masked(winner.by.to_string().into());
        let others = self.bids.iter().skip(1).map(|bid| (bid.by.clone(), masked.clone()));
        self.booked = std::iter::once((winner.by.clone(), standing)).chain(others).collect();
    }

    fn delete(&self, key: &Key, plan: &mut Plan) {
        let of_join_token = key.is_of_join_token();
        let current = self.current.iter().filter(|_| !of_join_token);
        let all = current.chain(&self.outdated);
        plan.delete.extend(all.map(|one| Delete { key: key.clone(), id: one.id.clone() }));
    }
}
