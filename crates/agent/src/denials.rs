//! What the server denies this agent as a whole: it is banned, evicted, expired.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use vouchsafe_proto::denial::{self, Reason};

/// Carries what the server denied from whoever heard it to the node task.
#[derive(Clone, Debug)]
pub struct Denials {
    latest: Arc<watch::Sender<Option<Denial>>>,
}

/// The server denies this agent everything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// Since when it says so without interruption.
    pub since: Instant,
    /// When it said so last.
    pub heard: Instant,
}

impl Default for Denials {
    fn default() -> Self {
        Self { latest: Arc::new(watch::Sender::new(None)) }
    }
}

impl Denials {
    /// Looks whether `status` is a denial of this agent, and passes it on if so.
    pub fn hear(&self, status: &Status) {
        if let Some(reason) = denial::reason(status) {
            let now = Instant::now();
            self.latest.send_modify(|latest| {
                let since = match latest {
                    Some(held) if held.reason == reason && held.heard + DENIAL_MEMORY > now => held.since,
                    _ => now,
                };
                *latest = Some(Denial { reason, since, heard: now });
            });
        }
    }

    /// Wakes whenever a denial is heard, also when it is the same again.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Denial>> {
        self.latest.subscribe()
    }

    /// The server answered as it should.
    pub fn admitted(&self) {
        self.latest.send_if_modified(|latest| {
            *latest = None;
            false
        });
    }

    /// What it denies now, if anything.
    #[must_use]
    pub fn latest(&self) -> Option<Denial> {
        *self.latest.borrow()
    }
}

/// A denial that was not repeated for so long is forgotten.
const DENIAL_MEMORY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_unbroken_series_of_denials_counts_as_one() {
        let denials = Denials::default();
        let denied = denial::denied(Reason::AgentNotAttested, "no");
        denials.hear(&Status::unavailable("away"));
        assert_eq!(denials.latest(), None);
        denials.hear(&denied);
        let first = denials.latest().unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        denials.hear(&denied);
        assert_eq!(denials.latest().unwrap().since, first.since);
        denials.admitted();
        denials.hear(&denied);
        assert_ne!(denials.latest().unwrap().since, first.since);
        let second = denials.latest().unwrap();
        tokio::time::advance(DENIAL_MEMORY * 2).await;
        denials.hear(&denied);
        assert_ne!(denials.latest().unwrap().since, second.since, "long ago");
    }
}
