//! When it is worth waking everybody because a server answers again. Pure.
//!
//! The first answer after nobody answered is a sign of life: whoever waits to try again tries at once. That is so for the
//! end of an outage, and not when one kind of call fails again and again while others are answered: each answer would look like
//! an end. So signs that follow each other keep the back-off's steps ([`retry_backoff`]) between them, and after
//! [`CALM`] without one the next counts at once again.

use std::time::Duration;

use tokio::time::Instant;

use crate::server_client::{RETRY_MAX, retry_backoff};

/// Whether anybody is heard.
#[derive(Debug, Default)]
pub(super) struct Silence {
    silent: bool,
    /// The last sign, and how many came soon after one another before it.
    last: Option<(Instant, u32)>,
}

impl Silence {
    /// A call reached nobody, and the last call to every server failed.
    pub(super) fn begin(&mut self) {
        self.silent = true;
    }

    /// A server answered. Returns whether that is a sign of life.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        if !self.silent {
            return false;
        }
        let recent = self.last.filter(|(at, _)| now.saturating_duration_since(*at) <= CALM);
        if recent.is_some_and(|(at, signs)| now < at + retry_backoff().delay(signs, 1.0)) {
            // It stays silent, so that a later answer is the sign.
            return false;
        }
        self.silent = false;
        self.last = Some((now, recent.map_or(0, |(_, signs)| signs.saturating_add(1))));
        true
    }
}

/// After so long without a sign the next one has no others before it.
const CALM: Duration = RETRY_MAX.saturating_mul(2);
