//! Knows that the database is away, so that nobody has to find it out again.
//!
//! A database that hangs costs every call its whole deadline. After a call that failed *slowly* ([`SLOW`]) the writes
//! that follow fail at once, with the time to come back, until somebody has seen the database answer: the reader of the
//! change feed, which asks all the time, or the one write that is let through from time to time to see. A database
//! that refuses at once costs nothing to ask, so it is asked.
//!
//! Reads pass: only the feed reads, and it has its own pauses.
//!
//! A database that is not believed ([`crate::history`]) is not written to either: what would be written there is not what is
//! served, and it may be somebody else's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use vouchsafe_store::error::Cause;
use vouchsafe_store::{
    Admission, AgentChange, AgentWrite, AgentsWritten, BundleChange, BundleUpdate, BundleWrite, Changes,
    Contents, CreateOutcome, DeleteMode, EntryChange, Error, FederationChange, JournalRecord, Outcome,
    Position, Record, Store,
};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::history::Doubt;

/// A failure that took this long is one that others must be spared.
pub(crate) const SLOW: Duration = Duration::from_millis(250);
/// How long writes fail at once after one that failed slowly, while reads work.
const HOLD: Duration = Duration::from_secs(1);
/// The same while reads fail too: the feed, which reads, ends it. A write goes through now and then all the same, because
/// reads and writes may go to different machines. Also how long one write may take to find out before the next one.
const HOLD_WITHOUT_READS: Duration = Duration::from_secs(10);
/// What callers are told: the feed asks at least this often.
const HINT: Duration = Duration::from_secs(2);

/// What callers are told while the database is not believed: a person has to act.
const HOLD_WHILE_REFUSED: Duration = Duration::from_secs(30);

/// A store behind a breaker of its writes.
pub(crate) struct Circuit {
    inner: Arc<dyn Store>,
    breaker: Mutex<Breaker>,
    doubt: Arc<Doubt>,
}

/// What is known of the database. Pure.
#[derive(Debug, Default)]
struct Breaker {
    /// Reads have failed since, and none has worked.
    reads_fail: bool,
    /// Writes fail at once until then.
    held_until: Option<Instant>,
}

impl Breaker {
    /// Whether a write may go to the database; or when to come back.
    fn may_write(&mut self, now: Instant) -> Result<(), Duration> {
        match self.held_until {
            Some(until) if now < until => Err((until - now).min(HINT)),
            Some(_) => {
                // This one goes to see; the others wait for what it finds.
                self.held_until = Some(now + HOLD_WITHOUT_READS);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn wrote(&mut self, now: Instant, took: Duration, away: bool) {
        if !away {
            self.held_until = None;
        } else if took >= SLOW || self.held_until.is_some() {
            let hold = if self.reads_fail { HOLD_WITHOUT_READS } else { HOLD };
            self.held_until = Some(now + hold);
        }
    }

    /// One that was let through was given up by its caller.
    fn left(&mut self, now: Instant) {
        self.held_until = self.held_until.map(|until| until.min(now + HOLD));
    }

    fn read(&mut self, now: Instant, took: Duration, away: bool) {
        if !away {
            if std::mem::take(&mut self.reads_fail) {
                self.held_until = None;
            }
        } else if !self.reads_fail {
            self.reads_fail = true;
            if took >= SLOW {
                self.held_until = Some(now + HOLD_WITHOUT_READS);
            }
        }
    }
}

impl Circuit {
    pub(crate) fn new(inner: Arc<dyn Store>, doubt: Arc<Doubt>) -> Self {
        Self { inner, breaker: Mutex::default(), doubt }
    }

    async fn write<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let refuse = |retry_after, source: Option<Cause>| Error::Unavailable {
            operation,
            outcome: Outcome::NotWritten,
            retry_after,
            source,
        };
        if let Some(refused) = self.doubt.refused() {
            return Err(refuse(HOLD_WHILE_REFUSED, Some(Arc::new(refused))));
        }
        let began = Instant::now();
        let held = self.lock().may_write(began);
        held.map_err(|retry_after| refuse(retry_after, None))?;
        let mut unfinished = Unfinished { breaker: &self.breaker, answered: false };
        let outcome = call.await;
        unfinished.answered = true;
        let now = Instant::now();
        self.lock().wrote(now, now - began, is_away(&outcome));
        outcome
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        let began = Instant::now();
        let outcome = call.await;
        let now = Instant::now();
        self.lock().read(now, now - began, is_away(&outcome));
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write whose caller may leave before it ends: then it has found out nothing, and the next one goes to see.
struct Unfinished<'a> {
    breaker: &'a Mutex<Breaker>,
    answered: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
            breaker.left(Instant::now());
        }
    }
}

fn is_away<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Unavailable { .. }))
}

