//! How others reach the task that owns the authorities: questions are answered from a picture of it, commands are sent to
//! it and done one after the other, between two ticks of the rotation. So an operator and the rotation never race.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use vouchsafe_ca::authority::AuthorityKind;
use vouchsafe_ca::authority::rotation::RotateError;
use vouchsafe_ca::authority::slots::{Overview, SlotError, Summary};
use vouchsafe_store::Error as StoreError;

/// A handle on the authorities. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Control {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) picture: Arc<ArcSwap<Picture>>,
    /// Whether there are JWT authorities at all.
    pub(crate) has_jwt: bool,
}

/// The authorities of both kinds as they were after the last change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) x509: Overview,
    pub(crate) jwt: Overview,
}

/// What an operator wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Command {
    /// Make an authority ready to follow the active one.
    Prepare(AuthorityKind),
    /// Let the prepared one sign.
    Activate(AuthorityKind, String),
    /// Leave the old one behind.
    Taint(AuthorityKind, String),
    /// Stop believing it.
    Revoke(AuthorityKind, String),
    /// Leave the upstream authority behind that certified the old one.
    TaintUpstream(String),
    /// Stop believing it.
    RevokeUpstream(String),
}

/// A command and who waits for it.
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Result<Summary, Refusal>>,
}

/// A command that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The slots do not allow it.
    #[error("{0}")]
    Slot(#[source] SlotError),
    /// The slots do not allow it; the text says what was being checked.
    #[error("{0}: {1}")]
    Invalid(&'static str, #[source] SlotError),
    /// Nothing of this kind signs yet.
    #[error("server is initializing")]
    Initializing,
    /// Authorities that are certified by an upstream authority are left behind with it.
    #[error("local authority can't be {0} if there is an upstream authority")]
    HasUpstream(&'static str),
    /// There is no upstream authority to leave behind.
    #[error("upstream authority is not configured")]
    NoUpstream,
    /// No authority was made or activated.
    #[error("{0}")]
    Rotate(&'static str, #[source] RotateError),
    /// The bundle was not changed.
    #[error("{0}")]
    Store(&'static str, #[source] StoreError),
    /// The task did not answer in time, or is gone.
    #[error("{0}")]
    Away(&'static str),
}

/// Commands that wait at one time; the next caller waits in line, until its deadline.
pub(super) const MAX_WAITING: usize = 16;

/// How long a command may take, the ones before it included. After that it may still be carried out.
pub(crate) const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

impl Control {
    /// The authorities as they are.
    pub(crate) fn overview(&self, kind: AuthorityKind) -> Overview {
        let picture = self.picture.load();
        match kind {
            AuthorityKind::X509 => picture.x509.clone(),
            AuthorityKind::Jwt => picture.jwt.clone(),
        }
    }

    /// Has `command` carried out. Gives the authority that it was about; for upstream authorities, an empty one.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    ///
    /// # Cancel safety
    ///
    /// A command that was sent is carried out although nobody waits for it.
    pub(crate) async fn carry_out(&self, command: Command) -> Result<Summary, Refusal> {
        let (answer, answered) = oneshot::channel();
        let send = async {
            let gone = |_| Refusal::Away("server is stopping");
            self.requests.send(Request { command, answer }).await.map_err(gone)?;
            answered.await.unwrap_or(Err(Refusal::Away("server is stopping")))
        };
        let late =
            |_| Refusal::Away("server is busy with the authorities; see its log, and the state of this one");
        tokio::time::timeout(COMMAND_DEADLINE, send).await.map_err(late)?
    }
}
