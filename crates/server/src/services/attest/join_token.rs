//! Join tokens: each makes one agent, once.

use std::sync::Arc;

use tonic::{Code, Status};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::Store;
use vouchsafe_types::selector::SelectorSet;
use vouchsafe_types::spiffe_id::{SpiffeId, SpiffeIdError};
use vouchsafe_types::trust_domain::TrustDomain;

use super::Attested;
use crate::model::ReadModel;
use crate::status::{failed, store_failed};

/// The name that agents and configurations have for it.
pub(crate) const NAME: &str = "join_token";

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
pub(crate) fn agent_id(trust_domain: &TrustDomain, token: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(trust_domain, &format!("/spire/agent/join_token/{token}"))
}
