//! What the checks need to know of a certificate.

use crate::Failure;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The parsed parts of one certificate; key identifiers and the serial are hexadecimal.
pub struct Facts {
    pub serial: String,
    pub authority_key_id: String,
    pub subject_key_id: String,
    pub dns_names: Vec<String>,
    pub not_after: SystemTime,
}

impl Facts {
    pub fn read(der: &[u8]) -> Result<Self, Failure> {
        let (_, certificate) = X509Certificate::from_der(der)?;
        let not_after = u64::try_from(certificate.validity().not_after.timestamp())?;
        let mut facts = Self {
            serial: certificate.raw_serial_as_string(),
            authority_key_id: String::new(),
            subject_key_id: String::new(),
            dns_names: Vec::new(),
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key_id =
                        id.key_identifier.as_ref().map(|id| format!("{id:x}")).unwrap_or_default();
                }
                ParsedExtension::SubjectKeyIdentifier(id) => facts.subject_key_id = format!("{id:x}"),
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.dns_names.extend(names.general_names.iter().filter_map(|name| match name {
                        GeneralName::DNSName(name) => Some((*name).to_owned()),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// Builds a path from the leaf to one of the roots, for a TLS server and for a TLS client.
pub fn verify(chain: &[&[u8]], roots: &[&[u8]], now: SystemTime) -> Result<(), Failure> {
    let [leaf, intermediates @ ..] = chain else {
        return Err("an empty chain".into());
    };
    let roots: Vec<_> = roots.iter().map(|der| CertificateDer::from(*der)).collect();
    let anchors = roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>()?;
    let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(*der)).collect();
    let leaf = CertificateDer::from(*leaf);
    let leaf = EndEntityCert::try_from(&leaf)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH)?);
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &intermediates, now, usage, None, None)?;
    }
    Ok(())
}

/// Fails unless the PKCS#8 key is the one whose public half is in the certificate.
pub fn key_fits(leaf: &[u8], pkcs8: &[u8]) -> Result<(), Failure> {
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8)))?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(leaf.to_vec())], key).keys_match()?)
}
