//! What falls due by itself: entries and join tokens that expired, old events of the change feed, and the journals of servers
//! that are gone ([`journals`]).
//!
//! Entries that expired authorize nothing from that moment on; removing them is tidying up and may fail. Each of several
//! servers looks, at times of its own; what one has removed the next one does not find, so it is one change in the feed.

mod journals;
pub(crate) mod prune;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::spread;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_store::{Error as StoreError, Store};

/// How often it looks, as in SPIRE.
pub(crate) const EVERY: Duration = Duration::from_secs(300);
/// How long events of the change feed are kept, as in SPIRE.
pub(crate) const KEEP_CHANGES: Duration = Duration::from_secs(12 * 3600);

/// Removes what expired, until cancelled.
pub(crate) struct Housekeeping {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Registry,
    /// What tells this server from others.
    pub(crate) key: String,
}

impl Housekeeping {
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut wait = EVERY.mul_f64(spread(self.key.as_bytes()));
        loop {
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            wait = EVERY;
            let began = Instant::now();
            let Some(outcome) = cancel.run_until_cancelled(self.tidy_up()).await else { return };
            let status = if outcome.is_ok() { "OK" } else { "Unknown" };
            self.metrics.call("registration_entry_manager_prune").observe(&[], status, began.elapsed());
            if let Err(cause) = outcome {
                warn!(error = %cause, "Cannot remove what expired; trying again later");
            }
        }
    }

    async fn tidy_up(&self) -> Result<(), StoreError> {
        let now = self.clock.unix_now();
        let entries = self.store.prune_entries(now).await?;
        if !entries.is_empty() {
            info!(count = entries.len(), "Removed expired entries");
        }
        self.store.prune_join_tokens(now).await?;
        let keep = i64::try_from(KEEP_CHANGES.as_secs()).unwrap_or(i64::MAX);
        self.store.prune_changes(now.saturating_sub(keep)).await?;
        journals::prune(&*self.store, &self.key, now).await?;
        Ok(())
    }
}
