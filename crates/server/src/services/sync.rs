//! `SyncAuthorizedEntries`: revisions first, entries on demand.
//!
//! Up to [`WHOLE`] entries are sent whole; beyond that, pages of revisions, and then whatever the agent asks for by ID. SPIRE
//! sends up to 500 whole, every 5 s to every agent; a revision is a quarter of an entry, and its agents take revisions for
//! lists of any size.
//! The stream lives as long as the agent wants it, within [`IDLE`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tonic::{Status, Streaming};
use vouchsafe_proto::convert::entry_to_proto;
use vouchsafe_proto::spire::api::server::entry::v1::{
    EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::entry::Entry;

/// Most entries that are sent whole: so few that asking back would cost more than it saves.
const WHOLE: usize = 16;
/// Entries or revisions per message, as in SPIRE.
pub(super) const PAGE: usize = 500;
/// Longest wait for the agent's next request.
const IDLE: Duration = Duration::from_secs(60);

/// The answers to the requests of one stream, for an agent that is authorized for `entries` (in the order of IDs).
pub(super) fn answers(
    entries: Vec<Arc<Entry>>,
    requests: Streaming<SyncAuthorizedEntriesRequest>,
) -> impl Stream<Item = Result<SyncAuthorizedEntriesResponse, Status>> + Send {
    let state = State { entries, requests, mask: None, queued: Vec::new(), begun: false, done: false };
    futures_util::stream::unfold(state, |mut state| async move {
        let answer = state.next().await?;
        state.done = answer.is_err();
        Some((answer, state))
    })
}

struct State {
    entries: Vec<Arc<Entry>>,
    requests: Streaming<SyncAuthorizedEntriesRequest>,
    mask: Option<types::EntryMask>,
    /// Messages to send before the next request is read, last first.
    queued: Vec<Message>,
    begun: bool,
    done: bool,
}

/// A message before it is built, so that a page is only in memory when it is sent.
enum Message {
    Revisions { from: usize, more: bool },
    Entries { indexes: Vec<usize>, more: bool },
}

impl State {
    async fn next(&mut self) -> Option<Result<SyncAuthorizedEntriesResponse, Status>> {
        loop {
            if let Some(message) = self.queued.pop() {
                return Some(Ok(self.build(message)));
            }
            if self.done {
                return None;
            }
            let request = match tokio::time::timeout(IDLE, self.requests.next()).await {
                Err(_) => return Some(Err(Status::deadline_exceeded("no request within 60 s"))),
                Ok(None) => return None,
                Ok(Some(Err(status))) => return Some(Err(status)),
                Ok(Some(Ok(request))) => request,
            };
            if let Err(status) = self.accept(request) {
                return Some(Err(status));
            }
        }
    }

    fn accept(&mut self, request: SyncAuthorizedEntriesRequest) -> Result<(), Status> {
        if self.begun {
            self.queued = self.pages_of(&request.ids);
            return Ok(());
        }
        if !request.ids.is_empty() {
            return Err(Status::invalid_argument("specifying IDs on initial request is not supported"));
        }
        if request.output_mask.is_some_and(|mask| !mask.revision_number) {
            return Err(Status::invalid_argument("revision number cannot be masked"));
        }
        self.begun = true;
        self.mask = request.output_mask;
        let count = self.entries.len();
        if count <= WHOLE {
            self.queued.push(Message::Entries { indexes: (0..count).collect(), more: false });
            self.done = true;
        } else {
            let starts = (0..count).step_by(PAGE).rev();
            self.queued = starts.map(|from| Message::Revisions { from, more: from + PAGE < count }).collect();
        }
        Ok(())
    }

    /// The pages that answer a request for `ids`; unknown ones are left out. Always at least one, the last without
    /// `more`.
    fn pages_of(&self, ids: &[String]) -> Vec<Message> {
        let mut found: Vec<usize> = ids
            .iter()
            .filter_map(|id| self.entries.binary_search_by(|e| e.id.as_str().cmp(id)).ok())
            .collect();
        found.sort_unstable();
        found.dedup();
        let mut pages: Vec<Message> =
            found.chunks(PAGE).map(|page| Message::Entries { indexes: page.to_vec(), more: true }).collect();
        match pages.last_mut() {
            Some(Message::Entries { more, .. }) => *more = false,
            _ => pages.push(Message::Entries { indexes: Vec::new(), more: false }),
        }
        pages.reverse();
        pages
    }

    fn build(&self, message: Message) -> SyncAuthorizedEntriesResponse {
        match message {
            Message::Revisions { from, more } => SyncAuthorizedEntriesResponse {
                entry_revisions: self.entries[from..]
                    .iter()
                    .take(PAGE)
                    .map(|entry| revision(entry))
                    .collect(),
                entries: Vec::new(),
                more,
            },
            Message::Entries { indexes, more } => SyncAuthorizedEntriesResponse {
                entry_revisions: Vec::new(),
                entries: indexes
                    .iter()
                    .map(|at| entry_to_proto(&self.entries[*at], self.mask.as_ref()))
                    .collect(),
                more,
            },
        }
    }
}

fn revision(entry: &Entry) -> EntryRevision {
    EntryRevision {
        id: entry.id.to_string(),
        revision_number: entry.revision_number,
        created_at: entry.created_at,
    }
}
