//! SPIFFE IDs, selectors, agents.

use vouchsafe_types::agent::Agent;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::ConvertError;
use crate::spire::api::types;

/// The two-part message form of `id`.
#[must_use]
pub fn spiffe_id_to_proto(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

/// # Errors
///
/// [`ConvertError::MissingSpiffeId`], or what is wrong with the parts.
pub fn spiffe_id_from_proto(id: Option<&types::Spiffeid>) -> Result<SpiffeId, ConvertError> {
    let id = id.ok_or(ConvertError::MissingSpiffeId)?;
    let trust_domain =
        TrustDomain::parse(&id.trust_domain).map_err(|e| ConvertError::field("trust domain", e))?;
    SpiffeId::new(&trust_domain, &id.path).map_err(ConvertError::SpiffeId)
}

/// One selector as a message.
#[must_use]
pub fn selector_to_proto(selector: &Selector) -> types::Selector {
    types::Selector { r#type: selector.kind().to_owned(), value: selector.value().to_owned() }
}

/// A set of selectors. An empty list is an empty set.
///
/// # Errors
///
/// A selector without type or value, a type with a colon, or a selector that stands twice.
pub fn selectors_from_proto(list: &[types::Selector]) -> Result<SelectorSet, ConvertError> {
    let mut selectors = Vec::with_capacity(list.len());
    for item in list {
        if item.r#type.is_empty() {
            return Err(ConvertError::Selector("missing selector type"));
        }
        if item.r#type.contains(':') {
            return Err(ConvertError::Selector("selector type contains ':'"));
        }
        if item.value.is_empty() {
            return Err(ConvertError::Selector("missing selector value"));
        }
        let selector =
            Selector::new(&item.r#type, &item.value).map_err(|e| ConvertError::field("selector", e))?;
        if selectors.contains(&selector) {
            return Err(ConvertError::Duplicate { field: "selector", value: selector.to_string() });
        }
        selectors.push(selector);
    }
    Ok(selectors.into_iter().collect())
}

/// An agent, reduced to the fields of `mask`.
#[must_use]
pub fn agent_to_proto(agent: &Agent, mask: Option<&types::AgentMask>) -> types::Agent {
    let wants = |field: fn(&types::AgentMask) -> bool| mask.is_none_or(field);
    let mut message = types::Agent { id: Some(spiffe_id_to_proto(&agent.id)), ..types::Agent::default() };
    if wants(|m| m.attestation_type) {
        message.attestation_type.clone_from(&agent.attestation_type);
    }
    if wants(|m| m.x509svid_serial_number) {
        message.x509svid_serial_number.clone_from(&agent.serial_number);
    }
    if wants(|m| m.x509svid_expires_at) {
        message.x509svid_expires_at = agent.expires_at;
    }
    if wants(|m| m.selectors) {
        message.selectors = agent.selectors.iter().map(selector_to_proto).collect();
    }
    message.banned = wants(|m| m.banned) && agent.is_banned();
    message.can_reattest = wants(|m| m.can_reattest) && agent.can_reattest;
    if wants(|m| m.agent_version) {
        message.agent_version.clone_from(&agent.agent_version);
    }
    message
}