#[async_trait]
impl Store for Circuit {
    async fn epoch(&self) -> Result<u64, Error> {
        self.read(self.inner.epoch()).await
    }

    async fn load(&self, sink: &mut (dyn FnMut(Record) + Send)) -> Result<Position, Error> {
        self.read(self.inner.load(sink)).await
    }

    async fn changes_after(&self, after: Position, limit: usize) -> Result<Changes, Error> {
        self.read(self.inner.changes_after(after, limit)).await
    }

    fn mark(&self, at: Position) -> Option<i64> {
        self.inner.mark(at)
    }

    fn recall(&self, at: Position, mark: i64) {
        self.inner.recall(at, mark);
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.inner.watch()
    }

    async fn create_entry(&self, entry: Entry) -> Result<CreateOutcome, Error> {
        self.write("create entry", self.inner.create_entry(entry)).await
    }

    async fn update_entry(&self, id: &EntryId, change: EntryChange) -> Result<(Entry, Position), Error> {
        self.write("update entry", self.inner.update_entry(id, change)).await
    }

    async fn delete_entry(&self, id: &EntryId) -> Result<(Entry, Position), Error> {
        self.write("delete entry", self.inner.delete_entry(id)).await
    }

    async fn prune_entries(&self, now: i64) -> Result<Vec<EntryId>, Error> {
        self.write("prune entries", self.inner.prune_entries(now)).await
    }

    async fn put_agent(&self, agent: Agent) -> Result<Position, Error> {
        self.write("put agent", self.inner.put_agent(agent)).await
    }

    async fn update_agent(&self, id: &SpiffeId, change: AgentChange) -> Result<(Agent, Position), Error> {
        self.write("update agent", self.inner.update_agent(id, change)).await
    }

    async fn update_agents(&self, writes: Vec<AgentWrite>) -> Result<AgentsWritten, Error> {
        self.write("update agents", self.inner.update_agents(writes)).await
    }

    async fn delete_agent(&self, id: &SpiffeId) -> Result<(Agent, Position), Error> {
        self.write("delete agent", self.inner.delete_agent(id)).await
    }

    async fn create_join_token(&self, token: JoinToken, alias: Option<Entry>) -> Result<Position, Error> {
        self.write("create join token", self.inner.create_join_token(token, alias)).await
    }

    async fn admit_by_token(&self, token: &str, now: i64, agent: Agent) -> Result<Admission, Error> {
        self.write("admit agent", self.inner.admit_by_token(token, now, agent)).await
    }

    async fn prune_join_tokens(&self, now: i64) -> Result<usize, Error> {
        self.write("prune join tokens", self.inner.prune_join_tokens(now)).await
    }

    async fn update_bundle(&self, of: &TrustDomain, change: BundleChange) -> Result<BundleUpdate, Error> {
        self.write("update bundle", self.inner.update_bundle(of, change)).await
    }

    async fn put_bundle(
        &self,
        of: &TrustDomain,
        write: BundleWrite,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        self.write("put bundle", self.inner.put_bundle(of, write, change)).await
    }

    async fn delete_bundle(&self, of: &TrustDomain, mode: DeleteMode) -> Result<(Bundle, Position), Error> {
        self.write("delete bundle", self.inner.delete_bundle(of, mode)).await
    }

