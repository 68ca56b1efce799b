//! Whether what came can be used now.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use vouchsafe_proto::workload as api;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How many X.509-SVIDs of `message` are valid at `now`, if `id` is one of them. Without an `id`, any number is right.
pub(super) fn usable(message: &api::X509svidResponse, id: &str, now: i64) -> Result<usize, String> {
    let valid = |svid: &&api::X509svid| {
        X509Certificate::from_der(&svid.x509_svid).is_ok_and(|(_, leaf)| {
            let validity = leaf.validity();
            validity.not_before.timestamp() <= now && now < validity.not_after.timestamp()
        })
    };
    let valid: Vec<&api::X509svid> = message.svids.iter().filter(valid).collect();
    if id.is_empty() || valid.iter().any(|svid| svid.spiffe_id == id) {
        return Ok(valid.len());
    }
    let there = message.svids.iter().any(|svid| svid.spiffe_id == id);
    Err(if there { "the SVID is not valid now".to_owned() } else { "not among the SVIDs".to_owned() })
}

/// Whether the first token is for `id` and not expired at `now`.
pub(super) fn usable_token(answer: &api::JwtsvidResponse, id: &str, now: i64) -> Result<(), String> {
    let svid = answer.svids.first().ok_or("no token")?;
    let claims = svid.svid.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<serde_json::Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let claims = claims.ok_or("a token that cannot be read")?;
    if claims["exp"].as_i64().is_none_or(|expires| expires <= now) {
        return Err("the token has expired".to_owned());
    }
    if claims["sub"] != id {
        return Err(format!("a token for {}", claims["sub"]));
    }
    Ok(())
}
