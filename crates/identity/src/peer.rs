//! What is known of a peer from its certificate chain.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use vouchsafe_types::{SpiffeId, X509Svid};

/// Why a certificate is not an X.509-SVID.
pub use vouchsafe_types::x509_svid::X509SvidError as LeafError;

/// A peer's X.509-SVID.
#[derive(Clone, Debug)]
pub struct PeerSvid {
    /// Who it is.
    pub id: SpiffeId,
    /// DER certificates, leaf first.
    pub chain: Vec<Arc<[u8]>>,
    /// The leaf's serial number in decimal.
    pub serial: String,
    /// Unix time from which the leaf is valid.
    pub not_before: i64,
    /// Unix time after which the leaf is no longer valid.
    pub not_after: i64,
}

impl PeerSvid {
    /// Reads a chain. It is **not verified here**: take what a TLS connection of [`crate::config`] presents, whose
    /// handshake verified it, or call [`crate::verify::SvidVerifier::verify`].
    ///
    /// # Errors
    ///
    /// The leaf does not follow the rules for an X.509-SVID.
    pub fn parse(chain: &[CertificateDer<'_>]) -> Result<Self, LeafError> {
        let chain: Vec<Arc<[u8]>> = chain.iter().map(|der| Arc::from(der.as_ref())).collect();
        let svid = X509Svid::parse(chain)?;
        let X509Svid { id, chain, not_before, not_after, serial } = svid;
        Ok(Self { id, chain, serial, not_before, not_after })
    }
}
