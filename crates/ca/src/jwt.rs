//! JWT-SVIDs: sign and verify, in the exact profile of the reference.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::der::time;
use crate::signer::{self, SignError, Signature, Signer};
use vouchsafe_runtime::class::Class;

pub mod verify;

pub use verify::{VerifyTokenError, verify};

/// An authority that can sign JWT-SVIDs. Immutable: a rotation makes another one.
#[derive(Clone, Debug)]
pub struct JwtKey {
    trust_domain: TrustDomain,
    signer: Arc<dyn Signer>,
    kid: String,
    /// The header of every token, base64url, with the dot behind it.
    header: String,
    issued_at: i64,
    not_after: i64,
}

impl JwtKey {
    /// Takes a key with its id (letters, digits, `-`, `_` and `.` only need no escaping; others are escaped).
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        signer: Arc<dyn Signer>,
        kid: String,
        issued_at: i64,
        not_after: i64,
    ) -> Self {
        let header = format!(
            r#"{{"alg":"{}","kid":{},"typ":"JWT"}}"#,
            signer.algorithm().jws_name(),
            serde_json::Value::from(kid.as_str())
        );
        let header = URL_SAFE_NO_PAD.encode(header) + ".";
        Self { trust_domain, signer, kid, header, issued_at, not_after }
    }

    /// The trust domain that it signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its key.
    #[must_use]
    pub fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    /// Key id, which is also the authority id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// When it was prepared, in seconds since 1970.
    #[must_use]
    pub fn issued_at(&self) -> i64 {
        self.issued_at
    }

    /// End of its validity, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

/// What a token should say.
#[derive(Clone, Copy, Debug)]
pub struct JwtTemplate<'a> {
    /// Whose it is: a member of the authority's trust domain.
    pub spiffe_id: &'a SpiffeId,
    /// For whom it is; empty values are dropped, and one must remain.
    pub audience: &'a [String],
    /// How long it should live, from `now`; cut at the end of the authority.
    pub ttl: Duration,
    /// The time of issue.
    pub now: SystemTime,
    /// The `iss` claim, if configured.
    pub issuer: Option<&'a str>,
    /// The `jti` claim, if the entry asks for one.
    pub jti: Option<&'a str>,
}

/// A token that was signed. `Debug` hides it.
#[derive(Clone)]
pub struct SignedJwt {
    /// The token: a bearer secret.
    pub token: String,
    /// When it was made, in seconds since 1970.
    pub issued_at: i64,
    /// When it ends, in seconds since 1970.
    pub expires_at: i64,
}

impl fmt::Debug for SignedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, issued_at, expires_at } = self;
        write!(f, "SignedJwt(issued_at: {issued_at}, expires_at: {expires_at}, token: redacted)")
    }
}

/// No token was signed.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// Not an id of this trust domain.
    #[error("invalid JWT-SVID ID: {id:?} is not a member of trust domain {trust_domain:?}")]
    ForeignId {
        /// The id.
        id: String,
        /// Our trust domain.
        trust_domain: String,
    },
    /// The id names the trust domain itself.
    #[error("invalid JWT-SVID ID: {id:?} is not a member of trust domain {trust_domain:?}; path is empty")]
    NoPath {
        /// The id.
        id: String,
        /// Our trust domain.
        trust_domain: String,
    },
    /// No audience.
    #[error("invalid JWT-SVID audience: cannot be empty")]
    NoAudience,
    /// The authority has ended, or the TTL is zero.
    #[error("JWT-SVID would end at {expires_at}, which is not after now ({now}): is the clock right?")]
    Expired {
        /// End of the token, in seconds since 1970.
        expires_at: i64,
        /// Now, in seconds since 1970.
        now: i64,
    },
    /// The key did not sign.
    #[error("unable to sign JWT SVID")]
    Sign(#[source] SignError),
}

impl JwtError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::ForeignId { .. } | Self::NoPath { .. } | Self::NoAudience => Class::Caller,
            Self::Expired { .. } => Class::Transient,
            Self::Sign(error) => error.class(),
        }
    }
}

/// Signs a token; on the spot if the key is in this process.
///
/// # Errors
///
/// [`JwtError`]; nothing is recorded anywhere, so any retry is safe.
pub async fn sign_jwt_svid(key: &JwtKey, template: &JwtTemplate<'_>) -> Result<SignedJwt, JwtError> {
    let draft = Draft::new(key, template)?;
    let signature = signer::sign(key.signer(), draft.text.as_bytes()).await.map_err(JwtError::Sign)?;
    draft.finish(key, &signature)
}

