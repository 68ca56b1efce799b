//! How long to wait after a failure.

use std::time::Duration;

use vouchsafe_cluster::ClusterError;
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::class::Class;

/// Two kinds of delays, each with a ceiling.
pub(super) struct Delays {
    /// After what passes by itself.
    soon: Backoff,
    /// After what a person must change.
    pub(super) rare: Backoff,
}

impl Delays {
    #[expect(clippy::expect_used, reason = "constant ranges")]
    pub(super) fn new() -> Self {
        let up_to = |most| Backoff::new(FIRST_DELAY, most).expect("a range");
        Self { soon: up_to(MAX_SOON), rare: up_to(MAX_RARE) }
    }

    pub(super) fn after(&self, cause: &ClusterError, failures: u32, fraction: f64) -> Duration {
        let backoff = match cause.class() {
            Class::Transient => &self.soon,
            Class::Caller | Class::Peer | Class::Permanent | Class::Bug => &self.rare,
        };
        backoff.delay(failures, fraction).max(cause.retry_after().unwrap_or_default().min(MAX_RARE))
    }
}

const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_SOON: Duration = Duration::from_secs(5);
const MAX_RARE: Duration = Duration::from_secs(60);
