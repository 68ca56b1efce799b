//! Who is a delegate, and whom it asks for.
//!
//! A delegate is a process that the agent attests like any other and that has an entry whose SPIFFE ID the operator put
//! into `authorized_delegates`. That is looked at again with every answer of a stream: a delegate whose entry goes loses
//! its streams at once.
//!
//! It names a workload by selectors, which are believed, or by a process id, which the agent attests. A process id names
//! a process only until that ends: the process is pinned before it is attested and must still be the same afterwards. That
//! the number meant the right process when the delegate wrote it down is for the delegate to see to.

use std::collections::HashSet;
use std::sync::Arc;

use tonic::{Request, Status};
use tracing::{debug, error};
use vouchsafe_proto::spire::api::types;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::{Selector, SelectorSet};

use crate::callers::{Attested, Caller};
use crate::entries::EntrySlot;
use crate::workload_api::request::{Api, Known};

/// Decides who is a delegate.
#[derive(Clone, Debug)]
pub struct Delegates {
    /// The agent's state.
    pub api: Arc<Api>,
    authorized: Arc<HashSet<String>>,
}

/// A process that was found to be a delegate.
#[derive(Clone, Debug)]
pub struct Delegate {
    delegates: Delegates,
    attested: Arc<Attested>,
}

impl Delegates {
    /// Those with one of these SPIFFE IDs.
    #[must_use]
    pub fn new(api: Arc<Api>, authorized: HashSet<String>) -> Self {
        Self { api, authorized: Arc::new(authorized) }
    }

    /// The delegate that sent `request`.
    ///
    /// # Errors
    ///
    /// The status to answer with: whoever it is, it is no delegate.
    pub async fn admit<T>(&self, request: &Request<T>) -> Result<Delegate, Status> {
        let caller = request
            .extensions()
            .get::<Arc<Caller>>()
            .ok_or_else(|| Status::internal("the connection does not say which process it belongs to"))?;
        self.api.serving.check()?;
        let attested = caller.attested(&self.api.attestors).await.map_err(|_| not_attested())?;
        let delegate = Delegate { delegates: self.clone(), attested };
        delegate.check()?;
        Ok(delegate)
    }
}

impl Delegate {
    /// Whether it still is one, by what it was attested to be.
    ///
    /// # Errors
    ///
    /// The status that its stream ends with.
    pub fn check(&self) -> Result<(), Status> {
        let api = &self.delegates.api;
        let entries = api.identities.load().index.matching_with_every_hint(&self.attested.selectors);
        let Some(first) = entries.first() else { return Err(api.no_identity(&self.attested)) };
        let authorized =
            |slot: &&Arc<EntrySlot>| self.delegates.authorized.contains(slot.entry.spiffe_id.as_str());
        match entries.iter().find(authorized) {
            Some(slot) => {
                debug!(delegate_id = %slot.entry.spiffe_id, "Caller authorized as delegate");
                Ok(())
            }
            None => {
                if let Some(unlogged) = api.refusals.note(self.attested.pid) {
                    error!(
                        num_registered_entries = entries.len(),
                        default_id = %first.entry.spiffe_id,
                        pid = self.attested.pid,
                        unlogged = (unlogged > 0).then_some(unlogged),
                        "Permission denied; caller not configured as an authorized delegate."
                    );
                }
                Err(Status::permission_denied("caller not configured as an authorized delegate"))
            }
        }
    }

    /// The workload that it asks for, and what that may have.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` unless exactly one of `selectors` and `pid` says who is meant; `Unavailable` when that process
    /// cannot be attested.
    pub async fn target(&self, selectors: &[types::Selector], pid: i32) -> Result<Known, Status> {
        let selectors = match (selectors, pid) {
            ([], 0) | ([_, ..], 1.. | ..=-1) => {
                error!("Invalid argument; must provide either selectors or non-zero PID, but not both");
                return Err(Status::invalid_argument(
                    "must provide either selectors or non-zero PID, but not both",
                ));
            }
            ([], pid) => self.attest(pid).await?,
            (selectors, 0) => parse(selectors)?,
        };
        let api = &self.delegates.api;
        let attested = Arc::new(Attested::vouched_for(selectors));
        let set = api.identities_of(&attested);
        Ok(Known { attested, set })
    }

    /// The answer when the workload that it asks for has no identity. The log names the delegate.
    #[must_use]
    pub fn no_identity(&self) -> Status {
        self.delegates.api.no_identity(&self.attested)
    }

    /// A workload without identity: what a stream of bundles follows.
    #[must_use]
    pub fn nobody(&self) -> Known {
        let attested = Arc::new(Attested::vouched_for(SelectorSet::default()));
        let set = self.delegates.api.identities_of(&attested);
        Known { attested, set }
    }

    async fn attest(&self, pid: i32) -> Result<SelectorSet, Status> {
        let peer = PeerProcess::of_pid(pid).map_err(|error| {
            error!(pid, %error, "Workload attestation failed");
            not_attested()
        })?;
        let attested = self.delegates.api.attestors.attest(&peer).await;
        attested.map_err(|error| {
            error!(pid, %error, "Workload attestation failed");
            not_attested()
        })
    }
}

/// As in SPIRE, one that stands twice is no mistake.
fn parse(selectors: &[types::Selector]) -> Result<SelectorSet, Status> {
    let parsed = selectors.iter().map(|one| Selector::new(&one.r#type, &one.value)).collect::<Result<_, _>>();
    parsed.map_err(|error| {
        error!(%error, "Invalid argument; could not parse provided selectors");
        Status::invalid_argument("could not parse provided selectors")
    })
}

fn not_attested() -> Status {
    Status::unavailable("workload attestation failed")
}
