//! How one agent attests: who it is, whether it may, and its first SVID.

use std::net::SocketAddr;

use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::{error, info};
use vouchsafe_ca::x509::csr::{VerifyProofOfPossession, parse_csr};
use vouchsafe_ca::x509::svid::Issued;
use vouchsafe_proto::denial::{Reason, denied};
use vouchsafe_proto::spire::api::server::agent::v1::{attest_agent_request, attest_agent_response};
use vouchsafe_runtime::budget::KeyedBudgets;
use vouchsafe_store::{Admission, Error as StoreError};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::AgentParts;
use crate::agents::NotAdmitted;
use crate::audit::Audit;
use crate::authorize::Registry;
use crate::limits::attestation::Attempt;
use crate::limits::processor::Urgency;
use crate::limits::{Refusal, Turn};
use crate::services::attest::{self, Attested, Evidence, Exchange, join_token};
use crate::services::svid::{sign_failed, x509_to_proto};
use crate::status::{SOON, invalid, store_failed, unavailable};

/// Who attests, as far as it is known before it proves anything.
pub(super) struct Applicant {
    pub(super) turn: Option<Turn>,
    pub(super) address: Option<SocketAddr>,
    pub(super) audit: Audit,
}

impl AgentParts {
    /// The answer to an attestation.
    pub(super) async fn attest(
        &self,
        applicant: &Applicant,
        exchange: &mut Exchange,
    ) -> Result<attest_agent_response::Result, Status> {
        let first = exchange.first().await?;
        let params = match &first.step {
            Some(attest_agent_request::Step::Params(params)) => Some(params),
            _ => None,
        };
        let evidence = attest::evidence(params)?;
        applicant.audit.add("node_attestor_type", evidence.kind);
        let mut attempt = applicant.turn_to_attest().await?;
        let proven = self.prove(&evidence, applicant, exchange).await;
        let settled = match &proven {
            // A token is proven when it is used up, below.
            Ok((attested, _)) => attested.token.is_none(),
            Err(status) => is_undecided(status),
        };
        if settled && let Some(attempt) = attempt.take() {
            attempt.refund();
        }
        let (attested, public_key_der) = proven?;
        applicant.audit.add("agent_id", attested.id.as_str());
        if attested.id == SpiffeId::server(&self.trust_domain) {
            return Err(Status::internal("agent ID cannot collide with the server ID"));
        }
        if self.agents.agent(&attested.id).is_some_and(|agent| agent.is_banned()) {
            return Err(banned());
        }
        if attested.token.is_none()
            && let Some(Err(wait)) = self.again.as_ref().map(|budgets| budgets.try_take(&attested.id, 1))
        {
            return Err(Refusal::Crowded { wait }.status("attest agent"));
        }
        let entered = self.issuer.processor.enter(Urgency::attestation(attested.id.as_str())).await?;
        let issued = self.issuer.agent_x509(&attested.id, &public_key_der).await;
        drop(entered);
        let issued = issued.map_err(|e| sign_failed("failed to sign X509 SVID", &e))?;
        let admitted = self.admit(evidence.kind, &attested, &issued).await;
        // A token that somebody else used, or that came too late, has proven nothing.
        let proven =
            admitted.as_ref().map_or_else(|status| status.code() != Code::InvalidArgument, |()| true);
        if proven && let Some(attempt) = attempt {
            attempt.refund();
        }
        admitted?;
        let address = applicant.address.map(|address| address.to_string());
        info!(
            agent_id = %attested.id,
            node_attestor_type = evidence.kind,
            address,
            "Agent attestation request completed"
        );
        Ok(attest_agent_response::Result {
            svid: Some(x509_to_proto(&attested.id, issued)),
            reattestable: attested.can_reattest,
        })
    }

