//! One signature or attestation: verified, or why not. Pure.
//!
//! In this order, each from what was verified before: the log's promise is about this payload, certificate and
//! signature, and gives the time of signing (without logs it is now) → at that time the certificate leads to an
//! authority, for code signing → the signer is allowed → the certificate is in a certificate log → the certificate's key
//! made the signature → what is signed names this image.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::certificate::{self, CertificateError, Signer};
use crate::digest::sha256;
use crate::identity::Allowed;
use crate::manifest::Layer;
use crate::payload::{self, Envelope, PayloadError};
use crate::rekor::{About, Bundle, BundleError, Logged};
use crate::sct::{self, SctError};
use crate::trust::Trust;

/// What a signature must fulfil.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Who may sign.
    pub(crate) allowed: Allowed,
    /// Whether a log must have promised the signature.
    pub(crate) tlog: bool,
    /// Whether the certificate must be in a certificate log.
    pub(crate) sct: bool,
}

/// What verification needs besides the signature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// `sha256:…` of the image.
    pub(crate) digest: &'a str,
    /// What is asked for.
    pub(crate) policy: &'a Policy,
    /// Whom to believe.
    pub(crate) trust: &'a Trust,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

/// A verified signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Verified {
    subject: String,
    issuer: String,
    /// Base64, as the annotation has it.
    signature: String,
    logged: Option<Logged>,
}

impl Verified {
    /// What SPIRE says of it.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = String> {
        let of_log = self.logged.as_ref().map(|logged| {
            [
                format!("image-signature-log-id:{}", logged.log_id),
                format!("image-signature-log-index:{}", logged.log_index),
                format!("image-signature-integrated-time:{}", logged.integrated_time),
                format!("image-signature-signed-entry-timestamp:{}", logged.promise),
            ]
        });
        [
            format!("image-signature-subject:{}", self.subject),
            format!("image-signature-issuer:{}", self.issuer),
            format!("image-signature-value:{}", self.signature),
        ]
        .into_iter()
        .chain(of_log.into_iter().flatten())
    }
}

/// Verifies the signature `layer` over `payload`.
pub(crate) fn signature(layer: &Layer, payload: &[u8], context: Context<'_>) -> Result<Verified, Refusal> {
    let text = layer.annotation(SIGNATURE).ok_or(Refusal::NoSignature)?;
    let made = BASE64_STANDARD.decode(text).map_err(|_| Refusal::NoSignature)?;
    let (signer, logged) = signer(layer, payload, Some(&made), context)?;
    if !signer.signed(payload, &made) {
        return Err(Refusal::Signature);
    }
    payload::claims(payload, context.digest).map_err(Refusal::Payload)?;
    // SPIRE has no selectors for a signature whose signer has no name.
    let subject =
        signer.subjects.into_iter().find(|subject| !subject.is_empty()).ok_or(Refusal::NoSubject)?;
    if signer.issuer.is_empty() {
        return Err(Refusal::NoIssuer);
    }
    Ok(Verified { subject, issuer: signer.issuer, signature: text.to_owned(), logged })
}

/// Verifies the attestation `layer` with the envelope `payload`.
pub(crate) fn attestation(layer: &Layer, payload: &[u8], context: Context<'_>) -> Result<(), Refusal> {
    let (signer, _) = signer(layer, payload, None, context)?;
    let envelope = Envelope::parse(payload).map_err(Refusal::Payload)?;
    if !envelope.signatures.iter().any(|made| signer.signed(&envelope.signed, made)) {
        return Err(Refusal::Signature);
    }
    envelope.is_about(context.digest).map_err(Refusal::Payload)
}

/// Who signed, if that one is to be believed and allowed.
fn signer(
    layer: &Layer,
    payload: &[u8],
    signature: Option<&[u8]>,
    context: Context<'_>,
) -> Result<(Signer, Option<Logged>), Refusal> {
    let Context { policy, trust, now, .. } = context;
    let signer = Signer::parse(layer.annotation(CERTIFICATE).ok_or(Refusal::NoCertificate)?);
    let signer = signer.map_err(Refusal::Certificate)?;
    let logged = if policy.tlog {
        let bundle =
            Bundle::parse(layer.annotation(BUNDLE).ok_or(Refusal::NoBundle)?).map_err(Refusal::Bundle)?;
        let payload_digest = &sha256(payload);
        let about = About { payload_digest, certificate: &signer.der, signature };
        Some(bundle.verify(about, &trust.rekor).map_err(Refusal::Bundle)?)
    } else {
        None
    };
    let at = logged.as_ref().map_or(now, |logged| logged.integrated_time);
    let between =
        certificate::chain(layer.annotation(CHAIN).unwrap_or_default()).map_err(Refusal::Certificate)?;
    let issuer_key = signer.issued_by(&between, trust, at).map_err(Refusal::Certificate)?;
    if !policy.allowed.has(&signer.issuer, &signer.subjects) {
        return Err(Refusal::NotAllowed { issuer: signer.issuer, subjects: signer.subjects });
    }
    if policy.sct {
        sct::verify(&signer.der, &issuer_key, &trust.ct).map_err(Refusal::Sct)?;
    }
    Ok((signer, logged))
}

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";

/// Why a signature or an attestation does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The annotation is missing or not base64.
    #[error("it has no signature")]
    NoSignature,
    /// It was made with a key pair; SPIRE knows certificates only.
    #[error("it has no certificate: it was signed with a key, which says nothing about the signer")]
    NoCertificate,
    /// Nobody but the signer says when it was made.
    #[error("it has no transparency log entry; sign with one, or set ignore_tlog")]
    NoBundle,
    /// The certificate names nobody.
    #[error("its certificate has no subject")]
    NoSubject,
    /// Nobody vouched for the subject.
    #[error("its certificate has no OIDC issuer")]
    NoIssuer,
    /// Somebody else signed.
    #[error("its signer is not allowed: subjects {subjects:?} of the issuer {issuer:?}")]
    NotAllowed {
        /// Who vouched.
        issuer: String,
        /// For whom.
        subjects: Vec<String>,
    },
    /// The certificate's key did not make it, or the payload has been changed.
    #[error("its signature does not fit what is signed")]
    Signature,
    /// The certificate does not count.
    #[error("{0}")]
    Certificate(CertificateError),
    /// The log's promise does not count.
    #[error("{}", with_cause(.0))]
    Bundle(BundleError),
    /// The certificate is not proven to be logged.
    #[error("{}", with_cause(.0))]
    Sct(SctError),
    /// What is signed does not count.
    #[error("{0}")]
    Payload(PayloadError),
}

/// These texts are joined into one error, so that the cause must be in them.
fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests;
