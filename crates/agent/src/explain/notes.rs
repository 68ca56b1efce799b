//! What went wrong lately, and what is gone: written by the agent's loops, read when somebody asks why.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tonic::{Code, Status};
use vouchsafe_types::entry::EntryId;

use crate::entries::WorkloadEntry;

/// Where it is written. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    noted: Arc<Mutex<Noted>>,
}

#[derive(Debug, Default)]
struct Noted {
    troubles: HashMap<EntryId, Trouble>,
    removed: VecDeque<Removed>,
    sync: Option<Failure>,
    node: Option<Failure>,
    server_clock_ahead: Option<i64>,
}

/// Why there is no new SVID for an entry.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What the last attempt failed by.
    pub failure: Failure,
    /// Since when every attempt failed.
    pub since: Instant,
    /// When it is tried again.
    pub retry_at: Instant,
}

/// A call of the server that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The status.
    pub code: Code,
    /// Its words.
    pub message: Arc<str>,
    /// When.
    pub at: Instant,
}

/// An entry that this agent had.
#[derive(Clone, Debug)]
pub struct Removed {
    /// As it was.
    pub entry: WorkloadEntry,
    /// When the server took it away.
    pub at: Instant,
}

impl Failure {
    /// Of `status`, now.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        Self::new(status.code(), status.message())
    }

    /// In these words, now.
    #[must_use]
    pub fn new(code: Code, message: &str) -> Self {
        let end = message.char_indices().map(|(at, _)| at).nth(MAX_MESSAGE).unwrap_or(message.len());
        Self { code, message: message[..end].into(), at: Instant::now() }
    }
}

impl Notes {
    /// No SVID came for `ids`; they are asked for again at `retry_at`.
    pub fn not_issued<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a EntryId>,
        failure: &Failure,
        retry_at: Instant,
    ) {
        let mut noted = self.noted();
        for id in ids {
            let since = noted.troubles.get(id).map_or(failure.at, |before| before.since);
            if noted.troubles.len() < MAX_TROUBLES || noted.troubles.contains_key(id) {
                noted.troubles.insert(id.clone(), Trouble { failure: failure.clone(), since, retry_at });
            }
        }
    }

    /// An SVID came for `id`.
    pub fn issued(&self, id: &EntryId) {
        self.noted().troubles.remove(id);
    }

    /// The server issued something that is valid from `not_before`, at `now` by our clock.
    pub fn issued_at(&self, not_before: i64, now: i64) {
        self.noted().server_clock_ahead = Some(clock_ahead(not_before, now));
    }

    /// The server took `entry` away.
    pub fn removed(&self, entry: &WorkloadEntry) {
        let mut noted = self.noted();
        noted.troubles.remove(&entry.id);
        if noted.removed.len() >= MAX_REMOVED {
            noted.removed.pop_front();
        }
        noted.removed.push_back(Removed { entry: entry.clone(), at: Instant::now() });
    }

    /// Entries and bundles could not be fetched.
    pub fn sync_failed(&self, status: &Status) {
        self.noted().sync = Some(Failure::of(status));
    }

    /// Entries and bundles were fetched.
    pub fn synchronized(&self) {
        self.noted().sync = None;
    }

    /// The agent got no SVID of its own.
    pub fn node_failed(&self, code: Code, why: &str) {
        self.noted().node = Some(Failure::new(code, why));
    }

    /// The agent got one.
    pub fn node_is_well(&self) {
        self.noted().node = None;
    }

    /// Why there is no new SVID for `id`.
    #[must_use]
    pub fn trouble(&self, id: &str) -> Option<Trouble> {
        self.noted().troubles.get(id).cloned()
    }

    /// Entries that are gone, the newest first, as far as `wanted`.
    #[must_use]
    pub fn removed_entries(&self, wanted: impl Fn(&WorkloadEntry) -> bool) -> Vec<Removed> {
        self.noted().removed.iter().rev().filter(|removed| wanted(&removed.entry)).cloned().collect()
    }

    /// Why entries and bundles could not be fetched last, unless they were.
    #[must_use]
    pub fn sync_failure(&self) -> Option<Failure> {
        self.noted().sync.clone()
    }

    /// Why the agent got no SVID of its own last, unless it did.
    #[must_use]
    pub fn node_failure(&self) -> Option<Failure> {
        self.noted().node.clone()
    }

    /// By how many seconds the server's clock was ahead of ours when it last issued something.
    #[must_use]
    pub fn server_clock_ahead(&self) -> Option<i64> {
        self.noted().server_clock_ahead
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By how many seconds the clock of a server is ahead that issued, at our `now`, something valid from `not_before`.
#[must_use]
pub fn clock_ahead(not_before: i64, now: i64) -> i64 {
    use vouchsafe_ca::x509::{BACKDATE_SECS, MAX_BACKDATE_SECS};
    // By how much a server backdates depends on the server and on the lifetime; what that may explain is no difference.
    let least = not_before.saturating_add(BACKDATE_SECS).saturating_sub(now);
    let most = not_before.saturating_add(MAX_BACKDATE_SECS).saturating_sub(now);
    0_i64.clamp(least, most)
}

/// Entries whose trouble is remembered; that of further ones is not.
pub const MAX_TROUBLES: usize = 4096;

/// Entries that are gone and remembered; above it the oldest is forgotten.
pub const MAX_REMOVED: usize = 64;

/// Characters of a message that are kept.
const MAX_MESSAGE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::tests::entry;

    #[test]
    fn trouble_ends_with_an_svid_or_with_the_entry_and_is_as_old_as_its_first_failure() {
        let notes = Notes::default();
        let ids: Vec<EntryId> = ["a", "b"].iter().map(|id| EntryId::parse(id).unwrap()).collect();
        let first = Failure::of(&Status::unavailable("away"));
        notes.not_issued(&ids, &first, Instant::now());
        notes.not_issued(&ids, &Failure::of(&Status::internal("no")), Instant::now());
        let trouble = notes.trouble("a").unwrap();
        assert_eq!((trouble.since, trouble.failure.code), (first.at, Code::Internal));
        notes.issued(&ids[0]);
        notes.removed(&entry("b", &["unix:uid:1"]));
        assert!(notes.trouble("a").is_none() && notes.trouble("b").is_none());
        assert_eq!(notes.removed_entries(|entry| entry.id.as_str() == "b").len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let notes = Notes::default();
        let ids: Vec<_> = (0..MAX_TROUBLES + 9).map(|n| EntryId::parse(&n.to_string()).unwrap()).collect();
        notes.not_issued(&ids, &Failure::new(Code::Unknown, &"ä".repeat(10_000)), Instant::now());
        (0..MAX_REMOVED + 9).for_each(|n| notes.removed(&entry(&n.to_string(), &["unix:uid:1"])));
        assert!(notes.noted().troubles.len() <= MAX_TROUBLES);
        assert_eq!(notes.removed_entries(|_| true).len(), MAX_REMOVED);
        assert_eq!(notes.trouble("100").unwrap().failure.message.chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn the_clock_of_a_server_is_read_from_what_it_issues() {
        assert_eq!(clock_ahead(1_000 - vouchsafe_ca::x509::BACKDATE_SECS, 1_000), 0);
        assert_eq!(clock_ahead(1_600 - vouchsafe_ca::x509::BACKDATE_SECS, 1_000), 600);
    }
}
