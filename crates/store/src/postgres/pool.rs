//! Connections to one database, made when needed and kept for later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fail::Fail;
use super::session::{Session, Tasks, explain};
use super::settings::{Settings, Target};

/// Connections to one database.
pub(super) struct Pool {
    pub(super) target: Target,
    pub(super) tasks: Tasks,
    idle: Mutex<Vec<Session>>,
    /// Grows by [`Pool::clear`]; what was connected before is not kept: it may lead to a primary that is none any more.
    generation: AtomicU64,
    permits: Arc<Semaphore>,
    max_idle: usize,
    max_age: Option<Duration>,
}

impl Pool {
    /// `open` connections at most.
    pub(super) fn new(target: Target, settings: &Settings, open: usize) -> Self {
        Self {
            target,
            tasks: Tasks::default(),
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
            permits: Arc::new(Semaphore::new(open)),
            max_idle: settings.max_idle_conns.min(open),
            max_age: settings.conn_max_lifetime,
        }
    }

    /// A connection of one's own. The caller's deadline bounds the wait for it.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Lease, Fail> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Fail::Away(None))?;
        let generation = self.generation.load(Ordering::Relaxed);
        let kept = self.kept();
        let session = match kept {
            Some(session) => session,
            None => Session::connect(&self.target, &self.tasks, None)
                .await
                .map_err(|fail| Fail::Away(Some(Fail::said(explain(&self.target, &fail)).cause())))?,
        };
        Ok(Lease { session: Some(session), pool: Arc::clone(self), generation, _permit: permit })
    }

    /// Closes what is kept, and later what is in use now: the database went away, or another one answers in its place.
    pub(super) fn clear(&self) {
        let gone = {
            let mut idle = self.lock();
            self.generation.fetch_add(1, Ordering::Relaxed);
            std::mem::take(&mut *idle)
        };
        drop(gone);
    }

    fn kept(&self) -> Option<Session> {
        let mut idle = self.lock();
        while let Some(session) = idle.pop() {
            if self.is_fresh(&session) {
                return Some(session);
            }
        }
        None
    }

    fn keep(&self, session: Session, generation: u64) {
        let mut idle = self.lock();
        let current = generation == self.generation.load(Ordering::Relaxed);
        if current && idle.len() < self.max_idle && self.is_fresh(&session) {
            idle.push(session);
        }
    }

    fn is_fresh(&self, session: &Session) -> bool {
        !session.is_closed() && self.max_age.is_none_or(|age| session.opened().elapsed() < age)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that one call uses. Dropping it closes it, unless it was given back.
pub(super) struct Lease {
    session: Option<Session>,
    pool: Arc<Pool>,
    generation: u64,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The connection; `None` only while it is being given back.
    pub(super) fn session(&self) -> Result<&Session, Fail> {
        self.session.as_ref().ok_or_else(|| Fail::Bug("a connection was given back while in use".to_owned()))
    }

    /// Gives the connection back, with no transaction open.
    pub(super) fn give_back(&mut self) {
        if let Some(session) = self.session.take() {
            self.pool.keep(session, self.generation);
        }
    }

    /// Undoes the open transaction and gives the connection back. Whoever takes it next waits for the undoing by itself.
    pub(super) fn roll_back(&mut self) {
        if let Some(session) = self.session.take() {
            // One poll sends it; the answer is of no interest.
            drop(session.batch("ROLLBACK").now_or_never());
            self.pool.keep(session, self.generation);
        }
    }
}
