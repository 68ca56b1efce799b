//! A few connections that only read, each call on one consistent state.
//!
//! Connections are opened when first needed. A read that outlives its deadline keeps its connection until SQLite
//! returns, so at most [`READERS`] threads are ever stuck; its result is dropped.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vouchsafe_runtime::blocking;

use super::fail::Fail;
use super::{Deadlines, RETRY_AFTER, open};
use crate::error::{Error, Outcome};

/// Reads at the same time. The server reads the database only to load and to follow the feed.
pub const READERS: usize = 2;

/// Runs reads.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
    deadlines: Deadlines,
}

#[derive(Debug)]
struct Pool {
    idle: Mutex<Vec<Connection>>,
    path: PathBuf,
    deadlines: Deadlines,
}

impl Readers {
    pub(super) fn new(path: PathBuf, deadlines: Deadlines) -> Self {
        let pool = Arc::new(Pool { idle: Mutex::new(Vec::with_capacity(READERS)), path, deadlines });
        Self { pool, permits: Arc::new(Semaphore::new(READERS)), deadlines }
    }

    /// Runs `work` in a read transaction.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, Error> {
        let started = tokio::time::Instant::now();
        let reading = self.start(operation, work).await?;
        let left = self.deadlines.read.saturating_sub(started.elapsed());
        match timeout(left, reading).await {
            Ok(ended) => self.result(operation, ended),
            Err(_) => Err(late(operation)),
        }
    }

    /// Starts `work` in a read transaction once a connection is free.
    pub(super) async fn start<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fail> + Send + 'static,
    ) -> Result<Reading<T>, Error> {
        let permit = match timeout(self.deadlines.read, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(late(operation)),
        };
        let pool = Arc::clone(&self.pool);
        Ok(blocking::run(move || {
            let result = pool.run(work);
            drop(permit);
            result
        }))
    }

    /// What became of a reading that ended.
    pub(super) fn result<T>(&self, operation: &'static str, ended: Ended<T>) -> Result<T, Error> {
        match ended {
            Ok(result) => result.map_err(|fail| fail.at(operation, &self.pool.path)),
            Err(gone) => Err(Error::Bug { operation, detail: gone.to_string() }),
        }
    }

    /// Waits for the reads that are under way, lets no more begin, and closes the connections.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.permits.acquire_many(READERS as u32).await {
            all.forget();
        }
        self.permits.close();
        self.pool.lock().clear();
    }

    /// How long to wait for the next part of a streamed reading.
    pub(super) fn deadlines(&self) -> Deadlines {
        self.deadlines
    }
}

/// A read that is under way.
pub(super) type Reading<T> = JoinHandle<Result<T, Fail>>;
type Ended<T> = Result<Result<T, Fail>, tokio::task::JoinError>;

/// The answer to whoever waited too long for a read.
pub(super) fn late(operation: &'static str) -> Error {
    Error::Unavailable { operation, outcome: Outcome::NotWritten, retry_after: RETRY_AFTER, source: None }
}

impl Pool {
    fn run<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fail>) -> Result<T, Fail> {
        let idle = self.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => open::reader(&self.path, self.deadlines.busy)?,
        };
        let result = work(&*conn.unchecked_transaction()?);
        // A connection that failed or panicked is closed, not kept.
        if result.is_ok() {
            self.lock().push(conn);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
