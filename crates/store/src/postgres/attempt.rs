//! One call: its deadline, when it is done again, and what its caller is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::fail::{Fail, Verdict};
use super::{RETRY_AFTER, Shared};
use crate::error::{Error, Outcome};

/// Most times that a transaction is tried which others are in the way of.
pub const MAX_TRIES: u32 = 8;

/// A call that is under way.
pub(super) struct Attempt<'a> {
    shared: &'a Shared,
    operation: &'static str,
    until: Instant,
    tries: u32,
    /// Whether the message that commits may have left.
    pub(super) sent: AtomicBool,
}

/// What became of one try; `None` when the deadline came first.
type Tried<T> = Option<Result<T, Fail>>;

impl<'a> Attempt<'a> {
    pub(super) fn new(shared: &'a Shared, operation: &'static str, deadline: Duration) -> Self {
        let until = Instant::now() + deadline;
        Self { shared, operation, until, tries: 0, sent: AtomicBool::new(false) }
    }

    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T, Fail>>) -> Tried<T> {
        timeout_at(self.until, work).await.ok()
    }

    /// What the caller is told; `None` to try again.
    pub(super) async fn judge<T>(&mut self, tried: Tried<T>) -> Option<Result<T, Error>> {
        let sent = self.sent.swap(false, Ordering::Relaxed);
        let again = match &tried {
            Some(Err(fail)) => fail.verdict() == Verdict::Again && !(sent && fail.is_disconnect()),
            _ => false,
        };
        self.tries += 1;
        if again && self.tries < MAX_TRIES && Instant::now() < self.until {
            // Those who met here do not meet again in step: each was told to try again at another time.
            tokio::time::sleep(Duration::from_millis(1 << self.tries)).await;
            return None;
        }
        self.sent.store(sent, Ordering::Relaxed);
        Some(self.end(tried))
    }

    /// What the caller is told.
    pub(super) fn end<T>(&self, tried: Tried<T>) -> Result<T, Error> {
        let sent = self.sent.load(Ordering::Relaxed);
        let (fail, lost) = match tried {
            Some(Ok(value)) => return Ok(value),
            Some(Err(fail)) => {
                let lost = fail.is_disconnect();
                (fail, lost)
            }
            None => (Fail::Away(None), true),
        };
        if lost || fail.verdict() == Verdict::Unavailable {
            self.shared.suspect.notify_one();
        }
        if lost && sent {
            return Err(Error::Unavailable {
                operation: self.operation,
                outcome: Outcome::Unknown,
                retry_after: RETRY_AFTER,
                source: Some(fail.cause()),
            });
        }
        Err(fail.at(self.operation, &self.shared.primary.target.place))
    }
}

/// Runs `$work` in a write transaction and gives its value with the position at which it is done. `$work` may run more than
/// once, each time in a new transaction.
macro_rules! write {
    ($store:expr, $operation:literal, $locks:expr, |$tx:ident| $work:expr) => {
        write!($store, $operation, $locks, |$tx| $work, WRITE_DEADLINE)
    };
    ($store:expr, $operation:literal, $locks:expr, |$tx:ident| $work:expr, $deadline:expr) => {{
        let mut attempt = Attempt::new(&$store.shared, $operation, $deadline);
        loop {
            let once = async {
                #[allow(unused_mut, reason = "not every work changes it")]
                let mut $tx = Tx::begin(&$store.shared, &$locks).await?;
                let value = $work.await?;
                let position = $tx.commit(&attempt.sent).await?;
                Ok((value, position))
            };
            let tried = attempt.within(once).await;
            if let Some(told) = attempt.judge(tried).await {
                break told;
            }
        }
    }};
}

/// Runs `$work`, which only reads, again if its connection turns out to have ended.
macro_rules! read {
    ($store:expr, $operation:literal, $deadline:expr, $work:block) => {{
        let mut attempt = Attempt::new(&$store.shared, $operation, $deadline);
        loop {
            let tried = attempt.within(async { $work }).await;
            if let Some(told) = attempt.judge(tried).await {
                break told;
            }
        }
    }};
}

pub(super) use {read, write};
