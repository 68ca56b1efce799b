//! Writes the newest value in the background, so that no reader or writer of the state waits for a disk.
//!
//! Latest wins: whatever is submitted while a write runs, or within [`DEBOUNCE`] after one, costs one more write. A
//! write that fails is reported once, retried with a growing delay, and never ends the task. The last value is written
//! before the task ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::blocking;

use crate::sealed::{SaveError, SealedFile};
use crate::version::Version;

/// The background task.
pub struct Persister<T> {
    file: SealedFile,
    newest: watch::Receiver<Option<Arc<Submitted<T>>>>,
    outcome: watch::Sender<Outcome>,
}

/// Submits values to a [`Persister`].
pub struct Saver<T> {
    newest: watch::Sender<Option<Arc<Submitted<T>>>>,
    outcome: watch::Receiver<Outcome>,
}

/// How the last write went.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Outcome {
    /// Nothing was written yet.
    #[default]
    Nothing,
    /// The newest write succeeded.
    Saved(Version),
    /// The newest write failed, for this reason.
    Failed(String),
}

struct Submitted<T> {
    version: Version,
    confirmed_at: SystemTime,
    value: Arc<T>,
}

impl<T: Serialize + Send + Sync + 'static> Persister<T> {
    /// A task that writes to `file`, and the handle to submit values.
    #[must_use]
    pub fn new(file: SealedFile) -> (Self, Saver<T>) {
        let (newest, submitted) = watch::channel(None);
        let (outcome, reported) = watch::channel(Outcome::Nothing);
        (Self { file, newest: submitted, outcome }, Saver { newest, outcome: reported })
    }

    /// Where it writes.
    #[must_use]
    pub fn file(&self) -> &SealedFile {
        &self.file
    }

    /// Writes what is submitted until `cancel`, then the last value if it is not written yet.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let waiting = async {
                if failures == 0 {
                    self.newest.changed().await.is_ok()
                } else {
                    tokio::time::sleep(retry_delay(failures)).await;
                    true
                }
            };
            let go_on = tokio::select! {
                () = cancel.cancelled() => false,
                more = waiting => more,
            };
            failures = if self.write().await { 0 } else { failures.saturating_add(1) };
            if !go_on {
                return;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(DEBOUNCE) => {}
            }
        }
    }

    /// Returns whether the newest value is on disk.
    async fn write(&mut self) -> bool {
        let Some(submitted) = self.newest.borrow_and_update().clone() else { return true };
        let version = submitted.version;
        if *self.outcome.borrow() == Outcome::Saved(version) {
            return true;
        }
        let file = self.file.clone();
        let work = move || file.save(version, submitted.confirmed_at, &*submitted.value);
        let outcome = match blocking::run(work).await {
            Ok(Ok(()) | Err(SaveError::Older { .. })) => Outcome::Saved(version),
            Ok(Err(error)) => Outcome::Failed(with_cause(&error)),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.report(outcome)
    }

    fn report(&self, outcome: Outcome) -> bool {
        let before = self.outcome.send_replace(outcome.clone());
        let path = self.file.path().display();
        match (&before, &outcome) {
            (Outcome::Failed(_), Outcome::Saved(_)) => info!(%path, "State is saved again"),
            (Outcome::Nothing | Outcome::Saved(_), Outcome::Failed(reason)) => {
                warn!(%path, error = reason, "Cannot save state; keeping it in memory and trying again");
            }
            _ => {}
        }
        matches!(outcome, Outcome::Saved(_))
    }
}

impl<T> Saver<T> {
    /// Hands over the newest value. Returns at once; an older value that is not written yet is dropped.
    pub fn submit(&self, version: Version, confirmed_at: SystemTime, value: Arc<T>) {
        self.newest.send_replace(Some(Arc::new(Submitted { version, confirmed_at, value })));
    }

    /// Follows how writes go.
    #[must_use]
    pub fn outcome(&self) -> watch::Receiver<Outcome> {
        self.outcome.clone()
    }
}

/// What the system said is what tells a missing directory from a wrong owner.
fn with_cause(error: &SaveError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Shortest time between two writes.
pub const DEBOUNCE: Duration = Duration::from_millis(250);
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest time between two attempts to write.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

fn retry_delay(failures: u32) -> Duration {
    // One writer per file: there is no fleet to spread, so the delay takes the whole step.
    Backoff::new(RETRY_MIN, RETRY_MAX).map_or(RETRY_MAX, |backoff| backoff.delay(failures - 1, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::SealKey;

    fn at(position: u64) -> Version {
        Version { epoch: 1, position }
    }

    fn file(folder: &std::path::Path) -> SealedFile {
        SealedFile::open(folder.join("state"), SealKey::new([7; 32]), 1 << 20, "test")
    }

    #[tokio::test]
    async fn the_last_value_is_on_disk_when_the_task_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (persister, saver) = Persister::new(file(folder.path()));
        for position in 1..=50 {
            saver.submit(at(position), SystemTime::UNIX_EPOCH, Arc::new(position));
        }
        let cancel = CancellationToken::new();
        cancel.cancel();
        persister.run(cancel).await;
        let restored = file(folder.path()).restore::<u64>().unwrap().unwrap();
        assert_eq!((restored.version, restored.value), (at(50), 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_disk_is_tried_again_until_it_works() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("later");
        let (persister, saver) = Persister::new(file(&missing));
        let cancel = CancellationToken::new();
        let mut outcome = saver.outcome();
        saver.submit(at(1), SystemTime::UNIX_EPOCH, Arc::new(1_u64));
        let repair = async {
            let failed = outcome.wait_for(|o| matches!(o, Outcome::Failed(_))).await.unwrap().clone();
            assert!(matches!(&failed, Outcome::Failed(why) if why.contains("No such file")), "{failed:?}");
            std::fs::create_dir(&missing).unwrap();
            outcome.wait_for(|o| *o == Outcome::Saved(at(1))).await.unwrap();
            cancel.cancel();
        };
        tokio::join!(persister.run(cancel.clone()), repair);
        assert_eq!(file(&missing).restore::<u64>().unwrap().unwrap().value, 1);
    }
}
