//! Whether a CA certificate leads to a root, by names and signatures.
//!
//! Not path validation: dates, constraints and usages are not looked at. It tells an operator which of two files is the
//! wrong one; whether SVIDs will verify is tried out with a real verifier.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::csr::signature_scheme;
use crate::public_key::PublicKey;

/// Whether `chain` (a CA certificate, then its intermediates in any order) leads to one of `roots`.
pub(crate) fn leads_to<C: AsRef<[u8]>>(chain: &[C], roots: &[C]) -> bool {
    let chain: Vec<_> = chain.iter().filter_map(read).collect();
    let roots: Vec<_> = roots.iter().filter_map(read).collect();
    let Some(mut at) = chain.first() else { return false };
    // Each step takes a certificate of the chain, so no more steps than certificates.
    for _ in 0..chain.len() {
        if roots.iter().any(|root| root.as_raw() == at.as_raw() || has_signed(root, at)) {
            return true;
        }
        let above =
            chain.iter().skip(1).find(|issuer| issuer.as_raw() != at.as_raw() && has_signed(issuer, at));
        let Some(above) = above else { return false };
        at = above;
    }
    false
}

fn read(der: &impl AsRef<[u8]>) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der.as_ref()).ok().map(|(_, certificate)| certificate)
}

fn has_signed(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return false;
    }
    let Some((scheme, hash)) = signature_scheme(certificate.signature_algorithm.algorithm.as_bytes()) else {
        return false;
    };
    let message = certificate.tbs_certificate.as_ref();
    let signature = &certificate.signature_value.data;
    PublicKey::parse(issuer.public_key().raw)
        .is_ok_and(|key| key.verify(scheme, hash, message, signature).is_ok())
}
