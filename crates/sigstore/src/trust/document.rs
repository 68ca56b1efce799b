//! sigstore's `trusted_root.json`, as far as it matters here.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::validity::Period;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TrustedRoot {
    #[serde(default)]
    pub(super) tlogs: Vec<Log>,
    #[serde(default)]
    pub(super) certificate_authorities: Vec<CertificateAuthority>,
    #[serde(default)]
    pub(super) ctlogs: Vec<Log>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    pub(super) public_key: PublicKey,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PublicKey {
    pub(super) raw_bytes: String,
    pub(super) valid_for: Option<ValidFor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertificateAuthority {
    pub(super) cert_chain: CertChain,
    pub(super) valid_for: Option<ValidFor>,
}

#[derive(Deserialize)]
pub(super) struct CertChain {
    pub(super) certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawBytes {
    pub(super) raw_bytes: String,
}

#[derive(Default, Deserialize)]
pub(super) struct ValidFor {
    pub(super) start: Option<String>,
    pub(super) end: Option<String>,
}

pub(super) fn decoded(base64: &str) -> Result<Vec<u8>, &'static str> {
    BASE64_STANDARD.decode(base64).map_err(|_| "a rawBytes is not base64")
}

pub(super) fn period(valid_for: Option<ValidFor>) -> Result<Period, &'static str> {
    let unix = |text: Option<String>| -> Result<Option<i64>, &'static str> {
        let Some(text) = text else { return Ok(None) };
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| "a time is not as in RFC 3339")?;
        Ok(Some(time.unix_timestamp()))
    };
    let ValidFor { start, end } = valid_for.unwrap_or_default();
    Ok(Period { start: unix(start)?, end: unix(end)? })
}
