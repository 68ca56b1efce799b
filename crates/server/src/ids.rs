//! Which SPIFFE IDs may be agents. Pure; the texts are those that SPIRE's tools show.

use vouchsafe_types::entry::{MembershipError, check_member};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

/// An ID that cannot be an agent's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentIdError {
    /// It is not of this trust domain, or has no path.
    #[error(transparent)]
    Membership(MembershipError),
    /// It is somebody else's.
    #[error("{:?} is not an agent in trust domain {:?}; path is not in the agent namespace", id.as_str(), trust_domain.as_str())]
    Namespace { id: SpiffeId, trust_domain: TrustDomain },
}

/// Checks that `id` is a member of the trust domain below `/spire/agent`.
pub(crate) fn check_agent(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), AgentIdError> {
    check_member(id, trust_domain).map_err(AgentIdError::Membership)?;
    if !id.is_agent() {
        return Err(AgentIdError::Namespace { id: id.clone(), trust_domain: trust_domain.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_namespace_of_the_trust_domain_will_do() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let check = |id: &str, expected: &str| {
            let outcome = check_agent(&SpiffeId::parse(id).unwrap(), &trust_domain);
            assert_eq!(outcome.map_or_else(|e| e.to_string(), |()| "ok".into()), expected, "{id}");
        };
        check("spiffe://example.org/spire/agent/x", "ok");
        check(
            "spiffe://example.org/db",
            "\"spiffe://example.org/db\" is not an agent in trust domain \"example.org\"; \
             path is not in the agent namespace",
        );
        check(
            "spiffe://other.org/spire/agent/x",
            "\"spiffe://other.org/spire/agent/x\" is not a member of trust domain \"example.org\"",
        );
    }
}
