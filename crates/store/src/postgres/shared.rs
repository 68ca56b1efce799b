//! What the calls and the keeper know in common.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use vouchsafe_runtime::clock::Clock;

use super::fail::Fail;
use super::feed::{Marks, Moment};
use super::keeper::State;
use super::pool::{Lease, Pool};
use super::settings::{Settings, SettingsError};
use crate::change::Position;

/// What the calls and the keeper know in common.
pub(super) struct Shared {
    pub(super) primary: Arc<Pool>,
    pub(super) replica: Option<Arc<Pool>>,
    shunned_until: Mutex<Instant>,
    pub(super) state: watch::Sender<State>,
    pub(super) newest: watch::Sender<Position>,
    /// Wakes the keeper: a call had reason to doubt that the database is there.
    pub(super) suspect: Notify,
    pub(super) listens: AtomicBool,
    pub(super) epoch: AtomicU64,
    pub(super) marks: Marks,
    pub(super) clock: Clock,
    pub(super) disable_migration: bool,
}

impl Shared {
    pub(super) fn new(settings: &Settings, clock: Clock) -> Result<Self, SettingsError> {
        let primary = settings.primary()?;
        let replica = settings.replica()?;
        Ok(Self {
            // One connection is the keeper's.
            primary: Arc::new(Pool::new(primary, settings, settings.max_open_conns - 1)),
            replica: replica.map(|target| Arc::new(Pool::new(target, settings, settings.max_open_conns))),
            shunned_until: Mutex::new(Instant::now()),
            state: watch::Sender::new(State::Starting),
            newest: watch::Sender::new(Position::START),
            suspect: Notify::new(),
            listens: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            marks: Marks::default(),
            clock,
            disable_migration: settings.disable_migration,
        })
    }

    /// Waits until something is known about the database; fails unless it answers.
    pub(super) async fn ready(&self) -> Result<(), Fail> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Ready => return Ok(()),
                State::Down(why) => return Err(Fail::Away(Some(Arc::clone(why)))),
                State::Refused(why) => return Err(Fail::Refused(Arc::clone(why))),
                State::Starting => {}
            }
            // The sender lives in `self`.
            drop(state.changed().await);
        }
    }

    /// Tells the waiting readers of `position`.
    pub(super) fn publish(&self, position: Position) {
        self.newest.send_if_modified(|known| {
            let moved = position > *known;
            *known = position.max(*known);
            moved
        });
    }

    pub(super) fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// A moment at or after everything that this server knows of: from the standby if it is there and has just that.
    pub(super) async fn moment(&self) -> Result<Moment, Fail> {
        self.ready().await?;
        if let Some(replica) = self.replica.as_ref().filter(|_| self.shunned_until() <= Instant::now()) {
            let known = *self.newest.borrow();
            let moment = timeout(REPLICA_DEADLINE, async { Moment::of(replica.take().await?).await });
            match moment.await {
                // One that is ahead may be the standby of a primary that is none any more.
                Ok(Ok(moment))
                    if moment.head.newest == known
                        && moment.head.epoch == self.epoch.load(Ordering::Relaxed) =>
                {
                    return Ok(moment);
                }
                Ok(Ok(moment)) => {
                    let replica = moment.head.newest.0;
                    tracing::debug!(known = known.0, replica, "Replica is not in step");
                    moment.end();
                }
                Ok(Err(fail)) => {
                    tracing::debug!(reason = ?fail, "Replica is not available");
                    self.shun();
                }
                Err(_) => {
                    tracing::debug!("Replica does not answer");
                    self.shun();
                }
            }
        }
        let moment = Moment::of(self.primary().await?).await?;
        if moment.head.epoch != self.epoch.load(Ordering::Relaxed) {
            // The keeper looks at once; until it knows, positions would be taken for those of the database before.
            return Err(Fail::Away(Some(Fail::said("another database answers than before").cause())));
        }
        Ok(moment)
    }

    fn shunned_until(&self) -> Instant {
        *self.shunned_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the standby alone for a while, so that not every reading waits for it.
    fn shun(&self) {
        let until = Instant::now() + REPLICA_PAUSE;
        *self.shunned_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(super) async fn primary(&self) -> Result<Lease, Fail> {
        self.ready().await?;
        self.primary.take().await
    }
}

/// How long the standby is left alone after it failed.
const REPLICA_PAUSE: Duration = Duration::from_secs(5);
/// Longest that the standby is waited for before the primary is asked.
pub const REPLICA_DEADLINE: Duration = Duration::from_secs(1);
