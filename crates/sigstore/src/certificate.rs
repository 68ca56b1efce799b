//! A signer's certificate: whom it names, and whether it leads to an authority.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};
use x509_parser::der_parser::{Oid, oid};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der;
use crate::trust::{Authority, SIGNATURES, Trust};

/// A certificate that came with a signature. Nothing of it is verified yet.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) der: CertificateDer<'static>,
    /// All subject alternative names, in cosign's order.
    pub(crate) subjects: Vec<String>,
    /// Who vouched for the subject towards the authority. Empty when the certificate does not say.
    pub(crate) issuer: String,
    signs_code: bool,
}

impl Signer {
    /// The first certificate of `pem`.
    pub(crate) fn parse(pem: &str) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::Unreadable)?;
        let Ok(([], certificate)) = X509Certificate::from_der(&der) else {
            return Err(CertificateError::Unreadable);
        };
        let unreadable = |_| CertificateError::Unreadable;
        let subjects = subjects(&certificate)?;
        let issuer = certificate.get_extension_unique(&ISSUER).map_err(unreadable)?;
        let issuer = issuer.map_or(&[][..], |extension| extension.value);
        let issuer = String::from_utf8(issuer.to_vec()).map_err(|_| CertificateError::Unreadable)?;
        let usage = certificate.extended_key_usage().map_err(unreadable)?;
        let signs_code = usage.is_some_and(|usage| usage.value.code_signing);
        Ok(Self { subjects, issuer, signs_code, der: der.clone() })
    }

    /// Finds the way to an authority at the time `unix`, through `between` and what `trust` has. Returns the issuer's
    /// key (`SubjectPublicKeyInfo`).
    pub(crate) fn issued_by(
        &self,
        between: &[CertificateDer<'static>],
        trust: &Trust,
        unix: i64,
    ) -> Result<Vec<u8>, CertificateError> {
        if !self.signs_code {
            return Err(CertificateError::Purpose);
        }
        let authorities: Vec<&Authority> =
            trust.authorities.iter().filter(|authority| authority.counts_at(unix)).collect();
        let anchors: Vec<_> = authorities.iter().map(|authority| authority.anchor.clone()).collect();
        let between: Vec<_> = trust.intermediates.iter().chain(between).cloned().collect();
        let seconds = u64::try_from(unix).map_err(|_| CertificateError::Time)?;
        let leaf = EndEntityCert::try_from(&self.der).map_err(CertificateError::Path)?;
        let path = leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &between,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            None,
        );
        let path = path.map_err(CertificateError::Path)?;
        if let Some(issuer) = path.intermediate_certificates().next() {
            let der = issuer.der();
            let (_, issuer) = X509Certificate::from_der(&der).map_err(|_| CertificateError::Unreadable)?;
            return Ok(issuer.public_key().raw.to_vec());
        }
        let anchor = path.anchor();
        let same = |authority: &&&Authority| {
            authority.anchor.subject == anchor.subject
                && authority.anchor.subject_public_key_info == anchor.subject_public_key_info
        };
        authorities.iter().find(same).map(|root| root.spki.clone()).ok_or(CertificateError::Unreadable)
    }

    /// Whether the key of this certificate made `signature` over `message`.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(leaf) = EndEntityCert::try_from(&self.der) else { return false };
        SIGNATURES.iter().any(|algorithm| leaf.verify_signature(*algorithm, message, signature).is_ok())
    }
}

/// The certificates between signer and authority that came with a signature.
pub(crate) fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        if found.len() == MAX_CHAIN {
            return Err(CertificateError::LongChain);
        }
        found.push(der.map_err(|_| CertificateError::Unreadable)?);
    }
    Ok(found)
}

/// Names of hosts, then mail addresses, IP addresses, URIs and Fulcio's own kind of name.
fn subjects(certificate: &X509Certificate<'_>) -> Result<Vec<String>, CertificateError> {
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Unreadable)?;
    let mut sorted: [Vec<String>; 5] = Default::default();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let (place, text) = match name {
            GeneralName::DNSName(name) => (0, (*name).to_owned()),
            GeneralName::RFC822Name(address) => (1, (*address).to_owned()),
            GeneralName::IPAddress(octets) => (2, address(octets).ok_or(CertificateError::Unreadable)?),
            GeneralName::URI(uri) => (3, (*uri).to_owned()),
            GeneralName::OtherName(kind, value) if *kind == FULCIO_NAME => {
                (4, other_name(value).ok_or(CertificateError::Unreadable)?)
            }
            GeneralName::Invalid(..) => return Err(CertificateError::Unreadable),
            _ => continue,
        };
        sorted[place].push(text);
    }
    Ok(sorted.into_iter().flatten().collect())
}

fn address(octets: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|sixteen| Ipv6Addr::from(sixteen).to_string())
}

fn other_name(value: &[u8]) -> Option<String> {
    let text = der::only(der::only(value, der::CONTEXT_0)?, der::UTF8_STRING)?;
    String::from_utf8(text.to_vec()).ok()
}

/// Fulcio: the OIDC issuer, as plain text.
const ISSUER: Oid<'static> = oid!(1.3.6.1.4.1.57264.1.1);
/// Fulcio: a name that is neither of a host nor an address nor a URI.
const FULCIO_NAME: Oid<'static> = oid!(1.3.6.1.4.1.57264.1.7);
/// `id-kp-codeSigning`, RFC 5280 §4.2.1.12.
const CODE_SIGNING: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 3];

/// Certificates that come with a signature; Fulcio sends two.
const MAX_CHAIN: usize = 8;

/// Why a certificate does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the certificate or its chain cannot be read")]
    Unreadable,
    #[error("the chain has more than {MAX_CHAIN} certificates")]
    LongChain,
    #[error("the certificate is not for code signing")]
    Purpose,
    #[error("the time of signing is before 1970")]
    Time,
    #[error("the certificate does not lead to a trusted authority at the time of signing: {0}")]
    Path(webpki::Error),
}
