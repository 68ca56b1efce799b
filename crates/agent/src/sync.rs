//! What one answer of `SyncAuthorizedEntries` means. Pure: the loop that talks is [`crate::sync_loop`].
//!
//! The server first says which entries exist and at which revision (or, for a short list, sends all of them). The
//! agent asks only for those that it does not hold in that version, and drops those that were not mentioned.
//!
//! An answer that shows an entry at an *older* revision than the held one, or an older bundle, comes from a server
//! that lags behind (a stale replica). Nothing is taken from it, and above all nothing is withdrawn because of it.
//! A server that insists was restored from a backup: after [`ACCEPT_OLDER_AFTER`] its answer is taken ([`Insistence`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_proto::revisions::State;
use vouchsafe_proto::spire::api::server::entry::v1::EntryRevision;
use vouchsafe_proto::spire::api::types as proto;
use vouchsafe_types::entry::EntryId;

use crate::entries::{EntryIndex, WorkloadEntry};
use crate::server_client::RETRY_MAX;

/// One synchronization, from its first message to its last.
#[derive(Debug)]
pub struct Sync<'a> {
    held: &'a EntryIndex,
    kept: HashSet<EntryId>,
    stale: Vec<String>,
    received: HashMap<EntryId, WorkloadEntry>,
    older: Option<EntryId>,
    dropped_by_server: usize,
    stats: Stats,
}

/// The counts that `sync_entries_*` report.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Entries after the synchronization.
    pub total: usize,
    /// Entries that were not held before.
    pub missing: usize,
    /// Entries that were held in an older version.
    pub stale: usize,
    /// Entries that were held and are gone.
    pub dropped: usize,
}

/// How long servers have shown an older state than the one that is held, and none a current one.
///
/// Only the time counts in which they say so: between two such answers, at most [`MAX_STEP`]. An agent that was cut off for
/// an hour knows nothing of that hour, and the first server that it meets then may be one that lags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Insistence {
    counted: Duration,
    last: Option<Instant>,
}

impl Insistence {
    /// One more answer shows an older state. Returns whether it is time to believe it.
    pub fn again(&mut self, now: Instant) -> bool {
        let step = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        (self.counted, self.last) = (self.counted + step.min(MAX_STEP), Some(now));
        self.counted >= ACCEPT_OLDER_AFTER
    }
}

/// What a finished synchronization says.
#[derive(Debug)]
pub struct Outcome {
    /// All entries of this agent.
    pub entries: Vec<WorkloadEntry>,
    /// Counts.
    pub stats: Stats,
    /// Whether anything differs from what was held.
    pub changed: bool,
    /// An entry that the server showed in an older version than the held one.
    pub older: Option<EntryId>,
    /// The state of the server that this shows, if it says so.
    pub state: State,
}

/// The server broke the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProtocolError {
    /// Entries came while revisions were expected.
    #[error("unexpected entry in response receiving entry revisions")]
    UnexpectedEntries,
    /// Revisions came while entries were expected.
    #[error("unexpected entry revisions in response while requesting entries")]
    UnexpectedRevisions,
}

impl<'a> Sync<'a> {
    /// Starts from what is held.
    #[must_use]
    pub fn new(held: &'a EntryIndex) -> Self {
        Self {
            held,
            kept: HashSet::new(),
            stale: Vec::new(),
            received: HashMap::new(),
            older: None,
            dropped_by_server: 0,
            stats: Stats::default(),
        }
    }

    /// Takes one page of revisions.
    pub fn revisions(&mut self, page: &[EntryRevision]) {
        for revision in page {
            let id = EntryId::parse(&revision.id).ok().filter(|_| revision.revision_number >= 0);
            let Some(id) = id else {
                tracing::warn!(
                    entry_id = %revision.id,
                    revision_number = revision.revision_number,
                    "Received malformed entry revision from SPIRE server; are the server and agent versions compatible?"
                );
                continue;
            };
            let held = self.held.get(id.as_str()).map(|slot| &slot.entry);
            match held.map(|held| compare(held, revision.revision_number, revision.created_at)) {
                Some(Version::Same) => {
                    self.kept.insert(id);
                }
                Some(Version::Older) => {
                    self.older = Some(id);
                    self.stale.push(revision.id.clone());
                }
                Some(Version::Newer) | None => self.stale.push(revision.id.clone()),
            }
        }
    }

