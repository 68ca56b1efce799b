//! Node attestation: who is this agent, and what may it be called?

use std::sync::Arc;

use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_request;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::Store;
use vouchsafe_types::selector::SelectorSet;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::model::ReadModel;
use crate::status::{failed, store_failed};

/// What an attestor found out.
#[derive(Debug)]
pub(super) struct Attested {
    /// The agent's SPIFFE ID.
    pub(super) id: SpiffeId,
    /// What is known of its node.
    pub(super) selectors: SelectorSet,
    /// Whether it can prove itself again later.
    pub(super) can_reattest: bool,
}

/// The parts of a valid first message.
pub(super) struct Evidence<'a> {
    pub(super) kind: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) csr: &'a [u8],
}

/// Checks that the first message is complete.
pub(super) fn evidence(params: Option<&attest_agent_request::Params>) -> Result<Evidence<'_>, Status> {
    let missing = |what: &str| failed(Code::InvalidArgument, "malformed param", format!("missing {what}"));
    let params = params.ok_or_else(|| missing("params"))?;
    let data = params.data.as_ref().ok_or_else(|| missing("attestation data"))?;
    let svid = params.params.as_ref().ok_or_else(|| missing("X509-SVID parameters"))?;
    if svid.csr.is_empty() {
        return Err(missing("CSR"));
    }
    if data.r#type.is_empty() {
        return Err(missing("attestation data type"));
    }
    if data.payload.is_empty() {
        return Err(missing("attestation data payload"));
    }
    Ok(Evidence { kind: &data.r#type, payload: &data.payload, csr: &svid.csr })
}

/// Attests by join token: each token makes one agent, once.
pub(crate) struct JoinTokens {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) store: Arc<dyn Store>,
}

impl JoinTokens {
    /// Uses up `token`. A token that the model does not know is refused without asking the store, so that guessing
    /// costs the database nothing; one that it knows is taken from the store, where one caller gets it.
    pub(super) async fn attest(&self, token: &[u8]) -> Result<Attested, Status> {
        let unknown = || {
            Status::invalid_argument("failed to attest: join token does not exist or has already been used")
        };
        let token = std::str::from_utf8(token).map_err(|_| unknown())?;
        if !self.model.load().join_tokens.contains_key(token) {
            return Err(unknown());
        }
        let taken = self.store.take_join_token(token).await;
        let taken = taken.map_err(|cause| store_failed("failed to delete join token", &cause))?;
        if taken.ok_or_else(unknown)?.expires_at < self.clock.unix_now() {
            return Err(Status::invalid_argument("join token expired"));
        }
        let id = agent_id(&self.trust_domain, token)
            .map_err(|e| failed(Code::Internal, "failed to create join token ID", e))?;
        Ok(Attested { id, selectors: SelectorSet::default(), can_reattest: false })
    }
}

/// The SPIFFE ID of the agent that joins with `token`.
pub(super) fn agent_id(
    trust_domain: &TrustDomain,
    token: &str,
) -> Result<SpiffeId, vouchsafe_types::spiffe_id::SpiffeIdError> {
    SpiffeId::new(trust_domain, &format!("/spire/agent/join_token/{token}"))
}
