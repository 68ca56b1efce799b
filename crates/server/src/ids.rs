//! Which SPIFFE IDs of the trust domain may stand where. Pure; the texts are those that SPIRE's tools show.

use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

/// An ID that does not belong where it was given.
#[derive(Debug, thiserror::Error)]
#[error("{id:?} is not {role} trust domain {trust_domain:?}{reason}")]
pub(crate) struct MisplacedId {
    id: String,
    role: &'static str,
    trust_domain: String,
    reason: &'static str,
}

/// A member of the trust domain, with a path.
pub(crate) fn check_member(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), MisplacedId> {
    check(trust_domain, id, "a member of", |_| None)
}

/// A workload: a member outside the namespace that SPIRE reserves.
pub(crate) fn check_workload(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), MisplacedId> {
    let reserved = |path: &str| path == "/spire" || path.starts_with("/spire/");
    check(trust_domain, id, "a workload in", |path| {
        reserved(path).then_some("; path is in the reserved namespace")
    })
}

/// An agent: a member below `/spire/agent`.
pub(crate) fn check_agent(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), MisplacedId> {
    check(trust_domain, id, "an agent in", |path| {
        (!path.starts_with("/spire/agent/")).then_some("; path is not in the agent namespace")
    })
}

fn check(
    trust_domain: &TrustDomain,
    id: &SpiffeId,
    role: &'static str,
    objection: impl Fn(&str) -> Option<&'static str>,
) -> Result<(), MisplacedId> {
    let misplaced = |role, reason| MisplacedId {
        id: id.as_str().to_owned(),
        role,
        trust_domain: trust_domain.as_str().to_owned(),
        reason,
    };
    if !id.is_member_of(trust_domain) {
        return Err(misplaced("a member of", ""));
    }
    if id.path().is_empty() {
        return Err(misplaced(role, "; path is empty"));
    }
    objection(id.path()).map_or(Ok(()), |reason| Err(misplaced(role, reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let check = |what: fn(&TrustDomain, &SpiffeId) -> Result<(), MisplacedId>, id: &str, expected: &str| {
            let outcome = what(&trust_domain, &SpiffeId::parse(id).unwrap());
            assert_eq!(outcome.map_or_else(|e| e.to_string(), |()| "ok".into()), expected, "{id}");
        };
        check(check_workload, "spiffe://example.org/db", "ok");
        check(check_agent, "spiffe://example.org/spire/agent/x", "ok");
        check(check_member, "spiffe://example.org/spire/server", "ok");
        check(
            check_workload,
            "spiffe://other.org/db",
            "\"spiffe://other.org/db\" is not a member of trust domain \"example.org\"",
        );
        check(
            check_workload,
            "spiffe://example.org",
            "\"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty",
        );
        check(
            check_workload,
            "spiffe://example.org/spire/server",
            "\"spiffe://example.org/spire/server\" is not a workload in trust domain \"example.org\"; \
             path is in the reserved namespace",
        );
        check(
            check_agent,
            "spiffe://example.org/db",
            "\"spiffe://example.org/db\" is not an agent in trust domain \"example.org\"; \
             path is not in the agent namespace",
        );
    }
}
