//! From a certificate chain to the SPIFFE ID that it proves.
//!
//! In this order: the leaf follows the rules for an X.509-SVID; its trust domain is one that we have
//! authorities of; a path of valid certificates leads from it to one of **these**. Extended key usage is not
//! looked at (go-spiffe: "any"). The length of a chain is bounded by
//! [`vouchsafe_types::x509_svid::MAX_CHAIN_LENGTH`] and the search for a path by webpki. Certificates with URI
//! name constraints are refused: webpki cannot judge them (rustls/webpki#514).

use std::error::Error;
use std::io;

use rustls::{CertificateError, OtherError};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use vouchsafe_types::{SpiffeId, X509Svid};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::config::provider;
use crate::peer::{self, LeafError};
use crate::roots::RootsCell;

/// Verifies X.509-SVIDs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SvidVerifier {
    roots: RootsCell,
}

impl SvidVerifier {
    /// Believes `roots`, whatever they are at each verification.
    #[must_use]
    pub fn new(roots: RootsCell) -> Self {
        Self { roots }
    }

    /// Who proves to be whom by `chain` (leaf first, roots not needed) at `now`.
    ///
    /// That the peer has the leaf's private key is for the caller to see; TLS does.
    ///
    /// # Errors
    ///
    /// See [`VerifyError`]. Only [`VerifyError::UnknownTrustDomain`] and [`VerifyError::UnknownAuthority`] may
    /// go away, when a newer bundle arrives.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<X509Svid, VerifyError> {
        self.verify_within(chain, now, Duration::ZERO)
    }

    /// As [`SvidVerifier::verify`], at the moment of the leaf's life that is nearest to `now` if that lies
    /// within `grace`. What such a peer may still do is for the caller to decide, by the dates.
    ///
    /// # Errors
    ///
    /// As [`SvidVerifier::verify`].
    pub fn verify_within(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        grace: Duration,
    ) -> Result<X509Svid, VerifyError> {
        let svid = peer::read(chain).map_err(|source| VerifyError::Leaf { source })?;
        let roots = self.roots.load();
        let Some(anchors) = roots.anchors(svid.id.trust_domain_name()) else {
            return Err(VerifyError::UnknownTrustDomain { id: svid.id });
        };
        let id = svid.id.clone();
        let path = |source| VerifyError::of_path(id.clone(), source);
        let leaf = EndEntityCert::try_from(&chain[0]).map_err(path)?;
        let now = nearest(now, &svid, grace);
        leaf.verify_for_usage(algorithms(), anchors, &chain[1..], now, AnyUsage, None, None).map_err(path)?;
        Ok(svid)
    }
}

/// The moment of the life of `svid` that is nearest to `now`, or `now` if that is more than `grace` away.
fn nearest(now: UnixTime, svid: &X509Svid, grace: Duration) -> UnixTime {
    let seconds = |unix: i64| u64::try_from(unix).unwrap_or(0);
    let at =
        now.as_secs().clamp(seconds(svid.not_before), seconds(svid.not_after).max(seconds(svid.not_before)));
    if at.abs_diff(now.as_secs()) <= grace.as_secs() {
        UnixTime::since_unix_epoch(Duration::from_secs(at))
    } else {
        now
    }
}

/// Why a chain proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The leaf is not an X.509-SVID.
    #[error("the certificate is not an X.509-SVID")]
    Leaf {
        /// What is wrong with it.
        source: LeafError,
    },
    /// We have no authorities of its trust domain.
    #[error("no bundle for the trust domain of {id}")]
    UnknownTrustDomain {
        /// Whom it claims to be.
        id: SpiffeId,
    },
    /// None of the trust domain's authorities has signed it.
    #[error("{id} is not signed by an authority of its trust domain; the bundle may be out of date")]
    UnknownAuthority {
        /// Whom it claims to be.
        id: SpiffeId,
    },
    /// It, or a certificate of its path, was valid once.
    #[error("the certificate of {id} expired at {not_after} (Unix time); it is {now} now")]
    Expired {
        /// Whom it claims to be.
        id: SpiffeId,
        /// When.
        not_after: u64,
        /// What our clock says.
        now: u64,
    },
    /// It, or a certificate of its path, will be valid. Mostly one of the two clocks is wrong.
    #[error(
        "the certificate of {id} is valid from {not_before} (Unix time); it is {now} now. Check both clocks"
    )]
    NotYetValid {
        /// Whom it claims to be.
        id: SpiffeId,
        /// When.
        not_before: u64,
        /// What our clock says.
        now: u64,
    },
    /// A certificate of the path has name constraints that it violates, or that cannot be judged.
    #[error("an authority of {id} has name constraints; constraints on URIs are not supported")]
    NameConstraints {
        /// Whom it claims to be.
        id: SpiffeId,
    },
    /// There is no valid path for another reason.
    #[error("the chain of {id} is not valid")]
    Path {
        /// Whom it claims to be.
        id: SpiffeId,
        /// The reason.
        source: webpki::Error,
    },
    /// It proves to be somebody, but not whom we talk to.
    #[error("the peer is {id}, expected {expected}")]
    Unexpected {
        /// Who it is.
        id: SpiffeId,
        /// Who it should be.
        expected: String,
    },
}

impl VerifyError {
    /// The verification error that `error` comes from, if it comes from one.
    ///
    /// A failed handshake surfaces as an error of the transport's, several layers up, and rustls shows the
    /// cause only in its debug form. This finds what to tell a person.
    #[must_use]
    pub fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) =
                error.downcast_ref()
            {
                next = Some(&**cause);
            } else if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                // Its `source` would leave out the error that it wraps.
                next = Some(inner);
            } else {
                next = error.source();
            }
        }
        None
    }

    /// The SPIFFE ID that the chain claims, once its leaf could be read.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Leaf { .. } => None,
            Self::UnknownTrustDomain { id }
            | Self::UnknownAuthority { id }
            | Self::Expired { id, .. }
            | Self::NotYetValid { id, .. }
            | Self::NameConstraints { id }
            | Self::Path { id, .. }
            | Self::Unexpected { id, .. } => Some(id),
        }
    }

    fn of_path(id: SpiffeId, source: webpki::Error) -> Self {
        match source {
            webpki::Error::UnknownIssuer => Self::UnknownAuthority { id },
            webpki::Error::CertExpired { time, not_after } => {
                Self::Expired { id, not_after: not_after.as_secs(), now: time.as_secs() }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { id, not_before: not_before.as_secs(), now: time.as_secs() }
            }
            webpki::Error::NameConstraintViolation => Self::NameConstraints { id },
            source => Self::Path { id, source },
        }
    }
}

pub(crate) struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

pub(crate) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    provider().signature_verification_algorithms.all
}

#[cfg(test)]
mod tests;
