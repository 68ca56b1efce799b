//! A certificate chain that names a workload (X509-SVID).
//!
//! Parsing enforces what the standard asks of a validator beyond path validation (§5.2), and that the chain is
//! made of a leaf and signing certificates. It does not enforce what the standard asks of issuers only (critical
//! key usage, extended key usage, critical names without a subject): a peer's certificate that others accept is
//! accepted here. Signatures, validity times and trust are the verifier's business.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, CertificateError};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};

#[cfg(test)]
mod tests;

/// An X.509-SVID without its key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct X509Svid {
    /// Whom it names.
    pub id: SpiffeId,
    /// Its certificates as DER, leaf first.
    pub chain: Vec<Arc<[u8]>>,
    /// First second of the leaf's validity, in Unix seconds.
    pub not_before: i64,
    /// Last second of the leaf's validity, in Unix seconds.
    pub not_after: i64,
    /// Serial number of the leaf in decimal.
    pub serial: String,
}

impl X509Svid {
    /// Reads a chain, leaf first.
    ///
    /// # Errors
    ///
    /// The first rule of the standard that the leaf, or a certificate after it, breaks.
    pub fn parse(chain: Vec<Arc<[u8]>>) -> Result<Self, X509SvidError> {
        let (leaf, signers) = chain.split_first().ok_or(X509SvidError::Empty)?;
        if chain.len() > MAX_CHAIN_LENGTH {
            return Err(X509SvidError::TooLong);
        }
        let leaf = Certificate::parse(leaf).map_err(X509SvidError::Leaf)?;
        let id = check_leaf(&leaf)?;
        for signer in signers {
            check_signer(&Certificate::parse(signer).map_err(X509SvidError::Signer)?)?;
        }
        Ok(Self { id, not_before: leaf.not_before, not_after: leaf.not_after, serial: leaf.serial, chain })
    }

    /// The certificates without a separator, leaf first, as the Workload API sends them.
    #[must_use]
    pub fn concatenated(&self) -> Vec<u8> {
        crate::certificate::join(&self.chain)
    }
}

/// Whom a leaf certificate names.
///
/// # Errors
///
/// As [`X509Svid::parse`].
pub fn leaf_id(der: &[u8]) -> Result<SpiffeId, X509SvidError> {
    check_leaf(&Certificate::parse(der).map_err(X509SvidError::Leaf)?)
}

/// Applies the rules for leaf certificates and says whom the leaf names.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn check_leaf(leaf: &Certificate) -> Result<SpiffeId, X509SvidError> {
    // X509-SVID §2: "An X.509 SVID MUST contain exactly one URI SAN, and by extension, exactly one SPIFFE ID."
    // §5.2: "SVIDs containing more than one URI SAN MUST be rejected."
    let uri = match leaf.uris.as_slice() {
        [] => return Err(X509SvidError::NoUri),
        [uri] => uri,
        more => return Err(X509SvidError::ManyUris(more.len())),
    };
    // X509-SVID §5.2: "The validator MUST also ensure that the scheme of the SPIFFE ID is set to `spiffe`, and MUST
    // ensure that the SPIFFE ID has a non-root path component."
    let id = SpiffeId::parse(uri).map_err(X509SvidError::Id)?;
    if id.path().is_empty() {
        return Err(X509SvidError::NoPath);
    }
    // X509-SVID §5.2: "the validator MUST ensure that the `cA` field in the basic constraints extension is set to
    // `false`, and that `keyCertSign` and `cRLSign` are not set in the key usage extension."
    if leaf.is_ca {
        return Err(X509SvidError::LeafIsCa);
    }
    // X509-SVID §4.3: "The key usage extension MUST be set on all SVIDs" and "Leaf SVIDs MUST set
    // `digitalSignature`."
    let usage = leaf.key_usage.unwrap_or_default();
    if usage.cert_sign {
        return Err(X509SvidError::LeafCertSign);
    }
    if usage.crl_sign {
        return Err(X509SvidError::LeafCrlSign);
    }
    if !usage.digital_signature {
        return Err(X509SvidError::LeafNoDigitalSignature);
    }
    Ok(id)
}

/// Applies the rules for signing certificates.
fn check_signer(signer: &Certificate) -> Result<(), X509SvidError> {
    // X509-SVID §4.1: "Signing certificates MUST set the `cA` field to `true`".
    if !signer.is_ca {
        return Err(X509SvidError::SignerNotCa);
    }
    // X509-SVID §4.3: "SVID signing certificates MUST set `keyCertSign`."
    if !signer.key_usage.unwrap_or_default().cert_sign {
        return Err(X509SvidError::SignerNoCertSign);
    }
    Ok(())
}

/// Why certificates are no X.509-SVID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// No certificate at all.
    #[error("certificate chain is empty")]
    Empty,
    /// More than [`MAX_CHAIN_LENGTH`].
    #[error("certificate chain has more than {MAX_CHAIN_LENGTH} certificates")]
    TooLong,
    /// The leaf cannot be read.
    #[error("leaf certificate cannot be read")]
    Leaf(#[source] CertificateError),
    /// A certificate after the leaf cannot be read.
    #[error("signing certificate cannot be read")]
    Signer(#[source] CertificateError),
    /// No URI among the leaf's names.
    #[error("certificate contains no URI SAN")]
    NoUri,
    /// Several URIs among the leaf's names.
    #[error("certificate contains more than one URI SAN ({0})")]
    ManyUris(usize),
    /// The leaf's URI is no SPIFFE ID.
    #[error("certificate URI SAN is not a SPIFFE ID")]
    Id(#[source] SpiffeIdError),
    /// The leaf names a trust domain instead of a member.
    #[error("leaf certificate SPIFFE ID has no path")]
    NoPath,
    /// The leaf is a CA certificate.
    #[error("leaf certificate must not have CA flag set to true")]
    LeafIsCa,
    /// The leaf may sign certificates.
    #[error("leaf certificate must not have 'keyCertSign' set as key usage")]
    LeafCertSign,
    /// The leaf may sign revocation lists.
    #[error("leaf certificate must not have 'cRLSign' set as key usage")]
    LeafCrlSign,
    /// The leaf may not sign at all, or does not say what it may do.
    #[error("leaf certificate must have 'digitalSignature' set as key usage")]
    LeafNoDigitalSignature,
    /// A certificate after the leaf is no CA certificate.
    #[error("signing certificate must have CA flag set to true")]
    SignerNotCa,
    /// A certificate after the leaf may not sign certificates.
    #[error("signing certificate must have 'keyCertSign' set as key usage")]
    SignerNoCertSign,
}

/// Most certificates in a chain. More are refused.
pub const MAX_CHAIN_LENGTH: usize = 16;
