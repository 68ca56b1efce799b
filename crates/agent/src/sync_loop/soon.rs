//! Callers without identity make an agent that polls look at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use vouchsafe_runtime::budget::Budget;

/// Asks for a synchronization now instead of at the end of the interval. Cheap to clone.
///
/// At most [`SOON_PER_INTERVAL`] of these happen per interval on average, whoever asks: callers without identity
/// cannot make this agent a load on the server. While the server pushes, nothing is missing that it has, and none happen.
#[derive(Clone, Debug)]
pub struct SyncSoon {
    wake: Arc<Notify>,
    budget: Arc<Mutex<Budget>>,
}

/// Synchronizations per interval that callers without identity may cause.
pub const SOON_PER_INTERVAL: f64 = 1.0;
/// How many of them may follow each other at once.
const SOON_BURST: u32 = 2;

impl SyncSoon {
    /// For synchronizations every `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let rate = SOON_PER_INTERVAL / interval.as_secs_f64().max(f64::MIN_POSITIVE);
        Self { wake: Arc::default(), budget: Arc::new(Mutex::new(Budget::new(rate, SOON_BURST, true))) }
    }

    /// Someone found nothing that may be there by now.
    pub fn ask(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.try_take(Instant::now(), 1).is_ok() {
            self.wake.notify_one();
        }
    }

    /// Whoever has asked until now has what there is.
    pub(super) fn forget(&self) {
        self.wake.notified().now_or_never();
    }

    /// Waits until someone has asked.
    pub(super) async fn asked(&self) {
        self.wake.notified().await;
    }
}
