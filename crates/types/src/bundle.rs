//! The keys of a trust domain (Trust-Domain-and-Bundle §3).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, CertificateError};
use crate::jwk::{KeyError, PublicKey};
use crate::trust_domain::TrustDomain;

mod document;
pub mod format;
#[cfg(test)]
mod tests;

/// The keys that speak for a trust domain, in the order in which they were added.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// Whose keys they are.
    pub trust_domain: TrustDomain,
    /// Certificates that X.509-SVIDs chain to.
    pub x509_authorities: Vec<X509Authority>,
    /// Keys that sign JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How often a consumer should look for a newer bundle, in seconds; 0 for no advice.
    pub refresh_hint: i64,
    /// Raised at every change; 0 if the source does not say.
    pub sequence_number: u64,
}

impl Bundle {
    /// A bundle without keys: nobody of this trust domain is trusted.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: 0,
        }
    }

    /// Adds the authorities that are not in the bundle yet and says whether there were any.
    ///
    /// A certificate is known by its bytes, a key by its key id; what is known stays as it is, taint included.
    /// The sequence number is the store's to raise.
    pub fn append(
        &mut self,
        x509: impl IntoIterator<Item = X509Authority>,
        jwt: impl IntoIterator<Item = JwtAuthority>,
    ) -> bool {
        let before = (self.x509_authorities.len(), self.jwt_authorities.len());
        for authority in x509 {
            if !self.x509_authorities.iter().any(|held| held.der == authority.der) {
                self.x509_authorities.push(authority);
            }
        }
        for authority in jwt {
            if self.jwt_authority(&authority.key_id).is_none() {
                self.jwt_authorities.push(authority);
            }
        }
        before != (self.x509_authorities.len(), self.jwt_authorities.len())
    }

    /// The key that a JWT-SVID names as its signer.
    #[must_use]
    pub fn jwt_authority(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities.iter().find(|held| held.key_id == key_id)
    }

    /// All X.509 authorities without a separator, as the Workload API sends them.
    #[must_use]
    pub fn x509_concatenated(&self) -> Vec<u8> {
        crate::certificate::join(self.x509_authorities.iter().map(|authority| &authority.der))
    }

    /// Drops authorities whose validity ended at or before `threshold` (Unix seconds) and says whether there were
    /// any. An authority whose end is not known stays, and so does a kind of which nothing would be left: a trust domain
    /// without authorities is a decision of an operator, never of a clock.
    ///
    /// # Errors
    ///
    /// [`PruneError`] when for that reason nothing was dropped.
    pub fn prune(&mut self, threshold: i64) -> Result<bool, PruneError> {
        let lives = |not_after: i64| not_after == 0 || not_after > threshold;
        let x509_lives =
            |authority: &X509Authority| authority.parsed().map_or(true, |read| lives(read.not_after));
        let jwt_lives = |authority: &JwtAuthority| lives(authority.expires_at);
        let before = (self.x509_authorities.len(), self.jwt_authorities.len());
        let any_x509 = self.x509_authorities.iter().any(x509_lives);
        let any_jwt = self.jwt_authorities.iter().any(jwt_lives);
        self.x509_authorities.retain(|authority| !any_x509 || x509_lives(authority));
        self.jwt_authorities.retain(|authority| !any_jwt || jwt_lives(authority));
        if before != (self.x509_authorities.len(), self.jwt_authorities.len()) {
            return Ok(true);
        }
        match (any_x509 || before.0 == 0, any_jwt || before.1 == 0) {
            (false, _) => Err(PruneError::AllX509),
            (true, false) => Err(PruneError::AllJwt),
            (true, true) => Ok(false),
        }
    }
}

/// A certificate that X.509-SVIDs chain to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct X509Authority {
    /// The certificate.
    pub der: Arc<[u8]>,
    /// Whether it is to be left behind: nothing new is signed by it, and what it signed is renewed early.
    pub tainted: bool,
}

impl X509Authority {
    /// An untainted authority from the DER of its certificate.
    ///
    /// # Errors
    ///
    /// The bytes are not one certificate.
    pub fn parse(der: impl Into<Arc<[u8]>>) -> Result<Self, CertificateError> {
        let der = der.into();
        Certificate::parse(&der)?;
        Ok(Self { der, tainted: false })
    }

    /// What the certificate says.
    ///
    /// # Errors
    ///
    /// The bytes are not one certificate, which happens only to a value that was not made by [`Self::parse`].
    pub fn parsed(&self) -> Result<Certificate, CertificateError> {
        Certificate::parse(&self.der)
    }
}

/// A key that signs JWT-SVIDs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct JwtAuthority {
    /// Its name, unique in the bundle.
    pub key_id: String,
    /// The public key as SPKI DER.
    pub public_key_der: Arc<[u8]>,
    /// When it ends, in Unix seconds; 0 if the source does not say.
    pub expires_at: i64,
    /// Whether it is to be left behind: tokens signed by it are dropped from caches.
    pub tainted: bool,
}

impl JwtAuthority {
    /// An untainted authority.
    ///
    /// # Errors
    ///
    /// An empty or overlong key id, or a key that cannot verify a JWT-SVID.
    pub fn parse(
        key_id: &str,
        spki: impl Into<Arc<[u8]>>,
        expires_at: i64,
    ) -> Result<Self, JwtAuthorityError> {
        if key_id.is_empty() {
            return Err(JwtAuthorityError::NoKeyId);
        }
        if key_id.len() > MAX_KEY_ID_BYTES {
            return Err(JwtAuthorityError::KeyIdTooLong);
        }
        let public_key_der = spki.into();
        match PublicKey::from_spki(&public_key_der).map_err(JwtAuthorityError::Key)? {
            PublicKey::Ed25519 { .. } => return Err(JwtAuthorityError::Key(KeyError::Unsupported)),
            PublicKey::Ec { .. } | PublicKey::Rsa { .. } => {}
        }
        Ok(Self { key_id: key_id.to_owned(), public_key_der, expires_at, tainted: false })
    }
}

/// Why a key cannot sign JWT-SVIDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtAuthorityError {
    /// The key id is empty.
    #[error("missing key ID")]
    NoKeyId,
    /// The key id is longer than [`MAX_KEY_ID_BYTES`].
    #[error("key ID is longer than {MAX_KEY_ID_BYTES} bytes")]
    KeyIdTooLong,
    /// The key cannot be read or is of no use for JWT-SVIDs.
    #[error("public key of JWT authority")]
    Key(#[source] KeyError),
}

/// Why a bundle was not pruned.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// Every X.509 authority has ended.
    #[error("would prune all certificates")]
    AllX509,
    /// Every JWT authority has ended.
    #[error("would prune all JWT signing keys")]
    AllJwt,
}

/// Longest key id. A longer one is refused.
pub const MAX_KEY_ID_BYTES: usize = 1024;
