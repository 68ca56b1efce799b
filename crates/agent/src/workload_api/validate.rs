//! `ValidateJWTSVID`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::{Request, Status};
use tracing::{debug, warn};
use vouchsafe_ca::jwt;
use vouchsafe_proto::workload;
use vouchsafe_types::jwt_svid::JwtSvid;

use super::request::{Api, check_security_header};
use crate::identity_set::IdentitySet;

/// Checks a token against the bundles that the caller may see, and returns what it says.
///
/// # Errors
///
/// The status that the RPC ends with.
pub async fn validate(
    api: &Api,
    request: Request<workload::ValidateJwtsvidRequest>,
) -> Result<Bytes, Status> {
    check_security_header(request.metadata())?;
    if request.get_ref().audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if request.get_ref().svid.is_empty() {
        return Err(Status::invalid_argument("svid must be specified"));
    }
    let known = api.admit_checked(&request).await?;
    let message = request.into_inner();
    let svid = check(api, &known.set, &message).map_err(|error| {
        warn!(audience = message.audience, error, "Failed to validate JWT");
        Status::invalid_argument(error)
    })?;
    debug!(audience = message.audience, spiffe_id = %svid.id, "Successfully validated JWT");
    let foreign = !svid.id.is_member_of(&api.trust_domain);
    let claims = svid
        .claims
        .iter()
        .filter(|(name, _)| {
            !foreign
                || matches!(name.as_str(), "sub" | "aud" | "exp")
                || api.allowed_foreign_jwt_claims.contains(*name)
        })
        .map(|(name, value)| match (name.as_str(), value) {
            // RFC 7519 §4.1.3 lets a single audience stand alone; callers always get a list.
            ("aud", serde_json::Value::String(one)) => (name.clone(), list(vec![text(one.clone())])),
            (_, value) => (name.clone(), to_proto(value, 0)),
        })
        .collect();
    let response = workload::ValidateJwtsvidResponse {
        spiffe_id: svid.id.as_str().to_owned(),
        claims: Some(Struct { fields: claims }),
    };
    Ok(response.encode_to_vec().into())
}

fn check(
    api: &Api,
    set: &IdentitySet,
    message: &workload::ValidateJwtsvidRequest,
) -> Result<JwtSvid, String> {
    let svid = JwtSvid::parse_unverified(&message.svid)
        .map_err(|error| format!("unable to parse JWT token: {error}"))?;
    let trust_domain = svid.id.trust_domain();
    let bundle = set
        .bundles()
        .find(|view| view.bundle.trust_domain == trust_domain)
        .ok_or_else(|| format!("no keys found for trust domain \"{trust_domain}\""))?;
    let authority = bundle.bundle.jwt_authority(&svid.key_id).ok_or_else(|| {
        format!("public key \"{}\" not found in trust domain \"{trust_domain}\"", svid.key_id)
    })?;
    jwt::verify(&svid, authority).map_err(|error| error.to_string())?;
    svid.check_times(api.clock.unix_now(), LEEWAY).map_err(|error| error.to_string())?;
    svid.check_audience(&[&message.audience]).map_err(|error| error.to_string())?;
    Ok(svid)
}

fn to_proto(value: &serde_json::Value, depth: usize) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => return text(value.clone()),
        Json::Array(_) | Json::Object(_) if depth >= MAX_CLAIM_DEPTH => Kind::NullValue(0),
        Json::Array(values) => return list(values.iter().map(|value| to_proto(value, depth + 1)).collect()),
        Json::Object(values) => {
            let fields: BTreeMap<_, _> =
                values.iter().map(|(name, value)| (name.clone(), to_proto(value, depth + 1))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}

fn text(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}

fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}

/// By how much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(60);

/// Claims nested deeper than this are left out.
const MAX_CLAIM_DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_every_shape_are_carried_over() {
        let claims = serde_json::json!({ "n": 1.5, "b": true, "z": null, "l": ["a", 2], "o": { "k": "v" } });
        let Some(Kind::StructValue(fields)) = to_proto(&claims, 0).kind else { panic!("not a struct") };
        assert_eq!(fields.fields["n"].kind, Some(Kind::NumberValue(1.5)));
        assert_eq!(fields.fields["z"].kind, Some(Kind::NullValue(0)));
        assert!(matches!(&fields.fields["l"].kind, Some(Kind::ListValue(list)) if list.values.len() == 2));
        assert!(
            matches!(&fields.fields["o"].kind, Some(Kind::StructValue(object)) if object.fields["k"].kind == Some(Kind::StringValue("v".into())))
        );
    }

    #[test]
    fn claims_cannot_be_nested_without_end() {
        let mut deep = serde_json::json!(1);
        for _ in 0..100 {
            deep = serde_json::json!([deep]);
        }
        let encoded = to_proto(&deep, 0).encode_to_vec();
        assert!(encoded.len() < 1_000);
    }
}
