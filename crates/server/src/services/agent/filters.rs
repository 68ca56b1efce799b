//! Which agents an operator wants to see.

use tonic::Status;
use vouchsafe_proto::spire::api::server::agent::v1::{count_agents_request, list_agents_request};

use crate::filter::{AgentFilter, selector_set};
use crate::status::invalid;
use crate::when;

/// The filter of a list.
pub(super) fn agent_filter(filter: Option<list_agents_request::Filter>) -> Result<AgentFilter, Status> {
    let Some(filter) = filter else { return Ok(AgentFilter::default()) };
    let selectors = filter.by_selector_match.as_ref().map(selector_set).transpose();
    let expires_before = match filter.by_expires_before.as_str() {
        "" => None,
        text => Some(when::parse(text).map_err(|e| invalid("failed to parse expiry filter", e))?),
    };
    Ok(AgentFilter {
        attestation_type: filter.by_attestation_type,
        selectors: selectors.map_err(|e| invalid("failed to parse selectors", e))?,
        banned: filter.by_banned,
        can_reattest: filter.by_can_reattest,
        expires_before,
    })
}

/// The filters of the count and of the list have the same fields under two names.
pub(super) fn same_filter(filter: count_agents_request::Filter) -> list_agents_request::Filter {
    list_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    }
}
