//! What the audit log tells of requests that write bundles or search for something, as SPIRE's does.

use serde_json::Value;
use vouchsafe_proto::spire::api::server::agent::v1::list_agents_request;
use vouchsafe_proto::spire::api::server::entry::v1::list_entries_request;
use vouchsafe_proto::spire::api::types;

use super::{csr_hash, selectors, spiffe_id};

/// Fields of a line.
pub(crate) type Fields = Vec<(String, Value)>;

/// Authorities of each kind that a line tells of; the others of the request are left out.
const MAX_AUTHORITIES: usize = 256;

/// The authorities of a request, by key and hash.
pub(crate) fn authority_fields(x509: &[types::X509Certificate], jwt: &[types::JwtKey]) -> Fields {
    let mut fields = Fields::new();
    for (number, authority) in jwt.iter().enumerate().take(MAX_AUTHORITIES) {
        let hash = csr_hash(&authority.public_key);
        fields.push((format!("jwt_authority_expires_at.{number}"), authority.expires_at.into()));
        fields.push((format!("jwt_authority_key_id.{number}"), authority.key_id.as_str().into()));
        fields.push((format!("jwt_authority_public_key_sha256.{number}"), hash.into()));
    }
    for (number, authority) in x509.iter().enumerate().take(MAX_AUTHORITIES) {
        let hash = csr_hash(&authority.asn1);
        fields.push((format!("x509_authorities_asn1_sha256.{number}"), hash.into()));
    }
    fields
}

/// The fields of a bundle that an operator writes; those that `mask` leaves alone are not told.
pub(crate) fn bundle_fields(bundle: &types::Bundle, mask: Option<&types::BundleMask>) -> Fields {
    let told = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    let mut fields = vec![("trust_domain_id".to_owned(), bundle.trust_domain.as_str().into())];
    if told(|mask| mask.refresh_hint) {
        fields.push(("refresh_hint".to_owned(), bundle.refresh_hint.into()));
    }
    if told(|mask| mask.sequence_number) {
        fields.push(("sequence_number".to_owned(), bundle.sequence_number.into()));
    }
    let jwt = if told(|mask| mask.jwt_authorities) { &*bundle.jwt_authorities } else { &[] };
    let x509 = if told(|mask| mask.x509_authorities) { &*bundle.x509_authorities } else { &[] };
    fields.extend(authority_fields(x509, jwt));
    fields
}

/// The fields of a federation relationship that an operator writes; those that `mask` leaves alone are not told.
pub(crate) fn relationship_fields(
    message: &types::FederationRelationship,
    mask: Option<&types::FederationRelationshipMask>,
) -> Fields {
    use types::federation_relationship::BundleEndpointProfile as Profile;
    let told = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
    let mut fields = Fields::new();
    let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.into()));
    if !message.trust_domain.is_empty() {
        add("trust_domain_id", &message.trust_domain);
    }
    if told(|mask| mask.bundle_endpoint_url) {
        add("bundle_endpoint_url", &message.bundle_endpoint_url);
    }
    if told(|mask| mask.bundle_endpoint_profile) {
        match &message.bundle_endpoint_profile {
            Some(Profile::HttpsWeb(_)) => add("bundle_endpoint_profile", "https_web"),
            Some(Profile::HttpsSpiffe(profile)) => {
                add("bundle_endpoint_profile", "https_spiffe");
                add("endpoint_spiffe_id", &profile.endpoint_spiffe_id);
            }
            None => {}
        }
    }
    if told(|mask| mask.trust_domain_bundle)
        && let Some(bundle) = &message.trust_domain_bundle
    {
        let bundle = bundle_fields(bundle, None).into_iter();
        fields.extend(bundle.map(|(name, value)| (format!("bundle_{name}"), value)));
    }
    fields
}

