//! Join tokens: each makes one agent, once.

use std::sync::Arc;

use tonic::{Code, Status};
use vouchsafe_types::selector::SelectorSet;
use vouchsafe_types::spiffe_id::{SpiffeId, SpiffeIdError};
use vouchsafe_types::trust_domain::TrustDomain;

use super::Attested;
use crate::model::ReadModel;
use crate::status::failed;

/// The name that agents and configurations have for it.
pub(crate) const NAME: &str = "join_token";

/// Attests by join token: each token makes one agent, once.
pub(crate) struct JoinTokens {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) model: Arc<ReadModel>,
}

impl JoinTokens {
    /// Who comes with `token`. It is used up when the agent is stored, in one step, so that nothing that fails before
    /// costs it; there one caller gets it, and an expired one admits nobody. A token that the model does not know is
    /// refused without asking the store, so that guessing costs the database nothing.
    pub(super) fn attest(&self, token: &[u8]) -> Result<Attested, Status> {
        let token = std::str::from_utf8(token).map_err(|_| unknown())?;
        if !self.model.load().join_tokens.contains_key(token) {
            return Err(unknown());
        }
        let id = agent_id(&self.trust_domain, token)
            .map_err(|e| failed(Code::Internal, "failed to create join token ID", e))?;
        Ok(Attested { id, selectors: SelectorSet::default(), can_reattest: false, token: Some(token.into()) })
    }
}

/// The answer to who comes with a token that nobody made, or that somebody else has used.
pub(crate) fn unknown() -> Status {
    Status::invalid_argument("failed to attest: join token does not exist or has already been used")
}

/// The answer to who comes too late.
pub(crate) fn expired() -> Status {
    Status::invalid_argument("join token expired")
}

/// The SPIFFE ID of the agent that joins with `token`.
pub(crate) fn agent_id(trust_domain: &TrustDomain, token: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(trust_domain, &format!("/spire/agent/join_token/{token}"))
}
