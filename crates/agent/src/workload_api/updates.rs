//! Streams: the newest answer at once, and every change after.
//!
//! The first X.509 answer waits until every identity of the caller has its SVID, at most [`FIRST_ANSWER_DEADLINE`];
//! then what there is goes out, and if there is nothing the caller is told to come again. While a stream is open its
//! entries count as used, so their SVIDs are never let go and are issued before anything else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Status};
use tracing::info;

use super::request::Api;
use super::subscription::Subscription;

/// Which stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `FetchX509SVID`.
    X509Svids,
    /// `FetchX509Bundles`.
    X509Bundles,
    /// `FetchJWTBundles`.
    JwtBundles,
}

/// An open stream.
#[derive(Debug)]
pub struct Updates {
    kind: Kind,
    subscription: Subscription,
    last: Bytes,
    stage: Stage,
    held_back: Option<HeldBack>,
}

#[derive(Debug)]
enum Stage {
    /// The first answer is ready to be sent.
    First,
    /// It was sent; nothing is being watched yet. Many callers leave now.
    Sent,
    Watching(WatchStream<u64>),
    Ended,
}

impl Updates {
    /// Opens a stream and prepares its first answer.
    ///
    /// # Errors
    ///
    /// The status that the RPC ends with.
    pub async fn open(api: Arc<Api>, kind: Kind, request: &Request<()>) -> Result<Self, Status> {
        let known = api.admit(request).await?;
        let now = api.clock.unix_now();
        api.connections.opened();
        let mut updates = Self {
            subscription: Subscription::new(api, known),
            kind,
            last: Bytes::new(),
            stage: Stage::First,
            held_back: None,
        };
        if kind == Kind::X509Svids && !updates.subscription.set().is_complete(now) {
            updates.wait_until_complete().await?;
        }
        updates.last = updates.answer()?;
        Ok(updates)
    }

    async fn wait_until_complete(&mut self) -> Result<(), Status> {
        let deadline = Instant::now() + FIRST_ANSWER_DEADLINE;
        let mut changes = self.subscription.identities().watch();
        loop {
            changes.mark_unchanged();
            self.subscription.refresh();
            if self.subscription.set().is_empty() || self.subscription.set().is_complete(self.subscription.now()) {
                return Ok(());
            }
            info!("Waiting for SVID to get cached");
            self.subscription.identities().ask();
            match timeout_at(deadline, changes.changed()).await {
                Ok(_) if self.subscription.identities().is_closed() => return Err(stopping()),
                Ok(_) => {}
                Err(_) if self.subscription.set().has_any(self.subscription.now()) => return Ok(()),
                Err(_) => {
                    return Err(Status::unavailable(format!(
                        "no X.509-SVID of this workload could be issued within {} s; the agent's log says why",
                        FIRST_ANSWER_DEADLINE.as_secs()
                    )));
                }
            }
        }
    }

    /// The answer as of now.
    fn answer(&self) -> Result<Bytes, Status> {
        let set = self.subscription.set();
        let without_identity = self.subscription.api().allow_unauthenticated_verifiers && self.kind != Kind::X509Svids;
        if set.is_empty() && !without_identity {
            return Err(self.subscription.no_identity());
        }
        Ok(match self.kind {
            Kind::X509Svids => set.x509_response(self.subscription.now()),
            Kind::X509Bundles => set.x509_bundles(),
            Kind::JwtBundles => set.jwt_bundles(),
        })
    }

    /// The next answer, if it differs from the last. An SVID that ended does not take itself away from a stream:
    /// the caller holds it already, and the next one follows when it is there.
    fn next_answer(&mut self) -> Option<Result<Bytes, Status>> {
        if self.subscription.identities().is_closed() {
            return Some(Err(stopping()));
        }
        self.subscription.refresh();
        if self.kind == Kind::X509Svids && self.holds_back() {
            return None;
        }
        self.held_back = None;
        match self.answer() {
            Ok(answer) if answer == self.last => None,
            Ok(answer) => {
                self.last = answer.clone();
                Some(Ok(answer))
            }
            Err(status) => Some(Err(status)),
        }
    }
}

impl Updates {
    /// Whether the next X.509 answer waits for an SVID that is still missing. One that does not come delays the
    /// others by [`FIRST_ANSWER_DEADLINE`] and no longer.
    fn holds_back(&mut self) -> bool {
        let (set, now) = (self.subscription.set(), self.subscription.now());
        if set.is_empty() || set.is_complete(now) {
            return false;
        }
        self.subscription.identities().ask();
        let held_back = self.held_back.get_or_insert_with(HeldBack::new);
        !held_back.over || !set.has_any(now)
    }
}

/// For how long an answer has been waiting for the rest of it.
#[derive(Debug)]
struct HeldBack {
    end: Pin<Box<Sleep>>,
    over: bool,
}

impl HeldBack {
    fn new() -> Self {
        Self { end: Box::pin(sleep(FIRST_ANSWER_DEADLINE)), over: false }
    }

    /// Whether the wait ends with this call.
    fn ends_now(&mut self, cx: &mut Context<'_>) -> bool {
        if self.over {
            return false;
        }
        self.over = self.end.as_mut().poll(cx).is_ready();
        self.over
    }
}

impl Stream for Updates {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::First => {
                    this.stage = Stage::Sent;
                    return Poll::Ready(Some(Ok(this.last.clone())));
                }
                // The watch starts before the look, so that no change falls between the two.
                Stage::Sent => {
                    this.stage = Stage::Watching(WatchStream::from_changes(this.subscription.identities().watch()))
                }
                Stage::Watching(changes) => match Pin::new(changes).poll_next(cx) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => this.stage = Stage::Ended,
                    Poll::Pending if this.held_back.as_mut().is_some_and(|held| held.ends_now(cx)) => {}
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Ended => return Poll::Ready(None),
            }
            if let Stage::Watching(_) = this.stage
                && let Some(next) = this.next_answer()
            {
                if next.is_err() {
                    this.stage = Stage::Ended;
                }
                return Poll::Ready(Some(next));
            }
        }
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.subscription.api().connections.closed();
    }
}

/// What a stream ends with when the agent stops.
#[must_use]
pub fn stopping() -> Status {
    Status::unavailable("the agent is shutting down")
}

/// How long the first X.509 answer may wait for SVIDs.
pub const FIRST_ANSWER_DEADLINE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
