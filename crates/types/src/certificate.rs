//! The few fields of an X.509 certificate that SPIFFE cares about. Nothing here verifies a signature.

use std::sync::Arc;

use x509_parser::asn1_rs::Oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::prelude::FromDer;

#[cfg(test)]
pub(crate) mod tests;

/// What one certificate says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// Serial number in decimal.
    pub serial: String,
    /// First second of its validity, in Unix seconds.
    pub not_before: i64,
    /// Last second of its validity, in Unix seconds.
    pub not_after: i64,
    /// Its subject as DER, to be copied and compared byte for byte.
    pub subject_der: Vec<u8>,
    /// Its issuer as DER, to be copied and compared byte for byte.
    pub issuer_der: Vec<u8>,
    /// Its public key as SPKI DER.
    pub public_key_der: Vec<u8>,
    /// Its subject key identifier; empty if it has none.
    pub subject_key_id: Vec<u8>,
    /// The key identifier of its issuer; empty if it has none.
    pub authority_key_id: Vec<u8>,
    /// The `cA` flag of its basic constraints; false if it has none.
    pub is_ca: bool,
    /// What its key may be used for, if it says so.
    pub key_usage: Option<KeyUsage>,
    /// URIs among its subject alternative names.
    pub uris: Vec<String>,
    /// DNS names among its subject alternative names.
    pub dns_names: Vec<String>,
}

/// The bits of a key usage extension that the X509-SVID standard names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KeyUsage {
    /// Whether the extension is critical.
    pub critical: bool,
    /// `digitalSignature`.
    pub digital_signature: bool,
    /// `keyCertSign`.
    pub cert_sign: bool,
    /// `cRLSign`.
    pub crl_sign: bool,
}

impl Certificate {
    /// Reads exactly one certificate.
    ///
    /// # Errors
    ///
    /// Not a certificate, something after it, a bound exceeded, or an extension of interest that is broken or
    /// present twice (RFC 5280 §4.2: "A certificate MUST NOT include more than one instance of a particular
    /// extension.").
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong);
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::TrailingBytes);
        }
        // RFC 5280 §4.1.2.2: "CAs MUST force the serialNumber to be a non-negative integer." and "Conforming CAs
        // MUST NOT use serialNumber values longer than 20 octets." One more is a sign octet.
        let serial = certificate.raw_serial();
        let negative = serial.first().is_some_and(|first| first & 0x80 != 0);
        if serial.len() > MAX_SERIAL_BYTES || negative {
            return Err(CertificateError::Serial);
        }
        let (uris, dns_names) = subject_alternative_names(&certificate)?;
        Ok(Self {
            serial: certificate.tbs_certificate.serial.to_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            subject_der: certificate.subject().as_raw().to_vec(),
            issuer_der: certificate.issuer().as_raw().to_vec(),
            public_key_der: certificate.public_key().raw.to_vec(),
            subject_key_id: subject_key_id(&certificate)?,
            authority_key_id: authority_key_id(&certificate)?,
            is_ca: is_ca(&certificate)?,
            key_usage: key_usage(&certificate)?,
            uris,
            dns_names,
        })
    }

    /// The name of this authority in the local authority API and in the journal: its subject key identifier in
    /// lower-case hex.
    #[must_use]
    pub fn authority_id(&self) -> String {
        hex(&self.subject_key_id)
    }

    /// The name of the authority that issued this certificate: its authority key identifier in lower-case hex.
    #[must_use]
    pub fn issuer_authority_id(&self) -> String {
        hex(&self.authority_key_id)
    }
}

/// Splits certificates that follow each other without a separator, as the Workload API sends them.
///
/// # Errors
///
/// Something that is not a sequence of DER, or a bound exceeded. What the certificates say is not looked at.
pub fn split(concatenated: &[u8]) -> Result<Vec<Arc<[u8]>>, CertificateError> {
    let mut certificates = Vec::new();
    let mut rest = concatenated;
    while !rest.is_empty() {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(CertificateError::TooMany);
        }
        let length = der_length(rest).filter(|_| rest[0] == SEQUENCE).ok_or(CertificateError::Malformed)?;
        if length > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong);
        }
        let (certificate, tail) = rest.split_at_checked(length).ok_or(CertificateError::Malformed)?;
        certificates.push(certificate.into());
        rest = tail;
    }
    Ok(certificates)
}

/// Joins certificates without a separator, as the Workload API sends them.
pub fn join<'a>(certificates: impl IntoIterator<Item = &'a Arc<[u8]>>) -> Vec<u8> {
    certificates.into_iter().flat_map(|der| der.iter().copied()).collect()
}

