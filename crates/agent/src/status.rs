//! What the agent says about itself.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tonic::Status;
use vouchsafe_types::spiffe_id::SpiffeId;

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Phase {
    /// It has no SVID of its own yet.
    #[default]
    Attesting,
    /// It has one, but does not know its entries yet.
    Synchronizing,
    /// It serves workloads.
    Serving,
    /// The server refuses it for good.
    Refused,
}

/// A snapshot for status pages, `up` and health checks.
#[derive(Clone, Debug, Default)]
pub struct AgentStatus {
    /// Where the agent is in its life.
    pub phase: Phase,
    /// The agent's own identity.
    pub id: Option<SpiffeId>,
    /// When its SVID ends (unix seconds).
    pub svid_expires_at: Option<i64>,
    /// When the server last confirmed what is held. After a restart this may lie before the start.
    pub last_sync: Option<SystemTime>,
    /// The same for all bundles, those of other trust domains among them.
    pub bundles_confirmed: Option<SystemTime>,
    /// Why the last synchronization failed; `None` if it did not.
    pub sync_error: Option<String>,
    /// Entries held.
    pub entries: usize,
    /// X.509-SVIDs held.
    pub x509_svids: usize,
    /// JWT-SVIDs held.
    pub jwt_svids: usize,
}

/// The status and everyone who follows it.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    board: Arc<watch::Sender<AgentStatus>>,
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self { board: Arc::new(watch::Sender::new(AgentStatus::default())) }
    }
}

impl StatusBoard {
    /// Changes the status.
    pub fn set(&self, change: impl FnOnce(&mut AgentStatus)) {
        self.board.send_modify(change);
    }

    /// Follows the status.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<AgentStatus> {
        self.board.subscribe()
    }

    /// Whether workloads can be answered.
    #[must_use]
    pub fn serving(&self) -> Serving {
        Serving { board: self.board.subscribe() }
    }
}

/// Whether there is anything to answer from.
#[derive(Clone, Debug)]
pub struct Serving {
    board: watch::Receiver<AgentStatus>,
}

impl Serving {
    /// Ready, or the status to answer with meanwhile. Saying "no identity" before the entries are known would be
    /// wrong; clients try again on `Unavailable`.
    ///
    /// # Errors
    ///
    /// `Unavailable`, with what the agent waits for.
    pub fn check(&self) -> Result<(), Status> {
        match self.board.borrow().phase {
            Phase::Serving => Ok(()),
            Phase::Attesting => Err(Status::unavailable("the agent is not attested yet; its log says why")),
            Phase::Synchronizing => Err(Status::unavailable(
                "the agent has not synchronized with the server yet; its log says why",
            )),
            Phase::Refused => Err(Status::unavailable("the server refuses this agent; its log says why")),
        }
    }

    /// Waits until workloads can be answered.
    pub async fn ready(&mut self) {
        // An error means that the board is gone, and with it the agent.
        drop(self.board.wait_for(|status| status.phase == Phase::Serving).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_answered_before_the_entries_are_known() {
        let board = StatusBoard::default();
        let serving = board.serving();
        for phase in [Phase::Attesting, Phase::Synchronizing, Phase::Refused] {
            board.set(|status| status.phase = phase);
            assert_eq!(serving.check().unwrap_err().code(), tonic::Code::Unavailable);
        }
        board.set(|status| status.phase = Phase::Serving);
        assert!(serving.check().is_ok());
    }
}
