//! What a node's certificate says.

use std::net::IpAddr;

use sha1::{Digest, Sha1};
use vouchsafe_types::certificate::Certificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

/// The leaf of a node's chain.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) fingerprint: String,
    pub(super) serial: String,
    pub(super) serial_hex: String,
    pub(super) common_name: String,
    pub(super) subject_serial_number: String,
    pub(super) issuer_common_name: String,
    pub(super) uris: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) public_key_der: Vec<u8>,
    /// Bits of its RSA key, if it is one.
    pub(super) rsa_bits: Option<usize>,
    /// Whether its key may make signatures.
    pub(super) signs: bool,
}

impl Leaf {
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        let plain = Certificate::parse(der).map_err(|cause| cause.to_string())?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(|cause| cause.to_string())?;
        Ok(Self {
            fingerprint: fingerprint(der),
            serial: plain.serial,
            serial_hex: serial_hex(parsed.raw_serial()),
            common_name: text(parsed.subject().iter_common_name()),
            subject_serial_number: text(parsed.subject().iter_by_oid(&SERIAL_NUMBER)),
            issuer_common_name: text(issuer(&parsed).iter_common_name()),
            uris: plain.uris,
            addresses: addresses(&parsed),
            public_key_der: plain.public_key_der,
            rsa_bits: rsa_bits(&parsed),
            signs: plain.key_usage.is_some_and(|usage| usage.digital_signature),
        })
    }
}

/// Bits of the RSA key of a certificate, if it has one.
pub(super) fn rsa_bits_of(der: &[u8]) -> Result<Option<usize>, String> {
    let (rest, parsed) = X509Certificate::from_der(der).map_err(|cause| cause.to_string())?;
    if rest.is_empty() { Ok(rsa_bits(&parsed)) } else { Err("x509: trailing data".to_owned()) }
}

/// SHA-1 of a certificate in hex: what SPIRE names certificates by. It identifies, it protects nothing.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha1::digest(der))
}

/// Two digits a byte; of a sign byte nothing remains.
fn serial_hex(bytes: &[u8]) -> String {
    let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    if digits.is_empty() { "00".to_owned() } else { hex::encode(digits) }
}

fn issuer<'a>(certificate: &'a X509Certificate<'_>) -> &'a X509Name<'a> {
    certificate.issuer()
}

/// The last one counts, as in Go.
fn text<'a>(attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> String {
    attributes.last().and_then(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned()
}

fn addresses(certificate: &X509Certificate<'_>) -> Vec<IpAddr> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok(),
        _ => None,
    };
    names.value.general_names.iter().filter_map(address).map(|address| address.to_canonical()).collect()
}

fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => {
            let digits = &key.modulus[key.modulus.iter().take_while(|byte| **byte == 0).count()..];
            Some(digits.len() * 8 - digits.first().map_or(0, |first| first.leading_zeros() as usize))
        }
        _ => None,
    }
}

/// `serialNumber` of a name, which is not the number of the certificate.
const SERIAL_NUMBER: x509_parser::der_parser::oid::Oid<'static> =
    x509_parser::oid_registry::OID_X509_SERIALNUMBER;