    /// Takes full entries. One that does not parse is left out and, if it was held, kept as it was.
    pub fn entries(&mut self, list: &[proto::Entry]) {
        for message in list {
            let entry = match WorkloadEntry::from_proto(message) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::warn!(
                        entry_id = %message.id,
                        revision_number = message.revision_number,
                        %error,
                        "Received malformed entry from SPIRE server; are the server and agent versions compatible?"
                    );
                    self.dropped_by_server += 1;
                    if let Some(slot) = self.held.get(&message.id)
                        && !self.received.contains_key(&slot.entry.id)
                    {
                        self.kept.insert(slot.entry.id.clone());
                    }
                    continue;
                }
            };
            let held = self.held.get(entry.id.as_str()).map(|slot| &slot.entry);
            match held.map(|held| compare(held, entry.revision_number, entry.created_at)) {
                None => self.stats.missing += 1,
                Some(Version::Newer) => self.stats.stale += 1,
                Some(Version::Older) => {
                    self.stats.stale += 1;
                    self.older = Some(entry.id.clone());
                }
                Some(Version::Same) => {}
            }
            self.kept.remove(&entry.id);
            self.received.insert(entry.id.clone(), entry);
        }
    }

    /// The entries to ask for in full, sorted, in pages of the size that the server's own first page had.
    #[must_use]
    pub fn requests(&mut self, page_size: usize) -> Vec<Vec<String>> {
        let mut ids = std::mem::take(&mut self.stale);
        ids.sort_unstable();
        ids.chunks(page_size.max(1)).map(<[String]>::to_vec).collect()
    }

    /// Ends the synchronization: what was not mentioned is gone.
    #[must_use]
    pub fn finish(self) -> Outcome {
        let mut entries: Vec<_> = self.received.into_values().collect();
        let held_and_received =
            entries.iter().filter(|entry| self.held.get(entry.id.as_str()).is_some()).count();
        let changed_content = entries
            .iter()
            .any(|entry| self.held.get(entry.id.as_str()).is_none_or(|slot| slot.entry != *entry));
        let dropped = self.held.len() - held_and_received - self.kept.len();
        entries.extend(
            self.kept.iter().filter_map(|id| self.held.get(id.as_str())).map(|slot| slot.entry.clone()),
        );
        let stats = Stats { total: entries.len(), dropped: dropped + self.dropped_by_server, ..self.stats };
        Outcome {
            entries,
            stats,
            changed: changed_content || dropped > 0,
            older: self.older,
            state: State::default(),
        }
    }
}

/// How long a server may show older state than ours before we believe that it was put back on purpose.
pub const ACCEPT_OLDER_AFTER: Duration = Duration::from_secs(300);

/// What the time between two older answers counts at most: attempts that reach a server are not further apart.
const MAX_STEP: Duration = RETRY_MAX;

/// How a version that a server shows relates to the held one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    Same,
    Newer,
    Older,
}

