//! A sealed file with the agent updates that the database does not have yet.

use tokio::sync::Mutex;
use vouchsafe_lastgood::{RestoreError, SaveError, SealedFile, Version};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::agents::{AgentUpdate, Attested};

/// What is in the file.
pub(crate) type Content = (Vec<(SpiffeId, AgentUpdate)>, Vec<Attested>);

/// The file. Writers that wait for it together are served by one write.
pub(crate) struct Journal {
    file: SealedFile,
    clock: Clock,
    saved: Mutex<Saved>,
}

/// How far the file is.
struct Saved {
    /// Updates up to this generation of this run are in the file.
    generation: u64,
    /// Number of saves over all runs, which makes the version of the file grow.
    saves: u64,
}

/// The journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file holds something else, or was damaged.
    #[error("cannot read the journal of agent renewals; move it away to start without it")]
    Restore(#[source] RestoreError),
    /// The file cannot be written.
    #[error("cannot write the journal of agent renewals")]
    Save(#[source] SaveError),
    /// The write did not run to its end: the process is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl Journal {
    /// Reads `file`, and returns what an earlier run left in it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Restore`].
    pub(crate) fn open(file: SealedFile, clock: Clock) -> Result<(Self, Content), JournalError> {
        let restored = match file.restore::<Content>() {
            // Before attestations were kept there was one list.
            Err(RestoreError::Corrupt { .. }) => {
                file.restore().map(|found| found.map(|r| (r.version, (r.value, Vec::new()))))
            }
            restored => restored.map(|found| found.map(|r| (r.version, r.value))),
        };
        let restored = restored.map_err(JournalError::Restore)?;
        let (saves, content) = restored.map_or_else(Default::default, |(version, it)| (version.position, it));
        let saved = Mutex::new(Saved { generation: 0, saves });
        Ok((Self { file, clock, saved }, content))
    }

    /// Saves what `list` returns, with its generation, unless that is saved already from `generation` on.
    ///
    /// # Errors
    ///
    /// [`JournalError::Save`]; worth a retry when the disk was full.
    pub(crate) async fn save<L: FnOnce() -> Content + Send + 'static>(
        &self,
        generation: u64,
        list: impl Fn() -> (u64, L),
    ) -> Result<(), JournalError> {
        let mut saved = self.saved.lock().await;
        if saved.generation >= generation {
            return Ok(());
        }
        let (reached, list) = list();
        let version = Version { epoch: 0, position: saved.saves + 1 };
        let (file, now) = (self.file.clone(), self.clock.now());
        let written = blocking::run(move || file.save(version, now, &list())).await;
        written.map_err(|_| JournalError::Stopping)?.map_err(JournalError::Save)?;
        *saved = Saved { generation: reached, saves: version.position };
        Ok(())
    }
}
