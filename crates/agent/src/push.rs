//! What the messages of `Revisions/Watch` mean. Pure: the loop that listens is [`crate::sync_loop`].
//!
//! A stream begins with a digest of everything that the server authorizes this agent for. Is it the digest of what is held,
//! then the two are in step, and stay so as long as each message has the next number: each tells all that
//! changed since the one before. In any other case the agent synchronizes everything and is in step again. So nothing
//! is lost when a message is, and a stream that is opened again costs one message.
//!
//! Nothing goes backwards: a message of a state before the one that was synchronized is overtaken and tells
//! nothing, and an entry that is shown in an older version than the held one makes the agent synchronize everything, where
//! [`crate::sync`] decides whether to believe it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use vouchsafe_proto::revisions::State;
use vouchsafe_proto::vouchsafe::server::v1::WatchResponse;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::entries::{EntryIndex, WorkloadEntry};
use crate::sync::{Version, compare};

/// What is known of the server's state, over one stream after the other.
#[derive(Debug, Default)]
pub struct Follower {
    sequence: u64,
    in_step: bool,
    /// The newest state of the server that what is held reflects.
    state: State,
    /// The revision of each bundle that is held.
    held: BTreeMap<TrustDomain, Bytes>,
    /// The revision of each bundle that the server has.
    told: BTreeMap<TrustDomain, Bytes>,
    /// Bundles that could not be fetched when they were needed.
    owed: BTreeSet<TrustDomain>,
}

/// What a message asks for.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// How the entries have changed.
    pub entries: Entries,
    /// Bundles to fetch.
    pub bundles: BTreeSet<TrustDomain>,
}

/// How the entries have changed.
#[derive(Debug, Default, Eq, PartialEq)]
pub enum Entries {
    /// Not at all.
    #[default]
    Same,
    /// Not known, and not asked for: the message is of a state before the one that is held.
    Overtaken,
    /// These have.
    Changed(Delta),
    /// It is not known: synchronize everything.
    Unknown,
}

/// Changes of some entries.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Delta {
    /// New, or in a newer version.
    pub changed: Vec<WorkloadEntry>,
    /// Not this agent's any more.
    pub removed: Vec<EntryId>,
}

/// Messages were lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("message {got} came after message {after}")]
pub struct Gap {
    after: u64,
    got: u64,
}

impl Follower {
    /// Goes on from what an earlier run was shown.
    #[must_use]
    pub fn since(state: State) -> Self {
        Self { state, ..Self::default() }
    }

    /// The newest state of the server that what is held reflects.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// A new stream begins, perhaps of another server.
    pub fn restart(&mut self) {
        (self.sequence, self.in_step) = (0, false);
    }

    /// Everything was synchronized; the answer showed this state of the server.
    pub fn synchronized(&mut self, state: State) {
        (self.in_step, self.state) = (true, state);
        self.held = self.told.clone();
        self.owed.clear();
    }

    /// Whether an answer that shows this state of the server is older than what is held.
    #[must_use]
    pub fn is_behind(&self, state: State) -> bool {
        state.is_before(self.state)
    }

    /// What was heard could not be done: everything has to be synchronized.
    pub fn lost(&mut self) {
        self.in_step = false;
    }

    /// Whether what is held is what the server has, as far as it has told.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// These bundles were fetched after the server had told of them.
    pub fn fetched(&mut self, names: &BTreeSet<TrustDomain>) {
        for name in names {
            self.owed.remove(name);
            if let Some(revision) = self.told.get(name) {
                self.held.insert(name.clone(), revision.clone());
            }
        }
    }

    /// These bundles could not be fetched, whatever else was synchronized: they are asked for again with the next message.
    pub fn missed(&mut self, names: &[TrustDomain]) {
        self.owed.extend(names.iter().cloned());
    }

    /// Takes the next message, for an agent that holds `index`.
    ///
    /// # Errors
    ///
    /// [`Gap`]: the stream is of no more use.
    pub fn hear(&mut self, message: WatchResponse, index: &EntryIndex) -> Result<Heard, Gap> {
        if message.sequence != self.sequence + 1 {
            return Err(Gap { after: self.sequence, got: message.sequence });
        }
        self.sequence = message.sequence;
        for bundle in &message.bundles {
            if let Ok(name) = TrustDomain::parse(&bundle.trust_domain) {
                self.told.insert(name, bundle.revision.clone());
            }
        }
        let bundles = self.told.iter().filter(|(name, revision)| self.held.get(*name) != Some(*revision));
        let bundles = bundles.map(|(name, _)| name).chain(&self.owed).cloned().collect();
        Ok(Heard { entries: self.entries(message, index), bundles })
    }

    fn entries(&mut self, message: WatchResponse, index: &EntryIndex) -> Entries {
        let state = State { epoch: message.epoch, position: message.position };
        if self.in_step && state.is_before(self.state) {
            return Entries::Overtaken;
        }
        // Another database: what is on its way may be of the one before.
        self.in_step &= state.epoch == self.state.epoch;
        if !message.entries_digest.is_empty() {
            self.in_step = message.entries_digest == index.digest();
        }
        if !self.in_step {
            return Entries::Unknown;
        }
        self.state = state;
        if message.changed.is_empty() && message.removed.is_empty() {
            return Entries::Same;
        }
        let Some(delta) = delta(message, index) else {
            self.in_step = false;
            return Entries::Unknown;
        };
        match delta.changed.is_empty() && delta.removed.is_empty() {
            true => Entries::Same,
            false => Entries::Changed(delta),
        }
    }
}

/// What differs from `index`; `None` for what cannot be read, or is older.
fn delta(message: WatchResponse, index: &EntryIndex) -> Option<Delta> {
    let mut delta = Delta::default();
    for entry in &message.changed {
        let entry = WorkloadEntry::from_proto(entry).ok()?;
        let held = index.get(entry.id.as_str()).map(|slot| &slot.entry);
        match held.map(|held| compare(held, entry.revision_number, entry.created_at)) {
            Some(Version::Older) => return None,
            Some(Version::Same) if held == Some(&entry) => {}
            Some(_) | None => delta.changed.push(entry),
        }
    }
    let held = |id: &String| index.get(id).map(|slot| slot.entry.id.clone());
    delta.removed = message.removed.iter().filter_map(held).collect();
    Some(delta)
}

#[cfg(test)]
mod tests;
