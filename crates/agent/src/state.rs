//! What an agent remembers across its own restarts: entries, bundles, SVIDs with their keys, JWT-SVIDs.
//!
//! Sealed under a key that the key manager holds, so a key manager that forgets (memory) has nothing to remember.
//! Written in the background after changes, at most every [`MIN_GAP`]. That it was confirmed meanwhile is [`confirmed`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_lastgood::{Outcome, Persister, Saver, SealKey, SealedFile, Version};
use vouchsafe_runtime::blocking;

use crate::data_dir::DataDir;
use crate::identities::Identities;
use crate::jwt_cache::JwtCache;
use crate::jwt_issue::JwtIssuer;
use crate::status::StatusBoard;
use confirmed::{Confirmed, MARK_EVERY, Mark};
pub use saved::{Frozen, Saved};

pub mod confirmed;
mod saved;

/// The file, if the key manager has a key for it.
#[must_use]
pub fn file(data_dir: &Path, key_manager: &dyn KeyManager) -> Option<SealedFile> {
    let key = SealKey::new(*key_manager.seal_key(KIND)?);
    Some(SealedFile::open(data_dir.join(FILE), key, MAX_BYTES, KIND))
}

/// Reads the file and serves what it holds. A file that cannot be used is said so in the log and left alone.
///
/// Returns the position to continue counting from, and when the server last confirmed the state.
#[must_use]
pub fn restore(
    (file, mark): (&SealedFile, Option<&Mark>),
    identities: &Identities,
    cache: &JwtCache,
) -> Option<(u64, Confirmed)> {
    match file.restore::<Saved>() {
        Ok(Some(restored)) => {
            let written = Confirmed { at: restored.confirmed_at, bundles: Some(restored.confirmed_at) };
            let marked = mark.and_then(|mark| mark.restore(restored.version));
            let confirmed = marked.filter(|marked| marked.at > written.at).unwrap_or(written);
            info!(state = ?restored.value, confirmed_at = ?confirmed.at, "serving from the state of the last run");
            restored.value.restore(identities, cache);
            Some((restored.version.position, confirmed))
        }
        Ok(None) => None,
        Err(error) => {
            warn!(%error, "the state of the last run cannot be used; asking the server for everything");
            None
        }
    }
}

/// Hands changes to the writer.
pub struct StateLoop {
    /// What is served.
    pub identities: Arc<Identities>,
    /// The tokens.
    pub jwt: JwtIssuer,
    /// Writes.
    pub saver: Saver<Frozen>,
    /// Says when it was confirmed.
    pub mark: Option<Mark>,
    /// The newest position on disk.
    pub position: u64,
    /// When the server confirmed the state.
    pub status: StatusBoard,
    /// Whose SVID says whether this agent may have a state.
    pub data_dir: Arc<DataDir>,
}

impl StateLoop {
    /// Saves changes until `cancel`. The writer ends after the last of them was handed to it, so that it is written too.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(
        mut self,
        persister: Persister<Frozen>,
        cancel: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let (file, mark) = (persister.file().clone(), self.mark.clone());
        let data_dir = Arc::clone(&self.data_dir);
        // Whoever is banned or evicted does not come back with what it had.
        let is_forgotten = || matches!(data_dir.svid(), Ok(None));
        let handed_over = CancellationToken::new();
        let hand_over = async {
            cancel.run_until_cancelled(self.live()).await;
            if !is_forgotten() {
                self.submit();
            }
            handed_over.cancel();
        };
        tokio::join!(hand_over, persister.run(handed_over.clone()));
        if is_forgotten() {
            // Best effort: an agent without an SVID of its own serves nothing of it.
            let remove = move || (file.remove(), mark.iter().for_each(Mark::remove));
            drop(blocking::run(remove).await);
        }
        Ok(())
    }

    /// Submits changes until the agent stops.
    async fn live(&mut self) {
        let (mut changes, mut issued) = (self.identities.watch(), self.jwt.issued());
        let mut mark_at = Instant::now() + MARK_EVERY;
        while !self.identities.is_closed() {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = issued.changed() => {}
                () = sleep_until(mark_at) => {
                    mark_at = Instant::now() + MARK_EVERY;
                    self.mark(&changes).await;
                    continue;
                }
                else => return,
            }
            changes.mark_unchanged();
            issued.mark_unchanged();
            self.submit();
            sleep(MIN_GAP).await;
        }
    }

    /// Notes when the server confirmed what is on disk, unless more than that is held.
    async fn mark(&self, changes: &watch::Receiver<u64>) {
        let version = Version { epoch: EPOCH, position: self.position };
        let (Some(mark), Some(confirmed)) = (self.mark.clone(), self.confirmed()) else { return };
        // In this order: what was confirmed may be a change that was not handed over yet.
        if changes.has_changed().unwrap_or(true) {
            return;
        }
        let on_disk = match &*self.saver.outcome().borrow() {
            Outcome::Saved(saved) => *saved == version,
            // Nothing has changed since the start.
            Outcome::Nothing => true,
            Outcome::Failed(_) => false,
        };
        if on_disk {
            drop(blocking::run(move || mark.save(version, confirmed)).await);
        }
    }

    fn confirmed(&self) -> Option<Confirmed> {
        let board = self.status.watch();
        let status = board.borrow();
        Some(Confirmed { at: status.last_sync?, bundles: status.bundles_confirmed })
    }

    fn submit(&mut self) {
        // In this order: what is saved reflects at least that state.
        let shown = self.identities.shown();
        let snapshot = self.identities.load();
        let Some(Confirmed { at: confirmed_at, .. }) = self.confirmed() else { return };
        let tokens =
            self.jwt.cache().all().into_iter().filter_map(|slot| slot.held().map(|held| (slot, held)));
        let frozen = Frozen { tokens: tokens.collect(), snapshot, shown };
        self.position += 1;
        let version = Version { epoch: EPOCH, position: self.position };
        self.saver.submit(version, confirmed_at, Arc::new(frozen));
    }
}

const FILE: &str = "agent-state.sealed";

const KIND: &str = "agent-state";

/// The agent's own counting never starts anew: it continues from the file.
const EPOCH: u64 = 1;

/// A larger state is not written.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Shortest time between two writes.
pub const MIN_GAP: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
