//! Authorities of signers' certificates.

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::validity::Period;

/// The end of a chain.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) anchor: TrustAnchor<'static>,
    /// `SubjectPublicKeyInfo`, whole.
    pub(crate) spki: Vec<u8>,
    /// When the certificate is valid, and when it was in use.
    valid: [Period; 2],
}

impl Authority {
    pub(super) fn new(der: &[u8], used: Period) -> Result<Self, &'static str> {
        let certificate = CertificateDer::from(der);
        let anchor =
            webpki::anchor_from_trusted_cert(&certificate).map_err(|_| "an authority is no certificate")?;
        let parsed = parsed(der)?;
        let validity = parsed.validity();
        let valid = Period {
            start: Some(validity.not_before.timestamp()),
            end: Some(validity.not_after.timestamp()),
        };
        Ok(Self { anchor: anchor.to_owned(), spki: parsed.public_key().raw.to_vec(), valid: [valid, used] })
    }

    /// Whether it vouched for anybody then.
    pub(crate) fn counts_at(&self, unix: i64) -> bool {
        self.valid.iter().all(|period| period.has(unix))
    }
}

pub(super) fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err("a certificate cannot be read"),
    }
}
