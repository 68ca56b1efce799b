//! Reading lists: in a watch, in pages, and one object to see where the source is.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::error;

use super::Remote;
use crate::error::ClusterError;
use crate::kind::Kind;
use crate::version::ResourceVersion;
use crate::watch::event::{self, Arrived, Event};
use crate::watch::held::Held;
use crate::watch::is_equal;
use crate::watch::plan::{Outcome, Verdict};
use crate::watch::query::Query;
use crate::watch::stream::Read;

impl<K: Kind> Remote<'_, K> {
    /// A watch that begins with the list.
    pub(super) async fn stream(&mut self) -> Outcome {
        let lasts = self.lasts();
        let place = self.api.list_place().await;
        let mut stream = match self.open(&Query::Stream { lasts }).await {
            Ok(stream) => stream,
            Err(error) => return without_list(error),
        };
        let mut list = Held::new();
        loop {
            let Ok(read) = timeout(LIST_SILENCE, stream.next()).await else {
                return Outcome::NoStreaming;
            };
            match read {
                Read::Event(Event::Changed(arrived)) => list.put(arrived, Some(&self.held)),
                Read::Event(Event::Deleted(name, _)) => list.remove(&name),
                Read::Event(Event::Bookmark { version: Some(version), is_complete: true }) => {
                    drop(place);
                    return match self.take(list, version) {
                        Some(refused) => refused,
                        None => self.live(stream, lasts).await,
                    };
                }
                // A server of before streaming lists does not know the question and watches from now on.
                Read::Event(Event::Bookmark { .. }) => return Outcome::NoStreaming,
                Read::Event(Event::Error(status)) => {
                    return without_list(crate::api::told(&self.call("watch"), *status));
                }
                Read::Closed => return Outcome::Closed { heard: false },
                Read::Broken(error) => return Outcome::Failed(error),
            }
        }
    }

    /// A list in pages; a page is smaller when pages of that many objects are larger than is taken.
    pub(super) async fn pages(&mut self) -> Outcome {
        let _place = self.api.list_place().await;
        let call = self.call("list");
        let (mut list, mut limit, mut token, mut version) = (Held::new(), PAGE, None::<String>, None);
        loop {
            let query = Query::Page { limit, token: token.as_deref() };
            let read = match self.api.page(&call, query.request::<K>(self.selection)).await {
                Ok(page) => {
                    limit = (limit * 2).min(PAGE);
                    page.read(&call, |item| list.put(event::object(item), Some(&self.held)))
                }
                Err(ClusterError::TooLarge { .. }) if limit > 1 => {
                    limit = (limit / 4).max(1);
                    continue;
                }
                Err(ClusterError::TooLarge { limit: bytes, .. }) => {
                    let query = Query::Head { token: token.as_deref() };
                    let page = self.api.page(&call, query.request::<K>(self.selection)).await;
                    let mut put = |item: &_| {
                        list.put(Arrived::Unreadable(event::too_large(item, bytes)), Some(&self.held));
                    };
                    page.and_then(|page| page.read(&call, &mut put))
                }
                Err(error) => Err(error),
            };
            let head = match read {
                Ok(head) => head,
                Err(error) if error.is_expired() => return Outcome::Expired,
                Err(error) => return Outcome::Failed(error),
            };
            version = version.or(head.version);
            token = head.token;
            if token.is_none() {
                break;
            }
        }
        let Some(version) = version else {
            let detail = "the list has no resourceVersion".into();
            return Outcome::Failed(ClusterError::Garbled { call, detail });
        };
        self.take(list, version).unwrap_or(Outcome::Listed)
    }

    /// Asks where the source is, when a watch has been silent for long: one object of a list as it is now says it. (It also
    /// has the API server look how far it is, so that a watch that works shows a bookmark soon.)
    pub(super) async fn is_source_older(&self) -> Result<bool, ClusterError> {
        let call = self.call("list");
        let query = Query::Page { limit: 1, token: None };
        let page = self.api.page(&call, query.request::<K>(self.selection)).await?;
        let head = page.read(&call, |_| {})?;
        Ok(match (&head.version, &self.version) {
            (Some(now), Some(held)) => now.is_older_than(held),
            _ => false,
        })
    }

    /// Takes a list that was read to its end, unless it is older than what is held.
    fn take(&mut self, list: Held<K>, version: ResourceVersion) -> Option<Outcome> {
        match self.plan.judge(self.version.as_ref(), &version, Instant::now()) {
            Verdict::Take => {}
            Verdict::Refuse => return Some(Outcome::Older),
            Verdict::TakeOlder => {
                error!(
                    kind = K::label(), held = %self.version.as_ref().map(ToString::to_string).unwrap_or_default(), offered = %version,
                    "the API server has been at an older version for minutes: it was set back, and what it says now is taken"
                );
            }
        }
        let list = list.replacing(&self.held);
        let is_first = self.version.is_none();
        let changed = is_first || !is_equal(&self.held, &list) || self.held.is_partial != list.is_partial;
        self.held = list;
        self.plan.listed(Instant::now(), self.deps.entropy.fraction());
        self.plan.heard(version.clone());
        self.version = Some(version);
        self.publish(changed);
        None
    }
}

/// Why there was no list in a watch: what is not a passing trouble means that there never will be.
fn without_list(error: ClusterError) -> Outcome {
    match error.code() {
        Some(400 | 404..=406 | 422 | 500 | 501) => Outcome::NoStreaming,
        Some(410) => Outcome::Expired,
        _ => Outcome::Failed(error),
    }
}

/// The longest pause between two objects of a list in a watch.
const LIST_SILENCE: Duration = Duration::from_secs(30);

/// How many objects are asked for at once where lists come in pages.
const PAGE: u32 = 500;
