//! One authority vouches for the next.
//!
//! For the case that an authority has to sign before anybody can know it: who trusts the one before it reaches the new
//! one through this certificate, which has the new authority's name and key and the old one's signature. The old
//! certificate may be outside its validity: a trust anchor's dates are not part of path validation (RFC 5280 §6.1.1
//! d), and webpki does not look at them.

use super::BACKDATE_SECS;
use super::authority::{CaError, X509Ca};
use super::profile::{Name, Tbs};
use super::svid::OpenCertificate;
use crate::random::serial_number;
use crate::signer;

/// A CA certificate for `next`, signed by `before`, valid from `now` (Unix seconds) to the end of `next`.
///
/// # Errors
///
/// [`CaError::Serial`] and [`CaError::Sign`]; worth a retry.
pub async fn cross_certify(before: &X509Ca, next: &X509Ca, now: i64) -> Result<Vec<u8>, CaError> {
    let uri = next.trust_domain().id_string();
    let certificate = OpenCertificate::new(&Tbs {
        serial: serial_number().map_err(CaError::Serial)?,
        algorithm: before.signer().algorithm(),
        issuer: Name::Copied(before.subject_raw()),
        not_before: now.saturating_sub(BACKDATE_SECS),
        not_after: next.not_after(),
        subject: Name::Copied(next.subject_raw()),
        public_key_der: next.signer().public_key_der(),
        is_ca: true,
        subject_key_id: next.subject_key_id(),
        authority_key_id: Some(before.subject_key_id()),
        uri: &uri,
        dns_names: &[],
    });
    let signature = signer::sign(before.signer(), certificate.message()).await.map_err(CaError::Sign)?;
    Ok(certificate.finish(before.signer().algorithm().identifier(), &signature))
}
