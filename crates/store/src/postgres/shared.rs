//! What the calls and the keeper know in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;
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

    /// A moment at or after everything that this server knows of: from the standby if it is there and not behind.
    pub(super) async fn moment(&self) -> Result<Moment, Fail> {
        self.ready().await?;
        if let Some(replica) = &self.replica {
            let known = *self.newest.borrow();
            let moment = timeout(REPLICA_DEADLINE, async { Moment::of(replica.take().await?).await });
            match moment.await {
                Ok(Ok(moment))
                    if moment.head.newest >= known
                        && moment.head.epoch == self.epoch.load(Ordering::Relaxed) =>
                {
                    return Ok(moment);
                }
                Ok(Ok(moment)) => {
                    tracing::debug!(known = known.0, replica = moment.head.newest.0, "Replica is behind");
                    moment.end();
                }
                Ok(Err(fail)) => tracing::debug!(reason = ?fail, "Replica is not available"),
                Err(_) => tracing::debug!("Replica does not answer"),
            }
        }
        Moment::of(self.primary().await?).await
    }

    pub(super) async fn primary(&self) -> Result<Lease, Fail> {
        self.ready().await?;
        self.primary.take().await
    }
}

/// Longest that the standby is waited for before the primary is asked.
pub const REPLICA_DEADLINE: Duration = Duration::from_secs(1);