/// Which entries are asked for.
pub(crate) fn entry_filter_fields(filter: &list_entries_request::Filter) -> Fields {
    let mut fields = Fields::new();
    let mut add = |name: &str, value: Value| fields.push((name.to_owned(), value));
    if let Some(hint) = &filter.by_hint {
        add("hint", hint.as_str().into());
    }
    if let Some(id) = &filter.by_parent_id {
        add("parent_id", spiffe_id(id).into());
    }
    if let Some(id) = &filter.by_spiffe_id {
        add("spiffe_id", spiffe_id(id).into());
    }
    if let Some(wanted) = &filter.by_selectors {
        add("by_selector_match", wanted.r#match().as_str_name().into());
        add("by_selectors", selectors(&wanted.selectors).into());
    }
    if let Some(wanted) = &filter.by_federates_with {
        add("federates_with_match", wanted.r#match().as_str_name().into());
        add("federates_with", wanted.trust_domains.join(",").into());
    }
    if let Some(downstream) = filter.by_downstream {
        add("downstream", downstream.into());
    }
    fields
}

/// Which agents are asked for.
pub(crate) fn agent_filter_fields(filter: &list_agents_request::Filter) -> Fields {
    let mut fields = Fields::new();
    let mut add = |name: &str, value: Value| fields.push((name.to_owned(), value));
    if !filter.by_attestation_type.is_empty() {
        add("node_attestor_type", filter.by_attestation_type.as_str().into());
    }
    if let Some(banned) = filter.by_banned {
        add("by_banned", banned.into());
    }
    if let Some(can_reattest) = filter.by_can_reattest {
        add("by_can_reattest", can_reattest.into());
    }
    if let Some(wanted) = &filter.by_selector_match {
        add("by_selector_match", wanted.r#match().as_str_name().into());
        add("by_selectors", selectors(&wanted.selectors).into());
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(fields: Fields) -> Value {
        Value::Object(fields.into_iter().collect())
    }

    #[test]
    fn a_bundle_is_told_by_the_hashes_of_its_authorities_and_as_far_as_it_is_written() {
        let bundle = types::Bundle {
            trust_domain: "b.test".into(),
            refresh_hint: 60,
            sequence_number: 7,
            x509_authorities: vec![types::X509Certificate { asn1: "abc".into(), tainted: false }],
            jwt_authorities: vec![types::JwtKey {
                public_key: "abc".into(),
                key_id: "k".into(),
                expires_at: 9,
                tainted: false,
            }],
            ..types::Bundle::default()
        };
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            object(bundle_fields(&bundle, None)),
            json!({
                "trust_domain_id": "b.test", "refresh_hint": 60, "sequence_number": 7,
                "jwt_authority_expires_at.0": 9, "jwt_authority_key_id.0": "k",
                "jwt_authority_public_key_sha256.0": abc, "x509_authorities_asn1_sha256.0": abc,
            })
        );
        let mask = types::BundleMask { sequence_number: true, ..types::BundleMask::default() };
        let told = object(bundle_fields(&bundle, Some(&mask)));
        assert_eq!(told, json!({"trust_domain_id": "b.test", "sequence_number": 7}));
        let relationship = types::FederationRelationship {
            trust_domain: "b.test".into(),
            bundle_endpoint_url: "https://b.test".into(),
            trust_domain_bundle: Some(bundle),
            ..types::FederationRelationship::default()
        };
        let told = object(relationship_fields(&relationship, None));
        assert_eq!(told["bundle_x509_authorities_asn1_sha256.0"], abc);
        assert_eq!(told["bundle_endpoint_url"], "https://b.test");
    }

    #[test]
    fn a_request_with_very_many_authorities_makes_a_line_of_bounded_length() {
        let many = vec![types::X509Certificate::default(); MAX_AUTHORITIES + 1];
        assert_eq!(authority_fields(&many, &[]).len(), MAX_AUTHORITIES);
    }

    #[test]
    fn a_search_is_told_by_what_it_asks_for() {
        let id = |path: &str| types::Spiffeid { trust_domain: "a.test".into(), path: path.into() };
        let selectors = vec![
            types::Selector { r#type: "unix".into(), value: "uid:0".into() },
            types::Selector { r#type: "unix".into(), value: "gid:0".into() },
        ];
        let wanted = types::SelectorMatch {
            selectors,
            r#match: types::selector_match::MatchBehavior::MatchSubset as i32,
        };
        let filter = list_entries_request::Filter {
            by_spiffe_id: Some(id("/w")),
            by_parent_id: Some(id("/p")),
            by_selectors: Some(wanted.clone()),
            by_federates_with: Some(types::FederatesWithMatch {
                trust_domains: vec!["b.test".into(), "c.test".into()],
                ..types::FederatesWithMatch::default()
            }),
            by_hint: Some("h".into()),
            by_downstream: Some(true),
        };
        assert_eq!(
            object(entry_filter_fields(&filter)),
            json!({
                "hint": "h", "parent_id": "spiffe://a.test/p", "spiffe_id": "spiffe://a.test/w",
                "by_selector_match": "MATCH_SUBSET", "by_selectors": "unix:uid:0,unix:gid:0",
                "federates_with_match": "MATCH_EXACT", "federates_with": "b.test,c.test", "downstream": true,
            })
        );
        let filter = list_agents_request::Filter {
            by_attestation_type: "x509pop".into(),
            by_banned: Some(false),
            by_can_reattest: Some(true),
            by_selector_match: Some(wanted),
            ..list_agents_request::Filter::default()
        };
        assert_eq!(
            object(agent_filter_fields(&filter)),
            json!({
                "node_attestor_type": "x509pop", "by_banned": false, "by_can_reattest": true,
                "by_selector_match": "MATCH_SUBSET", "by_selectors": "unix:uid:0,unix:gid:0",
            })
        );
    }
}
