//! A token that names a workload (JWT-SVID).
//!
//! Parsing enforces the form of the token. Whoever accepts one must further check its signature with the key of
//! [`JwtSvid::key_id`] from the bundle of its trust domain, its times and its audience.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::secret::SecretText;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};

#[cfg(test)]
mod tests;

/// A JWT-SVID whose form is valid and whose signature nobody has checked yet.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSvid {
    /// Whom it names, its `sub` claim.
    pub id: SpiffeId,
    /// For whom it is meant, its `aud` claim; never empty.
    pub audience: Vec<String>,
    /// When it ends, its `exp` claim, in Unix seconds.
    pub expires_at: i64,
    /// When it was issued, its `iat` claim, in Unix seconds.
    pub issued_at: Option<i64>,
    /// Before when it must not be accepted, its `nbf` claim, in Unix seconds.
    pub not_before: Option<i64>,
    /// Which key signed it, its `kid` header.
    pub key_id: String,
    /// How it was signed, its `alg` header.
    pub algorithm: JwsAlgorithm,
    /// All its claims, the ones above included.
    pub claims: Map<String, Value>,
    /// The token itself, redacted in `Debug` and cleared when dropped.
    pub token: SecretText,
    signature: Signature,
}

impl JwtSvid {
    /// Reads a token in JWS compact serialization.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks. The error holds no part of the token.
    pub fn parse_unverified(token: &str) -> Result<Self, JwtSvidError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtSvidError::TooLong);
        }
        // JWT-SVID §1: "JWT-SVIDs are JSON Web Signature (JWS) data structures utilizing JWS Compact Serialization
        // in all cases. JWS JSON Serialization MUST NOT be used."
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtSvidError::NotCompact);
        };
        let header = read_header(&read_object(header).ok_or(JwtSvidError::Header)?)?;
        let claims = read_object(claims).ok_or(JwtSvidError::Claims)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtSvidError::Signature)?;
        if signature.is_empty() {
            return Err(JwtSvidError::Signature);
        }
        Ok(Self {
            id: subject(&claims)?,
            audience: audience(&claims)?,
            // JWT-SVID §3.3: "The `exp` claim MUST be set, and validators MUST reject tokens without this claim."
            expires_at: numeric_date(&claims, "exp")?.ok_or(JwtSvidError::NoExpiry)?,
            issued_at: numeric_date(&claims, "iat")?,
            not_before: numeric_date(&claims, "nbf")?,
            key_id: header.key_id,
            algorithm: header.algorithm,
            claims,
            token: token.into(),
            signature: Signature(signature),
        })
    }

    /// Checks that the token is valid at `now` (Unix seconds), give or take `leeway`.
    ///
    /// # Errors
    ///
    /// It has ended, has not begun, or says that it was issued in the future.
    pub fn check_times(&self, now: i64, leeway: Duration) -> Result<(), JwtSvidError> {
        let leeway = i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX);
        // RFC 7519 §4.1.4: "The "exp" (expiration time) claim identifies the expiration time on or after which the
        // JWT MUST NOT be accepted for processing."
        if now.saturating_sub(leeway) >= self.expires_at {
            return Err(JwtSvidError::Expired);
        }
        // RFC 7519 §4.1.5: "The "nbf" (not before) claim identifies the time before which the JWT MUST NOT be
        // accepted for processing."
        let latest = now.saturating_add(leeway);
        if self.not_before.is_some_and(|start| start > latest) {
            return Err(JwtSvidError::NotYetValid);
        }
        if self.issued_at.is_some_and(|issued| issued > latest) {
            return Err(JwtSvidError::IssuedInFuture);
        }
        Ok(())
    }

    /// Checks that the token is meant for one of `accepted`.
    ///
    /// # Errors
    ///
    /// It is meant for others only.
    pub fn check_audience<S: AsRef<str>>(&self, accepted: &[S]) -> Result<(), JwtSvidError> {
        // JWT-SVID §3.2: "Validators MUST reject tokens without an `aud` claim set, or if the value that the validator
        // identifies with is not present as an `aud` element."
        if self.audience.iter().any(|meant| accepted.iter().any(|mine| mine.as_ref() == meant)) {
            return Ok(());
        }
        let accepted = accepted.iter().map(|mine| mine.as_ref().to_owned()).collect();
        Err(JwtSvidError::Audience { accepted, meant: self.audience.clone() })
    }

    /// What the signature covers: header and claims as they stand in the token.
    #[must_use]
    pub fn signing_input(&self) -> &str {
        self.token.rsplit_once('.').map_or("", |(input, _)| input)
    }

    /// The signature as JWS has it: for ECDSA the two numbers at full length, not DER.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature.0
    }
}

/// Grants nothing without the rest of the token, but does not belong in a log either.
#[derive(Clone, Eq, PartialEq)]
struct Signature(Vec<u8>);

impl fmt::Debug for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[{} bytes]", self.0.len())
    }
}

struct Header {
    algorithm: JwsAlgorithm,
    key_id: String,
}

