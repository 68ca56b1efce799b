//! Group commit: writes that arrive while one commits are committed together by the next.
//!
//! A caller puts its write into a queue. If nobody drains the queue, a blocking thread starts to: it takes up to
//! [`MAX_BATCH`] writes, runs each in a savepoint of one transaction, commits, and only then answers all of them;
//! so on until the queue is empty. A write that fails undoes its savepoint alone. When the commit itself fails,
//! all writes of the group failed; if the reason is a full disk, each is tried again by itself, so that one large
//! write does not fail the small ones beside it.
//!
//! A write is in one of three stages. *Queued*: it can be taken back, by a deadline or by dropping the future, and
//! then never runs. *Running*: it ends by itself, committed or rolled back, and a deadline only ends the waiting.
//! *Withdrawn*: taken back.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{oneshot, watch};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;

use super::RETRY_AFTER;
use super::fail::Fail;
use super::feed::Tx;
use crate::change::Position;
use crate::error::{Error, Outcome};

/// Most writes that wait. Further ones fail as unavailable at once.
pub const MAX_QUEUED_WRITES: usize = 4096;
/// Most writes in one transaction.
pub const MAX_BATCH: usize = 256;

/// Runs writes one group at a time.
pub(super) struct Writer {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    queue: Mutex<Queue>,
    newest: watch::Sender<Position>,
    path: PathBuf,
    clock: Clock,
}

struct Queue {
    waiting: VecDeque<Box<dyn Job>>,
    /// The connection, while no thread drains the queue.
    idle: Option<Connection>,
    /// Takes the connection instead, once the writer closes.
    closing: Option<oneshot::Sender<Connection>>,
}

impl Writer {
    pub(super) fn new(
        conn: Connection,
        path: &Path,
        clock: Clock,
        deadline: Duration,
        newest: Position,
    ) -> Self {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), idle: Some(conn), closing: None });
        let newest = watch::Sender::new(newest);
        Self { shared: Arc::new(Shared { queue, newest, path: path.to_owned(), clock }), deadline }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Position> {
        self.shared.newest.subscribe()
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// Waits for the writes that are queued and closes the connection.
    pub(super) async fn close(self) {
        let last = {
            let mut queue = self.shared.lock();
            match queue.idle.take() {
                Some(conn) => Ok(conn),
                None => {
                    let (sender, last) = oneshot::channel();
                    queue.closing = Some(sender);
                    Err(last)
                }
            }
        };
        let conn = match last {
            Ok(conn) => Ok(conn),
            Err(last) => last.await,
        };
        // Closing writes the log back into the file, which takes a while.
        if let Err(error) = blocking::run(move || drop(conn)).await {
            tracing::warn!(%error, "Database did not close cleanly");
        }
    }

    /// Runs `work` in a transaction and waits until it is committed. `work` may run twice.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, Error> {
        self.write_within(self.deadline, operation, work).await
    }

    /// [`Writer::write`] for work that takes longer than others.
    pub(super) async fn write_within<T: Send + 'static>(
        &self,
        deadline: Duration,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket(Arc::new(AtomicU8::new(QUEUED)));
        let stage = Arc::clone(&ticket.0);
        self.shared.submit(Box::new(Write { operation, work, done: None, reply, stage }))?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => {
                let outcome = if ticket.withdraw() { Outcome::NotWritten } else { Outcome::Unknown };
                Err(unavailable(operation, outcome))
            }
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// The caller's hold on its write: dropping it takes back a write that has not begun.
struct Ticket(Arc<AtomicU8>);