/// Bytes of the DER value that `bytes` starts with, its header included.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let [_, first, rest @ ..] = bytes else { return None };
    if *first < 0x80 {
        return Some(usize::from(*first) + 2);
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return None;
    }
    let length = rest.get(..count)?.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    length.checked_add(2 + count)
}

fn is_ca(certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    const NAME: &str = "basic constraints";
    match extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS, NAME)? {
        None => Ok(false),
        // The reader's own accessor takes a broken extension for an absent one, which would make a CA a leaf.
        Some((_, ParsedExtension::BasicConstraints(constraints))) => Ok(constraints.ca),
        Some(_) => Err(CertificateError::Extension(NAME)),
    }
}

fn key_usage(certificate: &X509Certificate<'_>) -> Result<Option<KeyUsage>, CertificateError> {
    const NAME: &str = "key usage";
    match extension(certificate, &OID_X509_EXT_KEY_USAGE, NAME)? {
        None => Ok(None),
        Some((critical, ParsedExtension::KeyUsage(usage))) => Ok(Some(KeyUsage {
            critical,
            digital_signature: usage.digital_signature(),
            cert_sign: usage.key_cert_sign(),
            crl_sign: usage.crl_sign(),
        })),
        Some(_) => Err(CertificateError::Extension(NAME)),
    }
}

fn subject_alternative_names(
    certificate: &X509Certificate<'_>,
) -> Result<(Vec<String>, Vec<String>), CertificateError> {
    const NAME: &str = "subject alternative name";
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    let names = match extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME, NAME)? {
        None => return Ok((uris, dns_names)),
        Some((_, ParsedExtension::SubjectAlternativeName(names))) => &names.general_names,
        Some(_) => return Err(CertificateError::Extension(NAME)),
    };
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => dns_names.push((*dns).to_owned()),
            // A name that cannot be read must not hide a second URI.
            GeneralName::Invalid(..) => return Err(CertificateError::Extension(NAME)),
            _ => {}
        }
    }
    Ok((uris, dns_names))
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, CertificateError> {
    const NAME: &str = "subject key identifier";
    match extension(certificate, &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, NAME)? {
        None => Ok(Vec::new()),
        Some((_, ParsedExtension::SubjectKeyIdentifier(id))) => Ok(id.0.to_vec()),
        Some(_) => Err(CertificateError::Extension(NAME)),
    }
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, CertificateError> {
    const NAME: &str = "authority key identifier";
    match extension(certificate, &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, NAME)? {
        None => Ok(Vec::new()),
        Some((_, ParsedExtension::AuthorityKeyIdentifier(id))) => {
            Ok(id.key_identifier.as_ref().map(|key| key.0.to_vec()).unwrap_or_default())
        }
        Some(_) => Err(CertificateError::Extension(NAME)),
    }
}

/// The only extension of this kind, whether it is critical, and what it says; its value must be one DER value,
/// with nothing after it that another reader might see.
fn extension<'c>(
    certificate: &'c X509Certificate<'_>,
    oid: &Oid<'_>,
    name: &'static str,
) -> Result<Option<(bool, &'c ParsedExtension<'c>)>, CertificateError> {
    let broken = CertificateError::Extension(name);
    let Some(found) = certificate.get_extension_unique(oid).map_err(|_| broken)? else { return Ok(None) };
    if der_length(found.value) != Some(found.value.len()) {
        return Err(broken);
    }
    Ok(Some((found.critical, found.parsed_extension())))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]).collect()
}

/// Why bytes are no certificate of use here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Longer than [`MAX_CERTIFICATE_BYTES`].
    #[error("certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_CERTIFICATES`].
    #[error("more than {MAX_CERTIFICATES} certificates")]
    TooMany,
    /// Not DER of a certificate.
    #[error("not a DER-encoded X.509 certificate")]
    Malformed,
    /// Something follows the certificate.
    #[error("bytes after the certificate")]
    TrailingBytes,
    /// The serial number is negative or longer than 20 bytes.
    #[error("certificate serial number is negative or longer than 20 bytes")]
    Serial,
    /// The named extension is broken or present twice.
    #[error("certificate extension {0} is malformed or present twice")]
    Extension(&'static str),
}

/// Longest certificate. A longer one is refused.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Most certificates in one concatenation. More are refused.
pub const MAX_CERTIFICATES: usize = 4096;
const MAX_SERIAL_BYTES: usize = 21;
const SEQUENCE: u8 = 0x30;
