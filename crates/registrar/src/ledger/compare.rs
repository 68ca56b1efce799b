//! What the server has, compared with what is known of it.

use std::collections::HashMap;
use std::sync::Arc;

use vouchsafe_types::EntryId;

use super::Ledger;
use super::slots::{Current, Slot};
use crate::draft::{Draft, Key};
use crate::settings::Owner;

impl Ledger {
    /// Takes up all entries of the server. What is there and is not to be is planned again, whatever came of it before;
    /// what was refused is, when its time has come.
    pub fn compare(&mut self, entries: impl IntoIterator<Item = (EntryId, Draft)>) {
        let mut found: HashMap<Key, (Vec<Current>, Vec<Current>)> = HashMap::new();
        for (id, draft) in entries {
            let owner = self.terms.entry_ids.owner(id.as_str());
            let (current, outdated) = match owner {
                Owner::Other => continue,
                Owner::Ours | Owner::Outdated => found.entry(draft.key()).or_default(),
            };
            let one = Current { id, draft: Arc::new(draft) };
            match owner {
                Owner::Ours => current.push(one),
                Owner::Outdated | Owner::Other => outdated.push(one),
            }
        }
        for (key, slot) in &mut self.slots {
            let (current, outdated) = found.remove(key).unwrap_or_default();
            let changed = slot.current != current || slot.outdated != outdated;
            if changed {
                (slot.current, slot.outdated, slot.settled) = (current, outdated, None);
            }
            if changed || !slot.is_right() {
                self.dirty.insert(key.clone());
            }
        }
        for (key, (current, outdated)) in found {
            self.dirty.insert(key.clone());
            self.slots.insert(key, Slot { current, outdated, ..Slot::default() });
        }
        self.retry_refused();
    }
}

impl Slot {
    /// Whether the server has what is declared, and no more.
    fn is_right(&self) -> bool {
        let none_outdated = self.outdated.is_empty();
        match (self.bids.first(), self.current.as_slice()) {
            (None, []) => none_outdated,
            (Some(winner), [current]) => {
                let wanted = &winner.draft;
                none_outdated
                    && (!current.draft.differs_from(wanted) || self.settled.as_ref() == Some(wanted))
            }
            _ => false,
        }
    }
}
