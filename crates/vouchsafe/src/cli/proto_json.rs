//! Messages as JSON by protobuf's rules with the options that SPIRE chooses: names as in the `.proto`, unset fields
//! written out, 64-bit integers as strings, bytes as Base64. Messages that are absent are null.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_types::value::Kind;
use serde_json::{Map, Value, json};
use vouchsafe_proto::spire::agent::debug::v1 as agent_debug;
use vouchsafe_proto::spire::api::server::debug::v1 as server_debug;
use vouchsafe_proto::spire::api::server::entry::v1 as entry;
use vouchsafe_proto::spire::api::server::localauthority::v1::AuthorityState;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use vouchsafe_proto::workload;

fn bytes(value: &[u8]) -> Value {
    Value::String(STANDARD.encode(value))
}

fn int64(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

fn spiffe_id(id: &Option<types::Spiffeid>) -> Value {
    id.as_ref().map_or(Value::Null, |id| json!({ "trust_domain": id.trust_domain, "path": id.path }))
}

fn selectors(selectors: &[types::Selector]) -> Value {
    selectors.iter().map(|selector| json!({ "type": selector.r#type, "value": selector.value })).collect()
}

pub(super) fn status(status: &Option<types::Status>) -> Value {
    status.as_ref().map_or(Value::Null, |status| json!({ "code": status.code, "message": status.message }))
}

pub(super) fn agent(agent: &types::Agent) -> Value {
    json!({
        "id": spiffe_id(&agent.id),
        "attestation_type": agent.attestation_type,
        "x509svid_serial_number": agent.x509svid_serial_number,
        "x509svid_expires_at": int64(agent.x509svid_expires_at),
        "selectors": selectors(&agent.selectors),
        "banned": agent.banned,
        "can_reattest": agent.can_reattest,
        "agent_version": agent.agent_version,
    })
}

pub(super) fn agents(agents: &[types::Agent]) -> Value {
    json!({ "agents": agents.iter().map(agent).collect::<Value>(), "next_page_token": "" })
}

pub(super) fn count(count: i32) -> Value {
    json!({ "count": count })
}

pub(super) fn join_token(token: &types::JoinToken) -> Value {
    json!({ "value": token.value, "expires_at": int64(token.expires_at) })
}

fn one_entry(entry: &types::Entry) -> Value {
    let attributes = entry.additional_attributes.as_ref().map_or(Value::Null, |attributes| {
        json!({
            "disable_x509_svid_prefetch": attributes.disable_x509_svid_prefetch,
            "jwt_svid_include_jti": attributes.jwt_svid_include_jti,
        })
    });
    json!({
        "id": entry.id,
        "spiffe_id": spiffe_id(&entry.spiffe_id),
        "parent_id": spiffe_id(&entry.parent_id),
        "selectors": selectors(&entry.selectors),
        "x509_svid_ttl": entry.x509_svid_ttl,
        "federates_with": entry.federates_with,
        "admin": entry.admin,
        "downstream": entry.downstream,
        "expires_at": int64(entry.expires_at),
        "dns_names": entry.dns_names,
        "revision_number": int64(entry.revision_number),
        "store_svid": entry.store_svid,
        "jwt_svid_ttl": entry.jwt_svid_ttl,
        "hint": entry.hint,
        "created_at": int64(entry.created_at),
        "additional_attributes": attributes,
    })
}

pub(super) fn entries(entries: &[types::Entry]) -> Value {
    json!({ "entries": entries.iter().map(one_entry).collect::<Value>(), "next_page_token": "" })
}

pub(super) fn created(response: &entry::BatchCreateEntryResponse) -> Value {
    let entries = response.results.iter().map(|result| (&result.status, optional_entry(&result.entry)));
    results("entry", entries)
}

pub(super) fn updated(response: &entry::BatchUpdateEntryResponse) -> Value {
    let entries = response.results.iter().map(|result| (&result.status, optional_entry(&result.entry)));
    results("entry", entries)
}

pub(super) fn deleted(response: &entry::BatchDeleteEntryResponse) -> Value {
    results("id", response.results.iter().map(|result| (&result.status, json!(result.id))))
}

fn optional_entry(entry: &Option<types::Entry>) -> Value {
    entry.as_ref().map_or(Value::Null, one_entry)
}

pub(super) fn bundle(bundle: &types::Bundle) -> Value {
    let key = |public_key: &[u8], key_id: &str, expires_at: i64, tainted: bool| {
        json!({
            "public_key": bytes(public_key),
            "key_id": key_id,
            "expires_at": int64(expires_at),
            "tainted": tainted,
        })
    };
    let x509 = bundle.x509_authorities.iter();
    let x509: Value = x509.map(|ca| json!({ "asn1": bytes(&ca.asn1), "tainted": ca.tainted })).collect();
    let jwt = bundle.jwt_authorities.iter();
    let jwt: Value = jwt.map(|jwt| key(&jwt.public_key, &jwt.key_id, jwt.expires_at, jwt.tainted)).collect();
    let wit = bundle.wit_authorities.iter();
    let wit: Value = wit.map(|wit| key(&wit.public_key, &wit.key_id, wit.expires_at, wit.tainted)).collect();
    json!({
        "trust_domain": bundle.trust_domain,
        "x509_authorities": x509,
        "jwt_authorities": jwt,
        "refresh_hint": int64(bundle.refresh_hint),
        "sequence_number": int64(bundle.sequence_number),
        "wit_authorities": wit,
    })
}

pub(super) fn bundles(bundles: &[types::Bundle]) -> Value {
    json!({ "bundles": bundles.iter().map(bundle).collect::<Value>(), "next_page_token": "" })
}

/// The results of a batch: of each its status and, under `name`, what it is about.
pub(super) fn results<'r>(
    name: &str,
    results: impl Iterator<Item = (&'r Option<types::Status>, Value)>,
) -> Value {
    let results: Value = results.map(|(of, value)| json!({ "status": status(of), name: value })).collect();
    json!({ "results": results })
}

pub(super) fn federation_relationship(relationship: &types::FederationRelationship) -> Value {
    let mut value = json!({
        "trust_domain": relationship.trust_domain,
        "bundle_endpoint_url": relationship.bundle_endpoint_url,
        "trust_domain_bundle": relationship.trust_domain_bundle.as_ref().map_or(Value::Null, bundle),
    });
    match &relationship.bundle_endpoint_profile {
        None => {}
        Some(BundleEndpointProfile::HttpsWeb(_)) => value["https_web"] = json!({}),
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            value["https_spiffe"] = json!({ "endpoint_spiffe_id": profile.endpoint_spiffe_id });
        }
    }
    value
}

pub(super) fn federation_relationships(relationships: &[types::FederationRelationship]) -> Value {
    json!({
        "federation_relationships": relationships.iter().map(federation_relationship).collect::<Value>(),
        "next_page_token": "",
    })
}

pub(super) fn authority(state: &Option<AuthorityState>) -> Value {
    state.as_ref().map_or(Value::Null, |state| {
        json!({
            "authority_id": state.authority_id,
            "expires_at": int64(state.expires_at),
            "upstream_authority_subject_key_id": state.upstream_authority_subject_key_id,
        })
    })
}

pub(super) fn logger(logger: &types::Logger) -> Value {
    let name = |level: i32| match types::LogLevel::try_from(level) {
        Ok(level) => json!(level.as_str_name()),
        Err(_) => json!(level),
    };
    json!({ "current_level": name(logger.current_level), "launch_level": name(logger.launch_level) })
}

fn certificate(id: &Option<types::Spiffeid>, expires_at: i64, subject: &str) -> Value {
    json!({ "id": spiffe_id(id), "expires_at": int64(expires_at), "subject": subject })
}

pub(super) fn server_info(info: &server_debug::GetInfoResponse) -> Value {
    let chain = info.svid_chain.iter().map(|cert| certificate(&cert.id, cert.expires_at, &cert.subject));
    json!({
        "svid_chain": chain.collect::<Value>(),
        "uptime": info.uptime,
        "agents_count": info.agents_count,
        "entries_count": info.entries_count,
        "federated_bundles_count": info.federated_bundles_count,
    })
}

pub(super) fn agent_info(info: &agent_debug::GetInfoResponse) -> Value {
    let chain = info.svid_chain.iter().map(|cert| certificate(&cert.id, cert.expires_at, &cert.subject));
    json!({
        "svid_chain": chain.collect::<Value>(),
        "uptime": info.uptime,
        "svids_count": info.svids_count,
        "cached_x509_svids_count": info.cached_x509_svids_count,
        "cached_jwt_svids_count": info.cached_jwt_svids_count,
        "cached_svidstore_x509_svids_count": info.cached_svidstore_x509_svids_count,
        "last_sync_success": int64(info.last_sync_success),
    })
}

pub(super) fn minted_jwt(svid: &types::Jwtsvid) -> Value {
    json!({ "svid": {
        "token": svid.token,
        "id": spiffe_id(&svid.id),
        "expires_at": int64(svid.expires_at),
        "issued_at": int64(svid.issued_at),
        "hint": svid.hint,
    } })
}

/// What `x509 mint` gives, which is no message of the API: its keys keep this order.
#[derive(serde::Serialize)]
pub(super) struct MintedX509 {
    x509_svid: Vec<String>,
    private_key: String,
    root_cas: Vec<String>,
}

impl MintedX509 {
    pub(super) fn new(chain: &[impl AsRef<[u8]>], key: &[u8], roots: &[impl AsRef<[u8]>]) -> Self {
        Self {
            x509_svid: chain.iter().map(|der| STANDARD.encode(der)).collect(),
            private_key: STANDARD.encode(key),
            root_cas: roots.iter().map(|der| STANDARD.encode(der)).collect(),
        }
    }
}

pub(super) fn x509_svids(response: &workload::X509svidResponse) -> Value {
    let svids = response.svids.iter().map(|svid| {
        json!({
            "spiffe_id": svid.spiffe_id,
            "x509_svid": bytes(&svid.x509_svid),
            "x509_svid_key": bytes(&svid.x509_svid_key),
            "bundle": bytes(&svid.bundle),
            "hint": svid.hint,
        })
    });
    let federated = response.federated_bundles.iter();
    let federated: Map<_, _> = federated.map(|(id, der)| (id.clone(), bytes(der))).collect();
    json!({
        "svids": svids.collect::<Value>(),
        "crl": response.crl.iter().map(|der| bytes(der)).collect::<Value>(),
        "federated_bundles": federated,
    })
}

pub(super) fn jwt_svids(response: &workload::JwtsvidResponse) -> Value {
    let svids = response.svids.iter();
    let svids: Value = svids
        .map(|svid| json!({ "spiffe_id": svid.spiffe_id, "svid": svid.svid, "hint": svid.hint }))
        .collect();
    json!({ "svids": svids })
}

pub(super) fn jwt_bundles(response: &workload::JwtBundlesResponse) -> Value {
    let bundles: Map<_, _> = response.bundles.iter().map(|(id, jwks)| (id.clone(), bytes(jwks))).collect();
    json!({ "bundles": bundles })
}

pub(super) fn validated_jwt(response: &workload::ValidateJwtsvidResponse) -> Value {
    json!({ "spiffe_id": response.spiffe_id, "claims": response.claims.as_ref().map_or(Value::Null, structure) })
}

/// A `google.protobuf.Struct`. Its numbers are floating-point.
pub(super) fn structure(value: &prost_types::Struct) -> Value {
    Value::Object(value.fields.iter().map(|(key, value)| (key.clone(), dynamic(value))).collect())
}

fn dynamic(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::StructValue(inner)) => structure(inner),
        Some(Kind::ListValue(list)) => list.values.iter().map(dynamic).collect(),
    }
}
