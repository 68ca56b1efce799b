//! One relationship, as the poller keeps it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::trust_domain::TrustDomain;

use super::refresher::{RefreshError, Reply, reply};

/// One relationship.
pub(super) struct Managed {
    pub(super) from: Arc<FederationRelationship>,
    pub(super) due: Instant,
    pub(super) running: Option<Run>,
    /// Who waits for a fetch that has not begun.
    pub(super) waiting: Vec<Reply>,
    /// Since when the endpoint has served a bundle older than the one held.
    pub(super) older_since: Option<Instant>,
    /// The last fetch failed for want of this trust domain's bundle.
    pub(super) lacks: Option<TrustDomain>,
}

/// A fetch under way.
pub(super) struct Run {
    pub(super) task: AbortHandle,
    pub(super) waiting: Vec<Reply>,
}

impl Managed {
    /// Due at once.
    pub(super) fn new(from: Arc<FederationRelationship>) -> Self {
        let due = Instant::now();
        Self { from, due, running: None, waiting: Vec::new(), older_since: None, lacks: None }
    }

    /// Goes on with another endpoint. Who waits for the one before waits for this one.
    pub(super) fn redirect(&mut self, from: Arc<FederationRelationship>) {
        let mut next = Self::new(from);
        next.waiting = std::mem::take(&mut self.waiting);
        if let Some(run) = self.running.take() {
            run.task.abort();
            next.waiting.extend(run.waiting);
        }
        *self = next;
    }

    /// Ends a fetch that runs, and tells everybody who waits for one.
    pub(super) fn stop(&mut self, why: impl Fn() -> RefreshError) {
        let mut waiting = std::mem::take(&mut self.waiting);
        if let Some(run) = self.running.take() {
            run.task.abort();
            waiting.extend(run.waiting);
        }
        waiting.into_iter().for_each(|waiter| reply(waiter, Err(why())));
    }

    /// Whether a bundle older than the one held is believed now.
    pub(super) fn believes_older(&self, now: Instant) -> bool {
        believes_older(self.older_since, now)
    }
}

/// Whether an endpoint that has served an older bundle since then is believed.
fn believes_older(since: Option<Instant>, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= BELIEVE_OLDER_AFTER)
}

/// An endpoint that serves an older bundle for this long was restored from a backup, and is believed.
const BELIEVE_OLDER_AFTER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_believed_to_have_gone_back_after_five_minutes_of_it() {
        let since = Instant::now();
        assert!(!believes_older(None, since));
        assert!(!believes_older(Some(since), since + Duration::from_secs(299)));
        assert!(believes_older(Some(since), since + Duration::from_secs(300)));
    }
}
