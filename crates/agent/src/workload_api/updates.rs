//! Streams: the newest answer at once, and every change after.
//!
//! The first X.509 answer waits until every identity of the caller has its SVID: at most [`PARTIAL_ANSWER_DEADLINE`], then
//! what there is goes out, and the rest follows on the stream. If there is nothing it waits for [`FIRST_ANSWER_DEADLINE`], then
//! the caller is told to come again. So an entry that cannot be issued while the server is away keeps nobody from what is
//! held. While a stream is open its
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
use crate::limits::Limited;

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

impl Kind {
    fn limited(self) -> Limited {
        match self {
            Self::X509Svids => Limited::FetchX509Svid,
            Self::X509Bundles => Limited::FetchX509Bundles,
            Self::JwtBundles => Limited::FetchJwtBundles,
        }
    }
}

/// What a stream sends.
pub trait Answers: Send + Unpin + 'static {
    /// Whether an answer waits for X.509-SVIDs that are missing.
    fn needs_svids(&self) -> bool;

    /// The answer as of now.
    ///
    /// # Errors
    ///
    /// The status that the stream ends with.
    fn answer(&mut self, subscription: &Subscription) -> Result<Bytes, Status>;

    /// The stream is over.
    fn ended(&mut self, _api: &Api) {}
}

impl Answers for Kind {
    fn needs_svids(&self) -> bool {
        *self == Self::X509Svids
    }

    fn answer(&mut self, subscription: &Subscription) -> Result<Bytes, Status> {
        let set = subscription.set();
        let without_identity = subscription.api().allow_unauthenticated_verifiers && !self.needs_svids();
        if set.is_empty() && !without_identity {
            return Err(subscription.no_identity());
        }
        Ok(match self {
            Self::X509Svids => set.x509_response(subscription.now()),
            Self::X509Bundles => set.x509_bundles(),
            Self::JwtBundles => set.jwt_bundles(),
        })
    }

    fn ended(&mut self, api: &Api) {
        api.connections.closed();
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Updates<A: Answers = Kind> {
    answers: A,
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
    /// Opens a stream for the caller of `request` and prepares its first answer.
    ///
    /// # Errors
    ///
    /// The status that the RPC ends with.
    pub async fn open(api: Arc<Api>, kind: Kind, request: &Request<()>) -> Result<Self, Status> {
        let known = api.admit(request).await?;
        api.check_rate(kind.limited(), &known)?;
        api.connections.opened();
        Self::start(kind, Subscription::new(api, known)).await
    }
}

impl<A: Answers> Updates<A> {
    /// Prepares the first answer.
    ///
    /// # Errors
    ///
    /// The status that the RPC ends with.
    pub async fn start(answers: A, subscription: Subscription) -> Result<Self, Status> {
        let mut updates =
            Self { subscription, answers, last: Bytes::new(), stage: Stage::First, held_back: None };
        let complete = updates.subscription.set().is_complete(updates.subscription.now());
        if updates.answers.needs_svids() && !complete {
            updates.wait_until_complete().await?;
        }
        updates.last = updates.answers.answer(&updates.subscription)?;
        Ok(updates)
    }

    async fn wait_until_complete(&mut self) -> Result<(), Status> {
        let began = Instant::now();
        let mut changes = self.subscription.identities().watch();
        loop {
            changes.mark_unchanged();
            self.subscription.refresh();
            if self.subscription.set().is_empty()
                || self.subscription.set().is_complete(self.subscription.now())
            {
                return Ok(());
            }
            info!("Waiting for SVID to get cached");
            self.subscription.identities().ask();
            let has_any = self.subscription.set().has_any(self.subscription.now());
            let patience = if has_any { PARTIAL_ANSWER_DEADLINE } else { FIRST_ANSWER_DEADLINE };
            match timeout_at(began + patience, changes.changed()).await {
                Ok(_) if self.subscription.identities().is_closed() => return Err(stopping()),
                Ok(_) => {}
                Err(_) if has_any => return Ok(()),
                Err(_) => return Err(not_issued()),
            }
        }
    }

    /// The next answer, if it differs from the last. An SVID that ended does not take itself away from a stream:
    /// the caller holds it already, and the next one follows when it is there.
    fn next_answer(&mut self) -> Option<Result<Bytes, Status>> {
        if self.subscription.identities().is_closed() {
            return Some(Err(stopping()));
        }
        self.subscription.refresh();
        if self.answers.needs_svids() && self.holds_back() {
            return None;
        }
        self.held_back = None;
        match self.answers.answer(&self.subscription) {
            Ok(answer) if answer == self.last => None,
            Ok(answer) => {
                self.last = answer.clone();
                Some(Ok(answer))
            }
            Err(status) => Some(Err(status)),
        }
    }
}

impl<A: Answers> Updates<A> {
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

impl<A: Answers> Stream for Updates<A> {
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
                    this.stage =
                        Stage::Watching(WatchStream::from_changes(this.subscription.identities().watch()))
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

impl<A: Answers> Drop for Updates<A> {
    fn drop(&mut self) {
        self.answers.ended(self.subscription.api());
    }
}

/// What a stream ends with when the agent stops.
#[must_use]
pub fn stopping() -> Status {
    Status::unavailable("the agent is shutting down")
}

/// What a caller is told whose SVIDs did not come within [`FIRST_ANSWER_DEADLINE`].
#[must_use]
pub fn not_issued() -> Status {
    Status::unavailable(format!(
        "no X.509-SVID of this workload could be issued within {} s; the agent's log says why",
        FIRST_ANSWER_DEADLINE.as_secs()
    ))
}

/// How long the first X.509 answer may wait for SVIDs while there is none.
pub const FIRST_ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may wait for the rest of them: what a server that answers needs to issue one.
pub const PARTIAL_ANSWER_DEADLINE: Duration = Duration::from_millis(50);

#[cfg(test)]
pub(crate) mod tests;
