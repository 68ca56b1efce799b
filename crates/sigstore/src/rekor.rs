//! The transparency log's promise that comes with a signature: the entry, and the log's signature over it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use crate::excerpt::excerpt;
use crate::trust::{LogError, LogKeys};

/// cosign's annotation `dev.sigstore.cosign/bundle`.
#[derive(Debug, Deserialize)]
pub(crate) struct Bundle {
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    payload: Payload,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// What is known of a signature from the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Logged {
    pub(crate) log_id: String,
    pub(crate) log_index: i64,
    /// Seconds since 1970.
    pub(crate) integrated_time: i64,
    /// The log's signature, in base64.
    pub(crate) promise: String,
}

/// What the entry must be about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) payload_digest: &'a [u8; 32],
    pub(crate) certificate: &'a CertificateDer<'a>,
    /// The signature, unless it is in the payload.
    pub(crate) signature: Option<&'a [u8]>,
}

impl Bundle {
    pub(crate) fn parse(annotation: &str) -> Result<Self, BundleError> {
        serde_json::from_str(annotation).map_err(|_| BundleError::Unreadable)
    }

    /// Verifies that a log of `logs` has promised an entry `about` this signature.
    pub(crate) fn verify(&self, about: About<'_>, logs: &LogKeys) -> Result<Logged, BundleError> {
        let Payload { body, integrated_time, log_index, log_id } = &self.payload;
        let entry = BASE64_STANDARD.decode(body).map_err(|_| BundleError::Unreadable)?;
        Entry::parse(&entry)?.compare(about)?;
        // It is a SHA-256, and goes into errors and selectors.
        if log_id.len() != 64 {
            return Err(BundleError::Unreadable);
        }
        let id = hex::decode(log_id).map_err(|_| BundleError::Unreadable)?;
        let promise = BASE64_STANDARD.decode(&self.promise).map_err(|_| BundleError::Unreadable)?;
        // Canonical JSON (RFC 8785): sorted, without spaces. Base64 and hexadecimal need no escapes, and greater numbers
        // than 2^53 have another form.
        if ![integrated_time, log_index].into_iter().all(|number| (0..1 << 53).contains(number)) {
            return Err(BundleError::Unreadable);
        }
        let message = format!(
            r#"{{"body":"{body}","integratedTime":{integrated_time},"logID":"{log_id}","logIndex":{log_index}}}"#
        );
        logs.verify(&id, *integrated_time, message.as_bytes(), &promise).map_err(BundleError::Log)?;
        Ok(Logged {
            log_id: log_id.clone(),
            log_index: *log_index,
            integrated_time: *integrated_time,
            promise: BASE64_STANDARD.encode(promise),
        })
    }
}

/// What of an entry is compared.
struct Entry {
    hash: Hash,
    /// PEM, in base64.
    certificate: String,
    signature: Option<String>,
}

impl Entry {
    fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let kind: Kind = serde_json::from_slice(json).map_err(|_| BundleError::Unreadable)?;
        let spec = kind.spec;
        fn of<T: serde::de::DeserializeOwned>(spec: serde_json::Value) -> Result<T, BundleError> {
            serde_json::from_value(spec).map_err(|_| BundleError::Unreadable)
        }
        match (kind.kind.as_str(), kind.api_version.as_str()) {
            ("hashedrekord" | "rekord", "0.0.1") => {
                let HashedRekord { data, signature } = of(spec)?;
                Ok(Self {
                    hash: data.hash,
                    certificate: signature.public_key.content,
                    signature: Some(signature.content),
                })
            }
            ("dsse", "0.0.1") => {
                let Dsse { envelope_hash, signatures } = of(spec)?;
                let [one] =
                    <[DsseSignature; 1]>::try_from(signatures).map_err(|_| BundleError::Unreadable)?;
                Ok(Self { hash: envelope_hash, certificate: one.verifier, signature: None })
            }
            ("intoto", "0.0.1") => {
                let Intoto1 { content, public_key } = of(spec)?;
                Ok(Self { hash: content.hash, certificate: public_key, signature: None })
            }
            ("intoto", "0.0.2") => {
                let Intoto2 { content } = of(spec)?;
                let [one] = <[Intoto2Signature; 1]>::try_from(content.envelope.signatures)
                    .map_err(|_| BundleError::Unreadable)?;
                Ok(Self { hash: content.hash, certificate: one.public_key, signature: None })
            }
            _ => {
                let (kind, version) = (excerpt(kind.kind), excerpt(kind.api_version));
                Err(BundleError::Kind { kind, version })
            }
        }
    }

    fn compare(&self, about: About<'_>) -> Result<(), BundleError> {
        if self.hash.algorithm != "sha256" || self.hash.value != hex::encode(about.payload_digest) {
            return Err(BundleError::OtherPayload);
        }
        let pem = BASE64_STANDARD.decode(&self.certificate).map_err(|_| BundleError::Unreadable)?;
        if CertificateDer::from_pem_slice(&pem).ok().as_ref() != Some(about.certificate) {
            return Err(BundleError::OtherCertificate);
        }
        let Some(signature) = about.signature else { return Ok(()) };
        let logged = self.signature.as_ref().and_then(|signature| BASE64_STANDARD.decode(signature).ok());
        if logged.as_deref() == Some(signature) { Ok(()) } else { Err(BundleError::OtherSignature) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    kind: String,
    api_version: String,
    spec: serde_json::Value,
}

#[derive(Deserialize)]
struct HashedRekord {
    data: Hashed,
    signature: HashedSignature,
}

#[derive(Deserialize)]
struct Hashed {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HashedSignature {
    content: String,
    public_key: Content,
}

#[derive(Deserialize)]
struct Content {
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dsse {
    envelope_hash: Hash,
    signatures: Vec<DsseSignature>,
}

#[derive(Deserialize)]
struct DsseSignature {
    verifier: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intoto1 {
    content: Hashed,
    public_key: String,
}

#[derive(Deserialize)]
struct Intoto2 {
    content: Intoto2Content,
}

#[derive(Deserialize)]
struct Intoto2Content {
    hash: Hash,
    envelope: Intoto2Envelope,
}

#[derive(Deserialize)]
struct Intoto2Envelope {
    signatures: Vec<Intoto2Signature>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intoto2Signature {
    public_key: String,
}

/// Why a log's promise does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("the transparency log's entry cannot be read")]
    Unreadable,
    #[error("the transparency log's entry is of the kind {kind:?} {version:?}, which is not known")]
    Kind { kind: String, version: String },
    #[error("the transparency log's entry is about another payload")]
    OtherPayload,
    #[error("the transparency log's entry has another certificate")]
    OtherCertificate,
    #[error("the transparency log's entry has another signature")]
    OtherSignature,
    #[error("the transparency log's promise does not count")]
    Log(#[source] LogError),
}