    /// Who the node proves to be, and the key that it wants a certificate for.
    async fn prove(
        &self,
        evidence: &Evidence<'_>,
        applicant: &Applicant,
        exchange: &mut Exchange,
    ) -> Result<(Attested, Vec<u8>), Status> {
        let csr = parse_csr(evidence.csr, VerifyProofOfPossession::No)
            .map_err(|e| invalid("failed to parse CSR", e))?;
        let attestor = self.attestors.named(evidence.kind)?;
        let client = applicant.address.map(|address| address.ip());
        let attested = attestor.attest(evidence.payload, client, exchange).await?;
        Ok((attested, csr.public_key_der))
    }

    /// Takes down an attested agent, before it is answered: in the journal, or with its join token in the database.
    async fn admit(&self, kind: &str, attested: &Attested, issued: &Issued) -> Result<(), Status> {
        let agent = Agent {
            id: attested.id.clone(),
            attestation_type: kind.to_owned(),
            serial_number: issued.serial.clone(),
            expires_at: issued.not_after,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: attested.can_reattest,
            selectors: attested.selectors.clone(),
            agent_version: String::new(),
        };
        let Some(token) = &attested.token else {
            // It can prove itself again, so nothing is lost if the database never hears of it: it waits for nothing.
            return self.agents.attested(agent).await.map_err(|cause| match cause {
                NotAdmitted::Banned => banned(),
                cause => {
                    error!(error = %cause, agent_id = %attested.id, "Cannot note the attestation of an agent");
                    unavailable(CREATE_FAILED, cause, SOON)
                }
            });
        };
        // That a token is used once, whatever other servers do, is known to the database alone.
        let position = match self.store.admit_by_token(token, self.clock.unix_now(), agent).await {
            Ok(Admission::Admitted(position)) => position,
            Ok(Admission::Unknown) => return Err(join_token::unknown()),
            Ok(Admission::Expired) => return Err(join_token::expired()),
            Err(StoreError::Rejected(_)) => return Err(banned()),
            Err(cause) => return Err(store_failed(CREATE_FAILED, &cause)),
        };
        self.agents.forget(&attested.id).await;
        self.model.settled(position).await;
        Ok(())
    }
}

impl Applicant {
    /// Waits until this address may attest.
    async fn turn_to_attest(&self) -> Result<Option<Attempt>, Status> {
        let Some(turn) = &self.turn else { return Ok(None) };
        let (Some(attestations), Some(address)) = (&turn.limits.attestations, turn.address) else {
            return Ok(None);
        };
        let began = Instant::now();
        let attempt = attestations.attempt(address).await.map_err(|refusal| refusal.status("attest agent"));
        let code = attempt.as_ref().map_or_else(Status::code, |_| Code::Ok);
        turn.limits.attestation_waited(code, began.elapsed());
        attempt.map(Some)
    }
}

const CREATE_FAILED: &str = "failed to create attested agent";

fn banned() -> Status {
    denied(Reason::AgentBanned, "failed to attest: agent is banned")
}

/// Attestations of one agent at once that cost a signature and a write, and one more in [`AGAIN_EVERY_SECS`]. A stock agent
/// attests every half hour.
const AGAIN: u32 = 10;
const AGAIN_EVERY_SECS: f64 = 5.0;
/// Agents that are told apart for that; further ones share one budget.
const MAX_AGAIN: usize = 65_536;

/// The budgets of proven attestations.
pub(crate) fn attestation_budgets() -> KeyedBudgets<SpiffeId> {
    KeyedBudgets::new(1.0 / AGAIN_EVERY_SECS, AGAIN, MAX_AGAIN)
}

/// Whether nobody has looked at what was claimed: the attestor's source is away, or too many ask.
fn is_undecided(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_looked_at_has_not_failed() {
        assert!(is_undecided(&Status::unavailable("")) && is_undecided(&Status::resource_exhausted("")));
        assert!(!is_undecided(&Status::permission_denied("")) && !is_undecided(&Status::internal("")));
    }
}
