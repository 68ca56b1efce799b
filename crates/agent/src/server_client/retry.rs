//! How long to wait before the next attempt.
//!
//! At a random time within a step that doubles from [`RETRY_MIN`] to [`RETRY_MAX`] (full jitter): agents that failed together
//! do not come back together. A server that says when it wants to be asked again is asked then, a little later each, and
//! [`RETRY_MAX`] at the latest. A server that answers after none did wakes everybody who waits ([`ServerClient::rest`]),
//! so that the end of an outage is found by the first who looks and not by each for itself. A server that is away is
//! looked for at a random time within [`LOOK_AGAIN`] at most.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Code, Status};
use vouchsafe_runtime::backoff::Backoff;

use super::{ServerClient, hint};

impl ServerClient {
    /// How long to wait after `failures` attempts that failed before, of which `status` ended the last.
    #[must_use]
    pub fn wait_after(&self, status: &Status, failures: u32) -> Duration {
        wait(hint::of(status), failures, self.jitter())
    }

    /// The same when what matters is to find a server again: one that is away is not burdened by looking whether it is back.
    #[must_use]
    pub fn wait_to_reach(&self, status: &Status, failures: u32) -> Duration {
        wait_to_reach(status, failures, self.jitter())
    }

    /// To be told of a server that answers after none did. Take it before the attempt that may fail.
    #[must_use]
    pub fn signs_of_life(&self) -> watch::Receiver<u64> {
        self.pool.signs_of_life()
    }

    /// Waits for `wait`, or until a server answers after none did.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn rest(&self, wait: Duration, life: &mut watch::Receiver<u64>) {
        let sign = async {
            if life.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            // Those who wait here do not start together either.
            sleep(WAKE_SPREAD.mul_f64(self.jitter())).await;
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = sign => {}
        }
    }
}

fn wait(hint: Option<Duration>, failures: u32, place: f64) -> Duration {
    match hint {
        None => retry_backoff().delay(failures, place),
        Some(hint) => hint.clamp(RETRY_MIN / 10, RETRY_MAX.mul_f64(0.8)).mul_f64(1.0 + 0.25 * place),
    }
}

fn wait_to_reach(status: &Status, failures: u32, place: f64) -> Duration {
    match hint::of(status) {
        None if status.code() == Code::Unavailable => look_again().delay(failures, place),
        hint => wait(hint, failures, place),
    }
}

/// [`retry_backoff`] up to [`LOOK_AGAIN`].
#[must_use]
pub fn look_again() -> Backoff {
    #[expect(clippy::expect_used, reason = "the two constants are a range")]
    Backoff::new(RETRY_MIN, LOOK_AGAIN).expect("a range")
}

/// How long the agent waits between attempts: short at first, never long, never in step with other agents.
#[must_use]
pub fn retry_backoff() -> Backoff {
    #[expect(clippy::expect_used, reason = "the two constants are a range")]
    Backoff::new(RETRY_MIN, RETRY_MAX).expect("a range")
}

/// Step of the first retry.
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// Longest time between attempts to reach a server that is away, or to renew the agent's own SVID.
pub const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Longest time between attempts.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// Those who are woken start within this time.
const WAKE_SPREAD: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest_and_none_is_shorter_than_the_server_asks(
            hint in prop::option::of(0_u64..100_000),
            failures: u32,
            place in 0.0_f64..1.0,
        ) {
            let hint = hint.map(Duration::from_millis);
            let wait = wait(hint, failures, place);
            prop_assert!(wait <= RETRY_MAX);
            prop_assert!(wait >= hint.unwrap_or(RETRY_MIN / 10).min(RETRY_MAX.mul_f64(0.8)));
        }
    }

    #[test]
    fn a_server_that_is_away_is_looked_for_at_any_time_within_ten_seconds_and_one_that_says_when_is_asked_then()
     {
        let away = Status::unavailable("no connection");
        let at = |place| wait_to_reach(&away, 40, place);
        assert_eq!([at(0.0), at(1.0)], [RETRY_MIN / 10, LOOK_AGAIN]);
        assert!(at(0.5) < at(0.75) && at(0.75) < at(1.0), "agents that failed together come back together");
        let asks = hint::with(Code::Unavailable, Duration::from_secs(20));
        assert_eq!(wait_to_reach(&asks, 40, 0.0), Duration::from_secs(20));
        assert_eq!(wait_to_reach(&Status::internal("no"), 40, 1.0), RETRY_MAX);
    }

    #[test]
    fn the_step_grows_and_all_of_it_is_used() {
        assert_eq!(wait(None, 2, 0.0), Duration::from_millis(100));
        assert_eq!(wait(None, 2, 1.0), Duration::from_secs(4));
        assert_eq!(wait(None, 40, 1.0), RETRY_MAX);
    }
}
