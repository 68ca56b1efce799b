//! Keeps the read model current: reads the store's change feed and applies it.
//!
//! Woken by the store at once and by a timer at the latest. When the feed no longer reaches back to the held position
//! everything is read again. While the database does not answer, the model stays as it is, readiness says so, and
//! the next attempt comes after a jittered delay of at most [`RETRY_MAX`].

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::readiness::Token;
use vouchsafe_store::{Error as StoreError, Store};

use crate::model::{ReadModel, Snapshot};

/// Longest time between two looks at the feed.
pub(crate) const POLL: Duration = Duration::from_secs(5);
/// First delay after a failed read.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest delay after a failed read.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(10);
/// Events per read.
const PAGE: usize = 1_000;

/// Follows the feed of one store.
pub(crate) struct Feed {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) readiness: Token,
    pub(crate) entropy: Entropy,
}

impl Feed {
    /// Runs until `cancel`. Never fails: what the store cannot answer now it may answer later.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut wake = self.store.watch();
        let mut failures = 0_u32;
        loop {
            let Some(outcome) = cancel.run_until_cancelled(self.catch_up()).await else { return };
            let pause = match outcome {
                Ok(()) => {
                    if failures > 0 {
                        info!(failures, "The database answers again");
                    }
                    failures = 0;
                    self.readiness.mark();
                    POLL
                }
                Err(cause) => {
                    if failures == 0 {
                        warn!(error = %cause, "Cannot read changes; answering from memory");
                    }
                    self.readiness.degrade(&format!("cannot read changes: {cause}"));
                    failures = failures.saturating_add(1);
                    Backoff::new(RETRY_MIN, RETRY_MAX)
                        .map_or(RETRY_MAX, |backoff| backoff.delay(failures - 1, self.entropy.fraction()))
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                changed = wake.changed(), if failures == 0 => if changed.is_err() { return },
            }
        }
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        loop {
            let held = self.model.load().position();
            let read = match self.store.changes_after(held, PAGE).await {
                Err(cause) if cause.needs_reload() => return self.reload(&cause).await,
                read => read?,
            };
            debug!(count = read.changes.len(), position = %read.position, "Read changes");
            self.model.apply(read.changes, read.position);
            if read.complete {
                return Ok(());
            }
        }
    }

    async fn reload(&self, cause: &StoreError) -> Result<(), StoreError> {
        info!(%cause, "Reading everything again");
        if !self.model.replace(Snapshot::read(&*self.store).await?) {
            error!(%cause, "The database is older than what is held; keeping what is held. Restart to accept it");
        }
        Ok(())
    }
}
