//! What is signed: cosign's claim about an image, or an attestation about it in an envelope.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde::Deserialize;

use crate::excerpt::excerpt;

/// Whether `payload` (simple signing) claims the image with `digest`.
pub(crate) fn claims(payload: &[u8], digest: &str) -> Result<(), PayloadError> {
    let claim: SimpleSigning = serde_json::from_slice(payload).map_err(|_| PayloadError::Unreadable)?;
    let claimed = claim.critical.image.docker_manifest_digest;
    if claimed == digest { Ok(()) } else { Err(PayloadError::OtherImage { claimed: excerpt(&claimed) }) }
}

/// An envelope (DSSE) with a statement (in-toto).
#[derive(Debug)]
pub(crate) struct Envelope {
    /// What was signed: type and content, each with its length.
    pub(crate) signed: Vec<u8>,
    pub(crate) signatures: Vec<Vec<u8>>,
    content: Vec<u8>,
}

impl Envelope {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let RawEnvelope { payload_type, payload, signatures } =
            serde_json::from_slice(payload).map_err(|_| PayloadError::Unreadable)?;
        if payload_type != IN_TOTO {
            return Err(PayloadError::Type { payload_type: excerpt(&payload_type) });
        }
        let content = decoded(&payload).ok_or(PayloadError::Unreadable)?;
        let mut signed =
            format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), content.len()).into_bytes();
        signed.extend(&content);
        let signatures = signatures.iter().take(MAX_SIGNATURES).filter_map(|raw| decoded(&raw.sig)).collect();
        Ok(Self { signed, signatures, content })
    }

    /// Whether the statement is about the image with `digest`.
    pub(crate) fn is_about(&self, digest: &str) -> Result<(), PayloadError> {
        let statement: Statement =
            serde_json::from_slice(&self.content).map_err(|_| PayloadError::Unreadable)?;
        let wanted = digest.strip_prefix("sha256:").unwrap_or(digest);
        let named = statement.subject.iter().any(|subject| subject.digest.sha256.as_deref() == Some(wanted));
        if named { Ok(()) } else { Err(PayloadError::OtherSubject) }
    }
}

fn decoded(base64: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(base64).or_else(|_| BASE64_URL_SAFE.decode(base64)).ok()
}

/// As much as an error needs.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Signatures of an envelope that are looked at; cosign makes one.
const MAX_SIGNATURES: usize = 8;

#[derive(Deserialize)]
struct SimpleSigning {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope {
    payload_type: String,
    payload: String,
    signatures: Vec<RawSignature>,
}

#[derive(Deserialize)]
struct RawSignature {
    sig: String,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(default)]
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digests,
}

#[derive(Deserialize)]
struct Digests {
    sha256: Option<String>,
}

/// Why a payload does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("what is signed cannot be read")]
    Unreadable,
    #[error("what is signed is about another image, {claimed:?}")]
    OtherImage { claimed: String },
    #[error("the attestation is about other subjects than this image")]
    OtherSubject,
    #[error("the attestation has the type {payload_type:?} instead of {IN_TOTO}")]
    Type { payload_type: String },
}
