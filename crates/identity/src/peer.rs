//! A peer's X.509-SVID from what TLS presents.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use vouchsafe_types::X509Svid;

/// Why a certificate is not an X.509-SVID.
pub use vouchsafe_types::x509_svid::X509SvidError as LeafError;

/// Reads a chain, leaf first. It is **not verified here**: take what a TLS connection of [`crate::config`] presents, whose
/// handshake verified it, or call [`crate::verify::SvidVerifier::verify`].
///
/// # Errors
///
/// The leaf does not follow the rules for an X.509-SVID.
pub fn read(chain: &[CertificateDer<'_>]) -> Result<X509Svid, LeafError> {
    X509Svid::parse(chain.iter().map(|der| Arc::from(der.as_ref())).collect())
}