/// Signs a token without waiting, or gives `None` if the authority's key is elsewhere.
pub fn sign_jwt_svid_now(key: &JwtKey, template: &JwtTemplate<'_>) -> Option<Result<SignedJwt, JwtError>> {
    let draft = match Draft::new(key, template) {
        Ok(draft) => draft,
        Err(error) => return Some(Err(error)),
    };
    let signed = key.signer().sign_now(draft.text.as_bytes())?;
    Some(signed.map_err(JwtError::Sign).and_then(|signature| draft.finish(key, &signature)))
}

/// A token that lacks only its signature.
struct Draft {
    text: String,
    issued_at: i64,
    expires_at: i64,
}

impl Draft {
    fn new(key: &JwtKey, template: &JwtTemplate<'_>) -> Result<Self, JwtError> {
        check_member(key, template.spiffe_id)?;
        let issued_at = time::unix(template.now);
        let ttl = i64::try_from(template.ttl.as_secs()).unwrap_or(i64::MAX);
        let expires_at = issued_at.saturating_add(ttl).min(key.not_after);
        if expires_at <= issued_at {
            return Err(JwtError::Expired { expires_at, now: issued_at });
        }
        let claims = claims(template, issued_at, expires_at)?;
        let room = key.header.len() + 4 * claims.len().div_ceil(3) + ROOM_FOR_SIGNATURE;
        let mut text = String::with_capacity(room);
        text.push_str(&key.header);
        URL_SAFE_NO_PAD.encode_string(claims, &mut text);
        Ok(Self { text, issued_at, expires_at })
    }

    fn finish(mut self, key: &JwtKey, signature: &Signature) -> Result<SignedJwt, JwtError> {
        let fixed = signature.to_fixed(key.signer().algorithm()).map_err(JwtError::Sign)?;
        self.text.push('.');
        URL_SAFE_NO_PAD.encode_string(&fixed, &mut self.text);
        Ok(SignedJwt { token: self.text, issued_at: self.issued_at, expires_at: self.expires_at })
    }
}

fn check_member(key: &JwtKey, id: &SpiffeId) -> Result<(), JwtError> {
    let names = || (id.as_str().to_owned(), key.trust_domain.as_str().to_owned());
    if !id.is_member_of(&key.trust_domain) {
        let (id, trust_domain) = names();
        return Err(JwtError::ForeignId { id, trust_domain });
    }
    if id.path().is_empty() {
        let (id, trust_domain) = names();
        return Err(JwtError::NoPath { id, trust_domain });
    }
    Ok(())
}

/// The claims as JSON, in the order of the reference, which sorts them. JWT-SVID §3.1 to §3.3 ask for `sub`,
/// `aud` and `exp`; `aud` is always a list.
fn claims(template: &JwtTemplate<'_>, issued_at: i64, expires_at: i64) -> Result<Vec<u8>, JwtError> {
    use std::io::Write;

    let audience = template.audience.iter().filter(|audience| !audience.is_empty());
    let mut json = Vec::with_capacity(320);
    json.extend_from_slice(b"{\"aud\":[");
    let start = json.len();
    for each in audience {
        if json.len() > start {
            json.push(b',');
        }
        write_text(&mut json, each);
    }
    if json.len() == start {
        return Err(JwtError::NoAudience);
    }
    // Writing to a Vec cannot fail.
    let _written = write!(json, "],\"exp\":{expires_at},\"iat\":{issued_at}");
    for (name, value) in [("iss", template.issuer), ("jti", template.jti)] {
        if let Some(value) = value {
            let _written = write!(json, ",\"{name}\":");
            write_text(&mut json, value);
        }
    }
    json.extend_from_slice(b",\"sub\":");
    write_text(&mut json, template.spiffe_id.as_str());
    json.push(b'}');
    Ok(json)
}

fn write_text(json: &mut Vec<u8>, text: &str) {
    // Writing text to a Vec cannot fail.
    let _written = serde_json::to_writer(json, text);
}

/// An RSA-4096 signature in base64url and the dot before it is 684 bytes; the usual P-256 one is 87.
const ROOM_FOR_SIGNATURE: usize = 132;

#[cfg(test)]
mod tests;
