//! Keeps the read model current: reads the store's change feed and applies it.
//!
//! Woken by the store at once and by a timer at the latest. When the feed no longer reaches back to the held position
//! everything is read again. While the database does not answer, the model stays as it is, readiness says so and since
//! when, and the next attempt comes after a jittered delay of at most [`RETRY_MAX`].
//!
//! A database that was away for longer than [`FAILOVER`], or at the start, may be another one when it returns: a standby that lost the last
//! transactions and went on from there. So it is read whole. What becomes of one that does not go on from what is held,
//! [`crate::history`] says.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Gauge;
use vouchsafe_runtime::readiness::Token;
use vouchsafe_store::{Change, Error as StoreError, Store};

use crate::acceptance::ADVICE;
use crate::agents::Agents;
use crate::confirmed::Confirmed;
use crate::history::{Past, Verdict, is_on_the_way};
use crate::model::{ReadModel, Snapshot};
use crate::status::Chain;
use crate::when;

/// Longest time between two looks at the feed.
pub(crate) const POLL: Duration = Duration::from_secs(5);
/// First delay after a failed read.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest delay after a failed read: what is written after an outage is served this much later.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(1);
/// After this long a database that returns may be another one.
const FAILOVER: Duration = Duration::from_secs(10);
/// Events per read.
const PAGE: usize = 1_000;

/// Follows the feed of one store.
pub(crate) struct Feed {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) model: Arc<ReadModel>,
    /// Told when the database is back, to write what waits for it.
    pub(crate) agents: Arc<Agents>,
    pub(crate) clock: Clock,
    /// When the model was last known to be all there is.
    pub(crate) confirmed: Arc<Confirmed>,
    pub(crate) confirmed_gauge: Gauge,
    /// Whether the model began with the last good state: who knows what the database is by now.
    pub(crate) stale: bool,
    pub(crate) readiness: Token,
    pub(crate) entropy: Entropy,
}

/// How one look at the feed ended.
struct Look(Verdict);

/// What the looks before have found.
#[derive(Default)]
struct Outage {
    failures: u32,
    since: Option<Instant>,
    /// What was said last of a database that is not believed.
    doubted: Option<Verdict>,
    /// The whole database is to be read, however short this was.
    whole: bool,
}