    async fn create_federation(
        &self,
        relationship: FederationRelationship,
        bundle: Option<Bundle>,
    ) -> Result<Position, Error> {
        self.write("create federation", self.inner.create_federation(relationship, bundle)).await
    }

    async fn update_federation(
        &self,
        with: &TrustDomain,
        change: FederationChange,
        bundle: Option<Bundle>,
    ) -> Result<(FederationRelationship, Position), Error> {
        self.write("update federation", self.inner.update_federation(with, change, bundle)).await
    }

    async fn delete_federation(
        &self,
        with: &TrustDomain,
    ) -> Result<(FederationRelationship, Position), Error> {
        self.write("delete federation", self.inner.delete_federation(with)).await
    }

    async fn load_journals(&self) -> Result<Vec<JournalRecord>, Error> {
        self.read(self.inner.load_journals()).await
    }

    async fn save_journal(&self, key: &str, data: Vec<u8>) -> Result<(), Error> {
        self.write("save journal", self.inner.save_journal(key, data)).await
    }

    async fn delete_journal(&self, record: &JournalRecord) -> Result<bool, Error> {
        self.write("delete journal", self.inner.delete_journal(record)).await
    }

    async fn restore(&self, contents: Contents) -> Result<Position, Error> {
        self.write("restore", self.inner.restore(contents)).await
    }

    async fn prune_changes(&self, older_than: i64) -> Result<usize, Error> {
        self.write("prune changes", self.inner.prune_changes(older_than)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.read(self.inner.ping()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn after_a_slow_failure_the_next_write_fails_at_once_and_one_goes_to_see_later() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert_eq!(breaker.may_write(now), Ok(()));
        breaker.wrote(now, LONG, true);
        assert_eq!(breaker.may_write(now), Err(HOLD));
        let later = now + HOLD;
        assert_eq!(breaker.may_write(later), Ok(()), "one goes to see");
        assert_eq!(breaker.may_write(later), Err(HINT), "the others do not");
        breaker.wrote(later, LONG, false);
        assert_eq!(breaker.may_write(later), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_went_to_see_and_was_given_up_does_not_hold_the_others() {
        let (breaker, now) = (Mutex::<Breaker>::default(), Instant::now());
        let lock = || breaker.lock().unwrap();
        lock().wrote(now, LONG, true);
        tokio::time::advance(HOLD).await;
        assert_eq!(lock().may_write(Instant::now()), Ok(()));
        drop(Unfinished { breaker: &breaker, answered: false });
        assert_eq!(lock().may_write(Instant::now()), Err(HOLD));
        tokio::time::advance(HOLD).await;
        assert_eq!(lock().may_write(Instant::now()), Ok(()));
        drop(Unfinished { breaker: &breaker, answered: true });
        assert_eq!(lock().may_write(Instant::now()), Err(HINT), "the one that answers says so itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_refuses_at_once_is_asked_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.read(now, Duration::ZERO, true);
        breaker.wrote(now, Duration::ZERO, true);
        assert_eq!(breaker.may_write(now), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_works_again_lets_writes_through_and_one_that_always_worked_does_not() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.read(now, LONG, true);
        assert_eq!(breaker.may_write(now), Err(HINT));
        breaker.read(now, LONG, false);
        assert_eq!(breaker.may_write(now), Ok(()));
        breaker.wrote(now, LONG, true);
        breaker.read(now, Duration::ZERO, false);
        assert!(breaker.may_write(now).is_err(), "reads say nothing about writes");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_work_go_on_while_the_replica_that_is_read_is_away() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.read(now, LONG, true);
        let later = now + HOLD_WITHOUT_READS;
        assert_eq!(breaker.may_write(later), Ok(()));
        breaker.wrote(later, Duration::ZERO, false);
        breaker.read(later, LONG, true);
        assert_eq!(breaker.may_write(later), Ok(()));
    }
}
