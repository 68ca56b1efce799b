//! Attesting: the first time, and again.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use tonic::Code;
use tracing::{debug, info, warn};
use vouchsafe_runtime::budget::Budget;
use vouchsafe_runtime::chain::Chain;

use super::attestor::NodeAttestor;
use super::own::{KEY_SLOTS, Own, read_svid};
use super::{Node, NodeError};
use crate::metrics::{Repair, Retry, status_name};
use crate::server_client::{retry_backoff, shown};
use crate::trust::error_source;

impl Node {
    /// The budget for [`Node::budget`].
    #[must_use]
    pub fn new_budget() -> Mutex<Budget> {
        Mutex::new(Budget::new(ATTESTATIONS_PER_SEC, ATTESTATION_BURST, true))
    }

    /// Attests for the first time, however often it takes.
    pub(super) async fn attest_until_done(&self) -> Result<Own, NodeError> {
        info!("SVID is not found. Starting node attestation");
        let attestor = self.attestor.as_ref().ok_or(NodeError::NoAttestor)?.name();
        let (mut attempts, mut life) = (0, self.client.signs_of_life());
        loop {
            life.mark_unchanged();
            let start = Instant::now();
            let outcome = self.attest(None).await;
            let status = outcome.as_ref().map_or_else(|error| status_name(error.code()), |_| "OK");
            self.metrics.new_svid().observe(&[("attestor", attestor)], status, start.elapsed());
            match outcome {
                Ok(own) => return Ok(own),
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) => {
                    self.notes.node_failed(failure.code(), &Chain(&failure).to_string());
                    self.metrics.retried(Retry::Attest);
                    match self.trust.recover().await {
                        Ok(true) => self.metrics.repaired(Repair::Rebootstrap),
                        Ok(false) => {}
                        Err(status) => warn!(error = shown(&status), "cannot bootstrap again"),
                    }
                    let wait = match &failure {
                        NodeError::Server(status) => self.client.wait_after(status, attempts),
                        _ => retry_backoff().delay(attempts, self.client.jitter()),
                    };
                    warn!(error = %failure, cause = error_source(&failure), retry_interval = ?wait, "Failed to retrieve attestation result");
                    self.client.rest(wait, &mut life).await;
                    attempts += 1;
                }
            }
        }
    }

    /// Attests anew, within the budget. An SVID that is replaced when its time has come needs none.
    pub(super) async fn reattest(&self, own: &Own) -> Result<Own, NodeError> {
        if own.denied {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.try_take(Instant::now(), 1).map_err(NodeError::TooSoon)?;
        }
        let start = Instant::now();
        let outcome = self.attest(Some(own)).await;
        if outcome.is_ok() && own.denied {
            self.metrics.repaired(Repair::Reattest);
        }
        let status = outcome.as_ref().map_or_else(|error| status_name(error.code()), |_| "OK");
        self.metrics.reattest().observe(&[], status, start.elapsed());
        if let Err(failure) = &outcome
            && !self.attestor.as_ref().is_some_and(NodeAttestor::is_repeatable)
        {
            self.refused.store(failure.is_final(), Ordering::Relaxed);
        }
        outcome
    }

    /// Whether there is something to attest with: a proof that can be repeated, or a token that was neither used nor
    /// refused.
    pub(super) fn can_attest_again(&self, own: &Own) -> bool {
        match &self.attestor {
            None => false,
            Some(NodeAttestor::JoinToken(token)) => {
                **token != *own.suffix && !self.refused.load(Ordering::Relaxed)
            }
            Some(attestor) => attestor.is_repeatable(),
        }
    }

    /// Attests. `before` is what is replaced by it; without, this is the first time.
    async fn attest(&self, before: Option<&Own>) -> Result<Own, NodeError> {
        let attestor = self.attestor.as_ref().ok_or(NodeError::NoAttestor)?;
        let evidence = attestor.begin().await.map_err(NodeError::Evidence)?;
        let again = before.is_some();
        let anew = self.trust.held().is_none() || self.trust.rebootstrap_is_due();
        if again {
            debug!("Reattesting node");
        }
        let line = self.trust.attestation_line().await.map_err(NodeError::Server)?;
        // While the agent runs, synchronization has the newest bundle. Otherwise it comes first: a token is spent by
        // attesting, and an SVID without a bundle would be of no use.
        let bundle = match !again || anew {
            true => Some(self.client.bundle_over(&line).await.map_err(NodeError::Server)?),
            false => None,
        };
        let (slot, csr) = self.new_request(before.map_or(KEY_SLOTS[1], |own| own.key_id)).await?;
        let result = self.client.attest(&line, (attestor.name(), &evidence), csr).await;
        let result = result.map_err(|status| match status.code() {
            Code::PermissionDenied => NodeError::refused(attestor, &status),
            // What can be shown once is spent. What can be repeated may be put right on either side.
            Code::InvalidArgument | Code::FailedPrecondition if !attestor.is_repeatable() => {
                NodeError::refused(attestor, &status)
            }
            _ => NodeError::Server(status),
        })?;
        let svid = read_svid(result.svid.unwrap_or_default())?;
        if let Some(bundle) = bundle {
            self.trust.take(bundle);
            if again {
                self.metrics.repaired(Repair::Rebootstrap);
            }
        }
        self.trust.confirmed();
        let own = self.keep(svid.clone(), slot, result.reattestable).await?;
        match again {
            true => info!(spiffe_id = %svid.id, "Successfully reattested node"),
            false => {
                info!(spiffe_id = %svid.id, reattestable = result.reattestable, "Node attestation was successful");
            }
        }
        Ok(own)
    }
}

/// Attestations of an agent that the server denies something: one that goes on denying what it just attested (one of several
/// servers lags behind) is not attested to without end.
const ATTESTATIONS_PER_SEC: f64 = 1.0 / 30.0;
/// How many of them may follow each other at once.
const ATTESTATION_BURST: u32 = 3;