impl Feed {
    /// Runs until `cancel`. Never fails: what the store cannot answer now it may answer later.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut wake = self.store.watch();
        let mut outage = Outage { whole: self.stale, ..Outage::default() };
        loop {
            let number = self.confirmed.begin();
            let whole = outage.whole
                || outage.doubted.is_some()
                || outage.since.is_some_and(|since| since.elapsed() >= FAILOVER);
            let look = async {
                if whole {
                    self.look_at_history().await?;
                    self.read_all("it may be another one than before").await
                } else {
                    self.catch_up().await
                }
            };
            let Some(outcome) = cancel.run_until_cancelled(look).await else { return };
            let pause = self.judge(outcome, &mut outage);
            let is_taken = outage.failures == 0 && outage.doubted.is_none();
            if is_taken {
                self.confirmed.end(number);
            }
            // Each look at one that is refused reads it whole, and others may write there all the time.
            let eager = outage.failures == 0 && !matches!(outage.doubted, Some(Verdict::Refused(_)));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                changed = wake.changed(), if eager => if changed.is_err() { return },
                () = self.confirmed.asked(), if is_taken => {}
            }
        }
    }

    /// Tells the world how a look ended, and says when to look again.
    fn judge(&mut self, outcome: Result<Look, StoreError>, outage: &mut Outage) -> Duration {
        let held = when::rfc3339(self.confirmed.load());
        let cause = match outcome {
            Ok(Look(Verdict::Taken)) => {
                if outage.failures > 0 {
                    info!(failures = outage.failures, "The database answers again");
                    self.agents.database_returned();
                }
                if outage.doubted.is_some() {
                    info!("The database has what is held; taking what it has");
                }
                *outage = Outage::default();
                let now = self.clock.unix_now();
                self.confirmed.store(now);
                self.confirmed_gauge.set(now as f64);
                self.readiness.mark();
                return POLL;
            }
            Ok(Look(doubted)) => {
                let before = outage.doubted.as_ref().map(std::mem::discriminant);
                self.tell_doubt(&doubted, before != Some(std::mem::discriminant(&doubted)));
                *outage = Outage { doubted: Some(doubted), ..Outage::default() };
                return POLL;
            }
            Err(cause) => cause,
        };
        if outage.failures == 0 {
            warn!(error = %cause, as_of = held, "Cannot read changes; answering from memory");
            outage.since = Some(Instant::now());
        }
        let why = Chain(&cause).to_string();
        self.readiness
            .degrade(&format!("the database is away, answering from what was known at {held}: {why}"));
        outage.failures = outage.failures.saturating_add(1);
        Backoff::new(RETRY_MIN, RETRY_MAX)
            .map_or(RETRY_MAX, |backoff| backoff.delay(outage.failures - 1, self.entropy.fraction()))
    }

    /// Tells of a database that is not believed.
    fn tell_doubt(&self, verdict: &Verdict, is_news: bool) {
        match verdict {
            Verdict::Refused(cause) => {
                if is_news {
                    error!(
                        cause,
                        held_as_of = when::rfc3339(self.confirmed.load()),
                        "The database lacks what is held; keeping what is held, and writing nothing. If it is as it should be, \
                         run `vouchsafe server datastore accept` on each server and restart it"
                    );
                }
                self.readiness.degrade(&format!("{cause}; {ADVICE}"));
            }
            Verdict::Behind(cause) => {
                if is_news {
                    warn!(cause, "The database was set back; keeping what is held until it has caught up");
                    self.agents.database_returned();
                }
                self.readiness.degrade(cause);
            }
            Verdict::Taken => {}
        }
    }

    async fn catch_up(&self) -> Result<Look, StoreError> {
        loop {
            let held = self.model.load().position();
            let read = match self.store.changes_after(held, PAGE).await {
                Err(cause) if cause.needs_reload() => {
                    self.look_at_history().await?;
                    return self.read_all(&cause.to_string()).await;
                }
                read => read?,
            };
            debug!(count = read.changes.len(), position = %read.position, "Read changes");
            for change in &read.changes {
                if let Change::Agent(id, None) = change {
                    self.agents.evicted(id);
                }
            }
            self.model.apply(read.changes, read.position);
            if read.complete {
                return Ok(Look(Verdict::Taken));
            }
        }
    }

    /// Has the store say, if it can, whether the database went on from what is held.
    async fn look_at_history(&self) -> Result<(), StoreError> {
        let (held, doubt) = (self.model.load(), self.model.doubt());
        if self.store.epoch().await? != held.epoch() {
            return Ok(());
        }
        let mark = doubt.mark(&*self.store, held.position());
        match is_on_the_way(&*self.store, held.position(), mark).await? {
            Some(true) => doubt.learn(Past::default()),
            Some(false) => doubt.begin(),
            None => {}
        }
        let past = doubt.past();
        if let Some(whole_at) = past.whole_at
            && is_on_the_way(&*self.store, whole_at, None).await? == Some(false)
        {
            doubt.learn(Past { whole_at: None, ..past });
        }
        Ok(())
    }

    async fn read_all(&self, why: &str) -> Result<Look, StoreError> {
        info!(why, "Reading the whole database");
        let next = Snapshot::read(&*self.store).await?;
        let other = next.epoch() != self.model.load().epoch();
        let verdict = self.model.replace(next, self.clock.unix_now());
        if other && verdict == Verdict::Taken {
            warn!("This is another database than before; it has all that is held, and is taken");
        }
        Ok(Look(verdict))
    }
}
