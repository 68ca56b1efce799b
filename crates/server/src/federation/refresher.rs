//! Fetches on demand: how an operator's wish reaches the poller, and the outcome the operator.

use tokio::sync::{mpsc, oneshot};
use tracing::debug;
use vouchsafe_types::trust_domain::TrustDomain;

/// A wish for a fetch.
pub(super) struct Ask {
    pub(super) trust_domain: TrustDomain,
    pub(super) reply: Reply,
}

/// Whom to tell how it ended.
pub(super) type Reply = oneshot::Sender<Result<(), RefreshError>>;

/// Asks for fetches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Refresher {
    ask: mpsc::Sender<Ask>,
}

/// Why a bundle was not refreshed.
#[derive(Debug)]
pub(crate) enum RefreshError {
    /// No relationship with this trust domain.
    NotManaged,
    /// The fetch failed.
    Failed(String),
    /// The server stops.
    Stopping,
}

impl Refresher {
    /// A refresher, and where its asks arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (ask, asked) = mpsc::channel(MAX_ASKS);
        (Self { ask }, asked)
    }

    /// Fetches the bundle of `trust_domain` now and waits for the end of that, for the deadline of a fetch at most.
    pub(crate) async fn refresh(&self, trust_domain: &TrustDomain) -> Result<(), RefreshError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { trust_domain: trust_domain.clone(), reply };
        self.ask.send(ask).await.map_err(|_| RefreshError::Stopping)?;
        answer.await.unwrap_or(Err(RefreshError::Stopping))
    }
}

/// Asks that wait for the loop; at the bound callers wait.
const MAX_ASKS: usize = 64;

/// Tells `to`, if anybody still waits.
pub(super) fn reply(to: Reply, what: Result<(), RefreshError>) {
    if to.send(what).is_err() {
        debug!("Nobody waits for a bundle refresh any more");
    }
}