fn read_header(header: &Map<String, Value>) -> Result<Header, JwtSvidError> {
    // JWT-SVID §2: "Any header not described here, registered or private, MUST NOT be included in the JWT-SVID JOSE
    // Header." Among them is `crit`, which RFC 7515 §4.1.11 does not allow to be skipped, and every header that
    // would point to a key of the sender's choice.
    if header.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(JwtSvidError::UnknownHeader);
    }
    // JWT-SVID §2.1: "Validators receiving a token with the `alg` parameter set to a different value MUST reject the
    // token." §4: "Validators MUST ensure that the `alg` header is set to a supported value before processing."
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(JwsAlgorithm::parse);
    let algorithm = algorithm.ok_or(JwtSvidError::Algorithm)?;
    // JWT-SVID §2.3: "The `typ` header is optional. If set, its value MUST be either `JWT` or `JOSE`."
    if header.get("typ").is_some_and(|value| !matches!(value.as_str(), Some("JWT" | "JOSE"))) {
        return Err(JwtSvidError::Type);
    }
    // JWT-SVID §2.2 makes `kid` optional. Every key of a bundle has one (§6.1), every issuer in the field sets it,
    // and without it a verifier would have to try all keys at the sender's wish.
    let key_id = header.get("kid").and_then(Value::as_str).unwrap_or_default();
    if key_id.is_empty() || key_id.len() > crate::bundle::MAX_KEY_ID_BYTES {
        return Err(JwtSvidError::KeyId);
    }
    Ok(Header { algorithm, key_id: key_id.to_owned() })
}

fn read_object(part: &str) -> Option<Map<String, Value>> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtSvidError> {
    // JWT-SVID §3.1: "The `sub` claim MUST be set to the SPIFFE ID of the workload to which it is issued."
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if subject.is_empty() {
        return Err(JwtSvidError::NoSubject);
    }
    SpiffeId::parse(subject).map_err(JwtSvidError::Subject)
}

/// RFC 7519 §4.1.3: an array of texts, or one text.
fn audience(claims: &Map<String, Value>) -> Result<Vec<String>, JwtSvidError> {
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|value| value.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().ok_or(JwtSvidError::Claims)?
        }
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(JwtSvidError::Claims),
    };
    // JWT-SVID §3.2: "The `aud` claim MUST be present, containing one or more values."
    if audience.is_empty() || audience.iter().all(String::is_empty) {
        return Err(JwtSvidError::NoAudience);
    }
    Ok(audience)
}

/// RFC 7519 §2, NumericDate: seconds since 1970, perhaps with a fraction, which is dropped.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, JwtSvidError> {
    let value = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    // `as` saturates, and JSON knows no NaN.
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64));
    seconds.map(Some).ok_or(JwtSvidError::Claims)
}

/// How a token may be signed (JWT-SVID §2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum JwsAlgorithm {
    /// RSASSA-PKCS1-v1_5 using SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 using SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 using SHA-512.
    Rs512,
    /// ECDSA using P-256 and SHA-256.
    Es256,
    /// ECDSA using P-384 and SHA-384.
    Es384,
    /// ECDSA using P-521 and SHA-512.
    Es512,
    /// RSASSA-PSS using SHA-256.
    Ps256,
    /// RSASSA-PSS using SHA-384.
    Ps384,
    /// RSASSA-PSS using SHA-512.
    Ps512,
}

impl JwsAlgorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// The one with this `alg` value. `none` and every symmetric algorithm are no JWT-SVID.
    #[must_use]
    pub fn parse(alg: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == alg)
    }

    /// Its `alg` value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }
}

/// Why a text is no JWT-SVID, or not one to accept. Holds no part of a token except its audience.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSvidError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three parts with dots between them.
    #[error("token is not a JWS in compact serialization")]
    NotCompact,
    /// The header is not base64url of a JSON object.
    #[error("token header is malformed")]
    Header,
    /// The claims are not base64url of a JSON object, or one of them has the wrong type.
    #[error("token claims are malformed")]
    Claims,
    /// The signature is empty or not base64url.
    #[error("token signature is malformed")]
    Signature,
    /// A header that the standard does not describe.
    #[error("token has a header other than alg, kid and typ")]
    UnknownHeader,
    /// The algorithm is missing or not one of the standard.
    #[error("token signature algorithm is missing or not supported")]
    Algorithm,
    /// The type is something else.
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// The key id is missing, empty or longer than [`crate::bundle::MAX_KEY_ID_BYTES`].
    #[error("token header missing key id")]
    KeyId,
    /// No subject.
    #[error("token missing subject claim")]
    NoSubject,
    /// The subject is no SPIFFE ID.
    #[error("token has an invalid subject claim")]
    Subject(#[source] SpiffeIdError),
    /// No audience.
    #[error("token missing audience claim")]
    NoAudience,
    /// No expiry.
    #[error("token missing exp claim")]
    NoExpiry,
    /// It has ended.
    #[error("token has expired")]
    Expired,
    /// It has not begun.
    #[error("token not valid yet")]
    NotYetValid,
    /// It was issued in the future.
    #[error("token is issued in the future; compare the clocks")]
    IssuedInFuture,
    /// It is meant for others only.
    #[error("expected audience in [{}] (audience=[{}])", quoted(accepted), quoted(meant))]
    Audience {
        /// Who may be named.
        accepted: Vec<String>,
        /// For whom it is meant.
        meant: Vec<String>,
    },
}

/// Each in quotes, as SPIRE lists them.
fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ")
}

/// Longest token. A longer one is refused.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;