/// An entry that was deleted and created again under its old identifier starts again at revision 0, so the time of
/// creation decides first. Old servers do not send it (0).
pub(crate) fn compare(held: &WorkloadEntry, revision: i64, created_at: i64) -> Version {
    let created_at = if created_at == 0 { held.created_at } else { created_at };
    match (created_at, revision).cmp(&(held.created_at, held.revision_number)) {
        std::cmp::Ordering::Equal => Version::Same,
        std::cmp::Ordering::Greater => Version::Newer,
        std::cmp::Ordering::Less => Version::Older,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::tests::entry;

    fn held(list: &[(&str, i64, i64)]) -> EntryIndex {
        let entries = list.iter().map(|(id, revision_number, created_at)| WorkloadEntry {
            revision_number: *revision_number,
            created_at: *created_at,
            ..entry(id, &["unix:uid:1"])
        });
        EntryIndex::build(entries, &EntryIndex::default())
    }

    fn revision(id: &str, revision_number: i64, created_at: i64) -> EntryRevision {
        EntryRevision { id: id.into(), revision_number, created_at }
    }

    fn full(id: &str, revision_number: i64, created_at: i64) -> proto::Entry {
        proto::Entry {
            id: id.into(),
            spiffe_id: Some(proto::Spiffeid { trust_domain: "example.org".into(), path: format!("/{id}") }),
            selectors: vec![proto::Selector { r#type: "unix".into(), value: "uid:1".into() }],
            revision_number,
            created_at,
            ..proto::Entry::default()
        }
    }

    fn ids(outcome: &Outcome) -> Vec<String> {
        let mut ids: Vec<_> = outcome.entries.iter().map(|entry| entry.id.to_string()).collect();
        ids.sort();
        ids
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_insists_for_five_minutes_is_believed_and_time_without_a_server_does_not_count() {
        let again = async |older: &mut Insistence, seconds| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            older.again(Instant::now())
        };
        let mut older = Insistence::default();
        let mut answers = 1;
        while !again(&mut older, 15).await {
            answers += 1;
        }
        assert_eq!(answers, 21);
        // Cut off for an hour, and the first server that it meets lags.
        let mut older = Insistence::default();
        assert!(!again(&mut older, 0).await);
        assert!(!again(&mut older, 3_600).await);
        assert!(!again(&mut older, 3_600).await);
    }

    #[test]
    fn only_what_differs_is_asked_for_and_what_is_not_mentioned_goes() {
        let held = held(&[("a", 1, 5), ("b", 1, 5), ("c", 1, 5)]);
        let mut sync = Sync::new(&held);
        sync.revisions(&[revision("d", 0, 6), revision("a", 1, 5), revision("b", 2, 5)]);
        assert_eq!(sync.requests(1), [["b".to_owned()], ["d".to_owned()]]);
        sync.entries(&[full("b", 2, 5)]);
        sync.entries(&[full("d", 0, 6)]);
        let outcome = sync.finish();
        assert_eq!(ids(&outcome), ["a", "b", "d"]);
        assert_eq!(outcome.stats, Stats { total: 3, missing: 1, stale: 1, dropped: 1 });
        assert!(outcome.changed && outcome.older.is_none());
    }

    #[test]
    fn a_full_list_that_says_nothing_new_changes_nothing() {
        let held = held(&[("a", 1, 5)]);
        let mut sync = Sync::new(&held);
        sync.entries(&[full("a", 1, 5)]);
        let outcome = sync.finish();
        assert!(!outcome.changed);
        assert_eq!(outcome.stats, Stats { total: 1, ..Stats::default() });
    }

    #[test]
    fn an_empty_list_withdraws_everything() {
        let held = held(&[("a", 1, 5)]);
        let outcome = Sync::new(&held).finish();
        assert!(outcome.changed && outcome.entries.is_empty());
    }

    #[test]
    fn an_entry_created_again_under_its_old_identifier_is_new() {
        let held = held(&[("a", 7, 5)]);
        let mut sync = Sync::new(&held);
        sync.revisions(&[revision("a", 0, 9)]);
        assert_eq!(sync.requests(500), [["a".to_owned()]]);
        sync.entries(&[full("a", 0, 9)]);
        let outcome = sync.finish();
        assert!(outcome.older.is_none());
        assert_eq!(outcome.entries[0].created_at, 9);
    }

    #[test]
    fn an_older_revision_is_noticed() {
        let held = held(&[("a", 7, 5)]);
        let mut sync = Sync::new(&held);
        sync.revisions(&[revision("a", 6, 5)]);
        assert_eq!(sync.finish().older, Some(EntryId::parse("a").unwrap()));
    }

    #[test]
    fn a_server_without_creation_times_is_understood() {
        let held = held(&[("a", 7, 5)]);
        let mut sync = Sync::new(&held);
        sync.revisions(&[revision("a", 7, 0)]);
        assert!(sync.requests(500).is_empty());
    }

    #[test]
    fn an_entry_that_comes_twice_counts_once_even_if_the_second_is_malformed() {
        let held = held(&[("a", 1, 5)]);
        let mut sync = Sync::new(&held);
        sync.entries(&[full("a", 2, 5), proto::Entry { spiffe_id: None, ..full("a", 2, 5) }]);
        let outcome = sync.finish();
        assert_eq!((ids(&outcome), outcome.stats.total), (vec!["a".to_owned()], 1));
    }

    #[test]
    fn a_malformed_entry_does_not_take_the_held_one_away() {
        let held = held(&[("a", 1, 5)]);
        let mut sync = Sync::new(&held);
        sync.entries(&[proto::Entry { spiffe_id: None, ..full("a", 2, 5) }, full("b", 0, 5)]);
        assert_eq!(ids(&sync.finish()), ["a", "b"]);
    }
}
