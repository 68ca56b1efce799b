//! Signatures of JWT-SVIDs.

use vouchsafe_types::bundle::JwtAuthority;
use vouchsafe_types::jwt_svid::{JwsAlgorithm, JwtSvid};

use crate::public_key::{Hash, PublicKey, PublicKeyError, Scheme, VerifyError};
use vouchsafe_runtime::class::Class;

/// The token was not signed by this authority.
#[derive(Debug, thiserror::Error)]
pub enum VerifyTokenError {
    /// The token names another key.
    #[error("token is signed with key {token:?}, not {authority:?}")]
    OtherKey {
        /// Key id of the token.
        token: String,
        /// Key id of the authority.
        authority: String,
    },
    /// The authority's key is none.
    #[error("public key of JWT authority {key_id:?} is not usable")]
    PublicKey {
        /// Key id of the authority.
        key_id: String,
        /// Why.
        #[source]
        source: PublicKeyError,
    },
    /// The signature is wrong, or its algorithm does not go with the key.
    #[error("token signature does not verify")]
    Signature(#[source] VerifyError),
}

impl VerifyTokenError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::OtherKey { .. } | Self::Signature(_) => Class::Caller,
            Self::PublicKey { .. } => Class::Peer,
        }
    }
}

/// Verifies the signature of a token with the authority that its key id names. Times and audience are the
/// caller's to check ([`JwtSvid::check_times`], [`JwtSvid::check_audience`]).
///
/// The key decides what algorithms are possible, so a token cannot pick one: an RSA key never verifies an
/// ECDSA token, and nothing verifies with a shared secret.
///
/// # Errors
///
/// [`VerifyTokenError`].
pub fn verify(token: &JwtSvid, authority: &JwtAuthority) -> Result<(), VerifyTokenError> {
    if token.key_id != authority.key_id {
        let (token, authority) = (token.key_id.clone(), authority.key_id.clone());
        return Err(VerifyTokenError::OtherKey { token, authority });
    }
    let unusable = |source| VerifyTokenError::PublicKey { key_id: authority.key_id.clone(), source };
    let key = PublicKey::parse(&authority.public_key_der).map_err(unusable)?;
    let (scheme, hash) = scheme(token.algorithm);
    let verified = key.verify(scheme, hash, token.signing_input().as_bytes(), token.signature());
    verified.map_err(VerifyTokenError::Signature)
}

fn scheme(algorithm: JwsAlgorithm) -> (Scheme, Hash) {
    match algorithm {
        JwsAlgorithm::Rs256 => (Scheme::RsaPkcs1, Hash::Sha256),
        JwsAlgorithm::Rs384 => (Scheme::RsaPkcs1, Hash::Sha384),
        JwsAlgorithm::Rs512 => (Scheme::RsaPkcs1, Hash::Sha512),
        JwsAlgorithm::Es256 => (Scheme::EcdsaFixed, Hash::Sha256),
        JwsAlgorithm::Es384 => (Scheme::EcdsaFixed, Hash::Sha384),
        JwsAlgorithm::Es512 => (Scheme::EcdsaFixed, Hash::Sha512),
        JwsAlgorithm::Ps256 => (Scheme::RsaPss, Hash::Sha256),
        JwsAlgorithm::Ps384 => (Scheme::RsaPss, Hash::Sha384),
        JwsAlgorithm::Ps512 => (Scheme::RsaPss, Hash::Sha512),
    }
}