impl Ticket {
    /// Whether the write was still queued, and so will never run.
    fn withdraw(&self) -> bool {
        self.0.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw();
    }
}

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Shared {
    fn submit(self: &Arc<Self>, job: Box<dyn Job>) -> Result<(), Error> {
        let mut queue = self.lock();
        if queue.waiting.len() >= MAX_QUEUED_WRITES {
            return Err(unavailable(job.operation(), Outcome::NotWritten));
        }
        queue.waiting.push_back(job);
        if let Some(conn) = queue.idle.take() {
            let shared = Arc::clone(self);
            blocking::run(move || shared.drain(conn));
        }
        Ok(())
    }

    fn drain(&self, mut conn: Connection) {
        loop {
            let batch: Vec<_> = {
                let mut queue = self.lock();
                if queue.waiting.is_empty() {
                    match queue.closing.take() {
                        // If nobody waits for it any more, it is closed here.
                        Some(closing) => drop(closing.send(conn)),
                        None => queue.idle = Some(conn),
                    }
                    return;
                }
                let size = queue.waiting.len().min(MAX_BATCH);
                queue.waiting.drain(..size).collect()
            };
            self.run(&mut conn, batch);
        }
    }

    fn run(&self, conn: &mut Connection, batch: Vec<Box<dyn Job>>) {
        let mut jobs: Vec<_> = batch.into_iter().filter(|job| job.begin()).collect();
        match self.commit(conn, &mut jobs) {
            Err(fail) if fail.is_disk_full() && jobs.len() > 1 => {
                for job in jobs {
                    let mut alone = vec![job];
                    let committed = self.commit(conn, &mut alone);
                    self.answer(alone, &committed);
                }
            }
            committed => self.answer(jobs, &committed),
        }
    }

    /// Runs `jobs` in one transaction. After an error nothing of any of them remains.
    fn commit(&self, conn: &mut Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), Fail> {
        if jobs.is_empty() {
            return Ok(());
        }
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tx = Tx { conn: &transaction, now: self.clock.unix_now() };
        for job in jobs {
            step(&transaction, "SAVEPOINT job")?;
            if let Err(fail) = job.run(&tx) {
                if transaction.is_autocommit() {
                    // SQLite gave up the whole transaction, not only this job's part.
                    return Err(fail);
                }
                step(&transaction, "ROLLBACK TO job")?;
            }
            step(&transaction, "RELEASE job")?;
        }
        let newest = tx.newest()?;
        transaction.commit()?;
        self.newest.send_if_modified(|known| {
            let moved = newest > *known;
            *known = newest.max(*known);
            moved
        });
        Ok(())
    }

    fn answer(&self, jobs: Vec<Box<dyn Job>>, committed: &Result<(), Fail>) {
        if let Err(fail) = committed {
            tracing::warn!(database = %self.path.display(), writes = jobs.len(), reason = ?fail, "Database write failed");
        }
        for job in jobs {
            job.answer(committed, &self.path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write without its types.
trait Job: Send {
    fn operation(&self) -> &'static str;
    /// Whether the write is to run; from here on it cannot be taken back.
    fn begin(&self) -> bool;
    /// Runs it, and keeps what came out until [`Job::answer`].
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), Fail>;
    /// Tells the caller: its own result if the group was committed, else why it was not.
    fn answer(self: Box<Self>, committed: &Result<(), Fail>, path: &Path);
}

struct Write<T, W> {
    operation: &'static str,
    work: W,
    done: Option<Result<T, Fail>>,
    reply: oneshot::Sender<Result<T, Error>>,
    stage: Arc<AtomicU8>,
}

impl<T: Send, W: Fn(&Tx<'_>) -> Result<T, Fail> + Send> Job for Write<T, W> {
    fn operation(&self) -> &'static str {
        self.operation
    }

    fn begin(&self) -> bool {
        self.stage.compare_exchange(QUEUED, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn run(&mut self, tx: &Tx<'_>) -> Result<(), Fail> {
        // A caller's change that panics must not take the connection, and every later write, with it.
        let done = catch_unwind(AssertUnwindSafe(|| (self.work)(tx)))
            .unwrap_or_else(|_| Err(Fail::Bug("a change panicked; nothing was written".to_owned())));
        let outcome = done.as_ref().map(|_| ()).map_err(Clone::clone);
        self.done = Some(done);
        outcome
    }

    fn answer(self: Box<Self>, committed: &Result<(), Fail>, path: &Path) {
        let result = match (committed, self.done) {
            (Err(fail), _) => Err(fail.clone()),
            (Ok(()), Some(done)) => done,
            (Ok(()), None) => Err(Fail::Bug("a write was answered before it ran".to_owned())),
        };
        let gone = self.reply.send(result.map_err(|fail| fail.at(self.operation, path))).is_err();
        if gone {
            tracing::debug!(operation = self.operation, "Database write ended after its caller left");
        }
    }
}

fn step(conn: &Connection, sql: &'static str) -> Result<(), Fail> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn unavailable(operation: &'static str, outcome: Outcome) -> Error {
    Error::Unavailable { operation, outcome, retry_after: RETRY_AFTER, source: None }
}
