//! What the server would not take, and what stays because of it.

use std::collections::HashSet;
use std::sync::Arc;

use super::Ledger;
use super::plan::Delete;
use super::slots::{Claimant, Slot};
use crate::draft::{Draft, Key};

/// That the server would not take a draft.
#[derive(Debug)]
pub(super) struct Refusal {
    draft: Arc<Draft>,
    pub(super) reason: Arc<str>,
    /// How often, one after the other.
    times: u32,
    /// How many comparisons to wait before it is tried again. `None`: it is being tried.
    wait: Option<u32>,
}

impl Refusal {
    /// Whether `wanted` is not to be tried now.
    pub(super) fn holds_for(&self, wanted: &Arc<Draft>) -> bool {
        self.draft == *wanted && self.wait.is_some()
    }
}

/// Who lacks an entry that the server would not create.
#[derive(Debug, Default)]
struct Lacking {
    by: HashSet<Claimant>,
    pods: HashSet<String>,
    a_static_entry: bool,
}

impl Lacking {
    /// Whether what `slot` has may be all that one of these has.
    fn needs(&self, key: &Key, slot: &Slot) -> bool {
        if !slot.bids.is_empty() {
            return false;
        }
        if !slot.former.is_empty() {
            return slot.former.iter().any(|by| self.by.contains(by));
        }
        // It was there before this process was: nobody knows who declared it.
        key.pod_uid().map_or(self.a_static_entry, |uid| self.pods.contains(uid))
    }
}

impl Ledger {
    /// The server would not create or change it. It is asked again after the next [`Ledger::compare`], then after two more,
    /// four more and so on up to [`Ledger::with_longest_wait`], and at once when something else is declared.
    pub fn refused(&mut self, key: &Key, reason: &str) {
        self.refused.insert(key.clone());
        let longest = self.longest_wait;
        self.outcome_of(key, |slot| {
            let before = slot.refusal.take();
            let Some(draft) = slot.bids.first().map(|bid| bid.draft.clone()) else { return };
            let before = before.filter(|before| before.draft == draft).map_or(0, |before| before.times);
            let wait = 1u32.checked_shl(before).unwrap_or(u32::MAX).min(longest).max(1);
            let times = before.saturating_add(1);
            slot.refusal = Some(Refusal { draft, reason: reason.into(), times, wait: Some(wait) });
        });
    }

    /// How many comparisons a refused entry waits for at most.
    #[must_use]
    pub fn with_longest_wait(mut self, comparisons: u32) -> Self {
        self.longest_wait = comparisons;
        self
    }

    /// Counts a comparison, and marks what is to be tried again.
    pub(super) fn retry_refused(&mut self) {
        let Self { slots, refused, dirty, .. } = self;
        refused.retain(|key| {
            let Some(refusal) = slots.get_mut(key).and_then(|slot| slot.refusal.as_mut()) else {
                return false;
            };
            refusal.wait = refusal.wait.and_then(|wait| wait.checked_sub(1)).filter(|wait| *wait > 0);
            if refusal.wait.is_none() {
                dirty.insert(key.clone());
            }
            true
        });
    }

    /// While `true`, nothing is deleted: not everything is known.
    pub fn spare(&mut self, all: bool) {
        self.sparing = all;
    }

    /// Those of `deletes` that may be done as things stand; to be asked again after entries were created. The others are held
    /// back: an entry is not deleted while what is to take its place is refused.
    pub fn still_to_delete(&mut self, deletes: Vec<Delete>) -> Vec<Delete> {
        if deletes.is_empty() {
            return deletes;
        }
        let lacking = self.lacking();
        let stays = |one: &Delete| {
            self.sparing || self.slots.get(&one.key).is_some_and(|slot| lacking.needs(&one.key, slot))
        };
        let (stay, go): (Vec<_>, Vec<_>) = deletes.into_iter().partition(stays);
        self.held_back.extend(stay.into_iter().map(|one| one.key));
        go
    }

    fn lacking(&self) -> Lacking {
        let mut lacking = Lacking::default();
        for key in &self.refused {
            let Some(slot) = self.slots.get(key).filter(|slot| slot.current.is_empty()) else { continue };
            if slot.refusal.is_none() {
                continue;
            }
            lacking.pods.extend(key.pod_uid().map(str::to_owned));
            for bid in &slot.bids {
                lacking.a_static_entry |= matches!(bid.by, Claimant::Static(_));
                lacking.by.insert(bid.by.clone());
            }
        }
        lacking
    }
}
