//! The proof in a certificate that it is in a public log (RFC 6962): the authority asked the log before it signed.

use x509_parser::der_parser::{Oid, oid};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CtVersion, FromDer, SignedCertificateTimestamp, X509Certificate};

use crate::der;
use crate::digest::sha256;
use crate::trust::{LogError, LogKeys};

/// Verifies that every proof in `certificate` (DER) is by a log of `logs`, and that there is one. `issuer_key` is the
/// `SubjectPublicKeyInfo` of who signed the certificate.
pub(crate) fn verify(certificate: &[u8], issuer_key: &[u8], logs: &LogKeys) -> Result<(), SctError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| SctError::Unreadable)?;
    let extension = parsed.get_extension_unique(&SCT_LIST).map_err(|_| SctError::Unreadable)?;
    let extension = extension.ok_or(SctError::Missing)?;
    let ParsedExtension::SCT(timestamps) = extension.parsed_extension() else {
        return Err(SctError::Unreadable);
    };
    let logged = without_list(parsed.tbs_certificate.as_ref()).ok_or(SctError::Unreadable)?;
    for timestamp in timestamps {
        if timestamp.version != CtVersion::V1 {
            return Err(SctError::Unreadable);
        }
        let message = message(timestamp, issuer_key, &logged).ok_or(SctError::Unreadable)?;
        let unix = i64::try_from(timestamp.timestamp / 1000).map_err(|_| SctError::Unreadable)?;
        logs.verify(timestamp.id.key_id, unix, &message, timestamp.signature.data).map_err(SctError::Log)?;
    }
    if timestamps.is_empty() { Err(SctError::Missing) } else { Ok(()) }
}

/// What the log signed (RFC 6962 §3.2).
fn message(timestamp: &SignedCertificateTimestamp<'_>, issuer_key: &[u8], logged: &[u8]) -> Option<Vec<u8>> {
    const CERTIFICATE_TIMESTAMP: u8 = 0;
    const PRECERT_ENTRY: u16 = 1;
    let mut message = vec![timestamp.version.0, CERTIFICATE_TIMESTAMP];
    message.extend(timestamp.timestamp.to_be_bytes());
    message.extend(PRECERT_ENTRY.to_be_bytes());
    message.extend(sha256(issuer_key));
    let length = u32::try_from(logged.len()).ok().filter(|length| *length < 1 << 24)?;
    message.extend(&length.to_be_bytes()[1..]);
    message.extend(logged);
    message.extend(u16::try_from(timestamp.extensions.0.len()).ok()?.to_be_bytes());
    message.extend(timestamp.extensions.0);
    Some(message)
}

/// The body of a certificate (`TBSCertificate`) as it was before the proofs were put in.
fn without_list(body: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der::only(body, der::SEQUENCE)?;
    let mut kept = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let (field, after) = der::next(rest)?;
        rest = after;
        if field.tag == der::CONTEXT_3 {
            let extensions = extensions_without_list(der::only(field.content, der::SEQUENCE)?)?;
            kept.extend(der::element(der::CONTEXT_3, &der::element(der::SEQUENCE, &extensions)?)?);
        } else {
            kept.extend(field.whole);
        }
    }
    der::element(der::SEQUENCE, &kept)
}

fn extensions_without_list(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let (extension, after) = der::next(rest)?;
        rest = after;
        let (name, _) = der::next(extension.content)?;
        if name.tag != der::OBJECT_IDENTIFIER || name.content != SCT_LIST.as_bytes() {
            kept.extend(extension.whole);
        }
    }
    Some(kept)
}

/// `SignedCertificateTimestampList`, RFC 6962 §3.3.
const SCT_LIST: Oid<'static> = oid!(1.3.6.1.4.1.11129.2.4.2);

/// Why a certificate is not proven to be logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SctError {
    #[error("the certificate has no proof that it is in a certificate log")]
    Missing,
    #[error("the proof in the certificate that it is in a certificate log cannot be read")]
    Unreadable,
    #[error("the proof in the certificate that it is in a certificate log does not count")]
    Log(#[source] LogError),
}
