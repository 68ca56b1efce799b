//! Which entries and agents a list or count asks for. Pure.

use std::collections::BTreeSet;

use vouchsafe_proto::convert::{ConvertError, selectors_from_proto, spiffe_id_from_proto};
use vouchsafe_proto::spire::api::server::entry::v1::list_entries_request;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::federates_with_match::MatchBehavior as TrustDomainMatch;
use vouchsafe_proto::spire::api::types::selector_match::MatchBehavior as SelectorMatch;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::{Entry, check_member, check_workload};
use vouchsafe_types::selector::Selector;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use tonic::Status;

use crate::status::invalid;

/// What an entry must be to be listed.
#[derive(Debug, Default)]
pub(crate) struct EntryFilter {
    spiffe_id: Option<SpiffeId>,
    parent_id: Option<SpiffeId>,
    selectors: Option<(Match, BTreeSet<Selector>)>,
    federates_with: Option<(Match, BTreeSet<TrustDomain>)>,
    hint: Option<String>,
    downstream: Option<bool>,
}

/// How a set of an entry or agent relates to the set of a filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Match {
    /// The same elements.
    Exact,
    /// Nothing but elements of the filter.
    Subset,
    /// All elements of the filter.
    Superset,
    /// Some element of the filter.
    Any,
}

impl EntryFilter {
    /// Reads a request's filter; an absent one lets everything through.
    pub(crate) fn parse(
        trust_domain: &TrustDomain,
        filter: Option<list_entries_request::Filter>,
    ) -> Result<Self, Status> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let mut parsed = Self { hint: filter.by_hint, downstream: filter.by_downstream, ..Self::default() };
        if let Some(id) = &filter.by_parent_id {
            let id = spiffe_id_from_proto(Some(id)).map_err(|e| invalid("malformed parent ID filter", e))?;
            check_member(&id, trust_domain).map_err(|e| invalid("malformed parent ID filter", e))?;
            parsed.parent_id = Some(id);
        }
        if let Some(id) = &filter.by_spiffe_id {
            let id = spiffe_id_from_proto(Some(id)).map_err(|e| invalid("malformed SPIFFE ID filter", e))?;
            check_workload(&id, trust_domain).map_err(|e| invalid("malformed SPIFFE ID filter", e))?;
            parsed.spiffe_id = Some(id);
        }
        if let Some(wanted) = &filter.by_selectors {
            let set = selector_set(wanted).map_err(|e| invalid("malformed selectors filter", e))?;
            if set.1.is_empty() {
                return Err(invalid("malformed selectors filter", "empty selector set"));
            }
            parsed.selectors = Some(set);
        }
        if let Some(wanted) = &filter.by_federates_with {
            let domains: Result<BTreeSet<_>, _> =
                wanted.trust_domains.iter().map(|name| TrustDomain::parse(name)).collect();
            let domains = domains.map_err(|e| invalid("malformed federates with filter", e))?;
            if domains.is_empty() {
                return Err(invalid("malformed federates with filter", "empty trust domain set"));
            }
            parsed.federates_with = Some((wanted.r#match().into(), domains));
        }
        Ok(parsed)
    }

    /// Whether `entry` is asked for.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        self.spiffe_id.as_ref().is_none_or(|id| *id == entry.spiffe_id)
            && self.parent_id.as_ref().is_none_or(|id| *id == entry.parent_id)
            && self.hint.as_ref().is_none_or(|hint| *hint == entry.hint)
            && self.downstream.is_none_or(|downstream| downstream == entry.downstream)
            && self.selectors.as_ref().is_none_or(|(how, set)| how.holds(entry.selectors.iter(), set))
            && self
                .federates_with
                .as_ref()
                .is_none_or(|(how, set)| how.holds(entry.federates_with.iter(), set))
    }
}

/// What an agent must be to be listed. `ListAgents` and `CountAgents` have the same filter under two names.
#[derive(Debug, Default)]
pub(crate) struct AgentFilter {
    /// Attestation type; empty lets every type through.
    pub(crate) attestation_type: String,
    /// Selectors and how they relate.
    pub(crate) selectors: Option<(Match, BTreeSet<Selector>)>,
    /// Banned or not.
    pub(crate) banned: Option<bool>,
    /// Able to attest again or not.
    pub(crate) can_reattest: Option<bool>,
    /// SVID expires before this time (Unix seconds).
    pub(crate) expires_before: Option<i64>,
}

impl AgentFilter {
    /// Whether `agent` is asked for.
    pub(crate) fn matches(&self, agent: &Agent) -> bool {
        (self.attestation_type.is_empty() || self.attestation_type == agent.attestation_type)
            && self.banned.is_none_or(|banned| banned == agent.is_banned())
            && self.can_reattest.is_none_or(|can| can == agent.can_reattest)
            && self.expires_before.is_none_or(|limit| agent.expires_at < limit)
            && self.selectors.as_ref().is_none_or(|(how, set)| how.holds(agent.selectors.iter(), set))
    }
}

/// The selectors of a filter and how they relate to those of an entry or agent.
pub(crate) fn selector_set(
    wanted: &types::SelectorMatch,
) -> Result<(Match, BTreeSet<Selector>), ConvertError> {
    let set = selectors_from_proto(&wanted.selectors)?;
    Ok((wanted.r#match().into(), set.iter().cloned().collect()))
}

impl Match {
    fn holds<'a, T: Ord + 'a>(self, held: impl Iterator<Item = &'a T>, wanted: &BTreeSet<T>) -> bool {
        let held: BTreeSet<&T> = held.collect();
        let common = held.iter().filter(|item| wanted.contains(**item)).count();
        match self {
            Self::Exact => common == held.len() && common == wanted.len(),
            // What holds nothing is not asked for: so does SPIRE.
            Self::Subset => common == held.len() && !held.is_empty(),
            Self::Superset => common == wanted.len(),
            Self::Any => common > 0,
        }
    }
}

impl From<SelectorMatch> for Match {
    fn from(how: SelectorMatch) -> Self {
        match how {
            SelectorMatch::MatchExact => Self::Exact,
            SelectorMatch::MatchSubset => Self::Subset,
            SelectorMatch::MatchSuperset => Self::Superset,
            SelectorMatch::MatchAny => Self::Any,
        }
    }
}

impl From<TrustDomainMatch> for Match {
    fn from(how: TrustDomainMatch) -> Self {
        match how {
            TrustDomainMatch::MatchExact => Self::Exact,
            TrustDomainMatch::MatchSubset => Self::Subset,
            TrustDomainMatch::MatchSuperset => Self::Superset,
            TrustDomainMatch::MatchAny => Self::Any,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_relations_of_sets() {
        let check = |how: Match, held: &[u8], wanted: &[u8], expected: bool| {
            let wanted = wanted.iter().copied().collect();
            assert_eq!(how.holds(held.iter(), &wanted), expected, "{how:?} {held:?} {wanted:?}");
        };
        check(Match::Exact, &[1, 2], &[2, 1], true);
        check(Match::Exact, &[1], &[1, 2], false);
        check(Match::Subset, &[1], &[1, 2], true);
        check(Match::Subset, &[1, 3], &[1, 2], false);
        check(Match::Subset, &[], &[1, 2], false);
        check(Match::Superset, &[1, 2, 3], &[1, 2], true);
        check(Match::Superset, &[1], &[1, 2], false);
        check(Match::Any, &[1, 9], &[1, 2], true);
        check(Match::Any, &[9], &[1, 2], false);
    }
}
