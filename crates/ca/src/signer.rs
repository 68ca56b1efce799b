//! The one way to make a signature, wherever the key lives.

use async_trait::async_trait;

use crate::der::reader::{DerError, Reader};
use crate::der::{oid, tag};
use vouchsafe_runtime::class::Class;

/// A private key that signs.
///
/// Takes the raw message, since a KMS may want that or the digest; gives ECDSA signatures in DER, as X.509 and
/// every KMS write them ([`Signature::to_fixed`] for JWS).
#[async_trait]
pub trait Signer: Send + Sync + std::fmt::Debug {
    /// SubjectPublicKeyInfo, DER.
    fn public_key_der(&self) -> &[u8];

    /// How this key signs; never changes.
    fn algorithm(&self) -> SignatureAlgorithm;

    /// Signs at once if the key is in this process, else `None`: then use [`Signer::sign`].
    fn sign_now(&self, message: &[u8]) -> Option<Result<Signature, SignError>> {
        let _ = message;
        None
    }

    /// Signs, asking whoever holds the key.
    ///
    /// # Errors
    ///
    /// [`SignError`]; its class says whether a retry is sensible.
    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError>;
}

/// Signs with `signer`, on the spot if it can.
///
/// # Errors
///
/// As [`Signer::sign`].
pub async fn sign(signer: &dyn Signer, message: &[u8]) -> Result<Signature, SignError> {
    match signer.sign_now(message) {
        Some(signed) => signed,
        None => signer.sign(message).await,
    }
}

/// How our authorities sign.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384Sha384,
    /// RSA PKCS #1 v1.5 with SHA-256.
    RsaPkcs1Sha256,
}

impl SignatureAlgorithm {
    /// The name in a JWS header (RFC 7518 §3.1).
    #[must_use]
    pub fn jws_name(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ES256",
            Self::EcdsaP384Sha384 => "ES384",
            Self::RsaPkcs1Sha256 => "RS256",
        }
    }

    /// `AlgorithmIdentifier`, whole.
    pub(crate) fn identifier(self) -> &'static [u8] {
        match self {
            // RFC 5758 §3.2: "the encoding MUST omit the parameters field"
            Self::EcdsaP256Sha256 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            Self::EcdsaP384Sha384 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            // RFC 4055 §5: "the parameters MUST be NULL"
            Self::RsaPkcs1Sha256 => &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0],
        }
    }

    /// Bytes of each of the two numbers of an ECDSA signature.
    fn half(self) -> Option<usize> {
        match self {
            Self::EcdsaP256Sha256 => Some(32),
            Self::EcdsaP384Sha384 => Some(48),
            Self::RsaPkcs1Sha256 => None,
        }
    }
}

const _: () = assert!(oid::ECDSA_SHA256.len() == 8 && oid::RSA_SHA256.len() == 9);

/// A signature; ECDSA in DER.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// Takes the bytes as the signing algorithm writes them.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, ECDSA in DER.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as JWS wants them. RFC 7518 §3.4: the signature is "the concatenation of the two values" R
    /// and S, each of the length of the curve's order. RSA signatures stay as they are.
    ///
    /// # Errors
    ///
    /// [`SignError::Malformed`] if the signer gave something that is no such signature.
    pub fn to_fixed(&self, algorithm: SignatureAlgorithm) -> Result<FixedSignature<'_>, SignError> {
        let Some(half) = algorithm.half() else {
            return Ok(FixedSignature::Whole(&self.0));
        };
        let mut fixed = [0; 96];
        let (r, s) = self.halves().map_err(SignError::Malformed)?;
        for (number, start) in [(r, 0), (s, half)] {
            let number = number.strip_prefix(&[0]).unwrap_or(number);
            let room = half.checked_sub(number.len()).ok_or(SignError::TooLong)?;
            fixed[start + room..start + half].copy_from_slice(number);
        }
        Ok(FixedSignature::Halves(fixed, 2 * half))
    }

    fn halves(&self) -> Result<(&[u8], &[u8]), DerError> {
        let mut outer = Reader::new(&self.0);
        let mut reader = Reader::new(outer.expect(tag::SEQUENCE, "ECDSA signature")?);
        outer.finish("ECDSA signature")?;
        let r = reader.expect(tag::INTEGER, "r of the ECDSA signature")?;
        let s = reader.expect(tag::INTEGER, "s of the ECDSA signature")?;
        reader.finish("ECDSA signature")?;
        Ok((r, s))
    }
}

/// A signature in the form of JWS.
#[derive(Clone, Debug)]
pub enum FixedSignature<'a> {
    /// RSA.
    Whole(&'a [u8]),
    /// Two numbers, and how many bytes they take together.
    Halves([u8; 96], usize),
}

impl AsRef<[u8]> for FixedSignature<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Halves(bytes, length) => &bytes[..*length],
        }
    }
}

/// No signature was made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key refused; for a local key a bug or no entropy.
    #[error("private key did not sign")]
    Refused,
    /// The signer gave a signature of another form.
    #[error("signer gave a malformed ECDSA signature")]
    Malformed(#[source] DerError),
    /// The signer gave a signature for a larger curve.
    #[error("signer gave an ECDSA signature for a larger curve")]
    TooLong,
    /// The holder of the key could not be reached.
    #[error("key {key_id:?} cannot sign now: its holder is unavailable")]
    Unavailable {
        /// Which key.
        key_id: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SignError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused => Class::Bug,
            Self::Malformed(_) | Self::TooLong => Class::Peer,
            Self::Unavailable { .. } => Class::Transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_are_padded_and_long_ones_refused() {
        let mut der = vec![0x30, 7, 2, 1, 5, 2, 2, 0, 0x80];
        let signature = Signature::new(der.clone());
        let fixed = signature.to_fixed(SignatureAlgorithm::EcdsaP256Sha256).unwrap();
        let mut expected = [0; 64];
        expected[31] = 5;
        expected[63] = 0x80;
        assert_eq!(fixed.as_ref(), expected);
        der = vec![0x30, 38, 2, 33, 1];
        der.extend([0; 32]);
        der.extend([2, 1, 1]);
        let long = Signature::new(der);
        assert!(matches!(long.to_fixed(SignatureAlgorithm::EcdsaP256Sha256), Err(SignError::TooLong)));
    }
}
