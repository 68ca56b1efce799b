//! SubjectPublicKeyInfo: parse, identify, verify signatures.

use aws_lc_rs::signature::{self as aws, UnparsedPublicKey, VerificationAlgorithm};
use sha1::{Digest, Sha1};

use crate::der::reader::{DerError, Reader};
use crate::der::{oid, tag};

/// A public key of a kind that we know, borrowed from its SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug)]
pub struct PublicKey<'a> {
    kind: Kind,
    /// The content of the BIT STRING: an uncompressed point, or an `RSAPublicKey`.
    key: &'a [u8],
}

/// What a public key is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521: verified in foreign tokens, never issued to.
    P521,
    /// RSA with this many bits, within [`RSA_BITS`].
    Rsa(usize),
}

/// Sizes of RSA keys that are accepted.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A hash function of a signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named by the standard")]
pub enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// How a signature is made and written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// ECDSA, written as a DER `SEQUENCE` of two `INTEGER`s (X.509).
    EcdsaDer,
    /// ECDSA, written as two numbers of fixed length (JWS).
    EcdsaFixed,
    /// RSA with PKCS #1 v1.5 padding.
    RsaPkcs1,
    /// RSA with PSS padding, whose salt is as long as the hash.
    RsaPss,
    /// RSA with PSS padding, whose salt is as long as fits (what Go makes).
    RsaPssMaxSalt,
}

/// The bytes are not a public key that we use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PublicKeyError {
    /// Not a SubjectPublicKeyInfo.
    #[error("public key is not a SubjectPublicKeyInfo")]
    Malformed(#[source] DerError),
    /// An algorithm or curve that is not used here.
    #[error("public key algorithm {0} is not supported: use an ECDSA P-256 or P-384 key, or an RSA key")]
    Algorithm(String),
    /// The algorithm parameters do not go with the algorithm.
    #[error("public key parameters do not go with the algorithm")]
    Parameters,
    /// The point is compressed, or has the wrong length for its curve.
    #[error("elliptic curve point is not in uncompressed form")]
    Point,
    /// An RSA key that is too small or too large.
    #[error("RSA key of {0} bits: must be {min} to {max}", min = RSA_BITS.start(), max = RSA_BITS.end())]
    RsaBits(usize),
    /// An RSA key with an exponent that is even or below 3.
    #[error("RSA key has an unusable exponent")]
    RsaExponent,
}

/// The signature does not verify.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// This kind of key makes no such signatures.
    #[error("a {key:?} key makes no {scheme:?} signature with {hash:?}")]
    Mismatch {
        /// The key.
        key: Kind,
        /// The scheme that was claimed.
        scheme: Scheme,
        /// The hash that was claimed.
        hash: Hash,
    },
    /// The signature is wrong for this key and message.
    #[error("signature does not match the public key")]
    Signature,
}

impl<'a> PublicKey<'a> {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), without testing whether a point is on its curve:
    /// [`PublicKey::verify`] does.
    ///
    /// # Errors
    ///
    /// [`PublicKeyError`] says what is wrong.
    pub fn parse(spki: &'a [u8]) -> Result<Self, PublicKeyError> {
        let (algorithm, key) = split(spki).map_err(PublicKeyError::Malformed)?;
        let mut algorithm = Reader::new(algorithm);
        let malformed = PublicKeyError::Malformed;
        let name = algorithm.expect(tag::OID, "algorithm of the public key").map_err(malformed)?;
        let kind = match name {
            oid::EC_PUBLIC_KEY => {
                let curve = algorithm.expect(tag::OID, "curve of the public key").map_err(malformed)?;
                elliptic(curve, key)?
            }
            oid::RSA => {
                // RFC 3279 §2.3.1: "The parameters field MUST have ASN.1 type NULL for this algorithm
                // identifier."
                if !matches!(algorithm.value("RSA parameters"), Ok(value) if value.raw == [tag::NULL, 0]) {
                    return Err(PublicKeyError::Parameters);
                }
                Kind::Rsa(rsa(key)?)
            }
            other => return Err(PublicKeyError::Algorithm(oid::dotted(other))),
        };
        algorithm.finish("algorithm of the public key").map_err(PublicKeyError::Malformed)?;
        Ok(Self { kind, key })
    }

    /// What the key is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Verifies `signature` over `message`. The kind of the key must fit the claimed scheme and hash, so a
    /// caller never lets a message choose how it is verified.
    ///
    /// # Errors
    ///
    /// [`VerifyError`].
    pub fn verify(
        &self,
        scheme: Scheme,
        hash: Hash,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        let mismatch = VerifyError::Mismatch { key: self.kind, scheme, hash };
        let algorithm = algorithm(self.kind, scheme, hash).ok_or(mismatch)?;
        let key = UnparsedPublicKey::new(algorithm, self.key);
        key.verify(message, signature).map_err(|_| VerifyError::Signature)
    }
}

/// Key identifier of a SubjectPublicKeyInfo: the SHA-1 of RFC 5280 §4.2.1.2 method 1, "composed of the 160-bit
/// SHA-1 hash of the value of the BIT STRING subjectPublicKey (excluding the tag, length, and number of unused
/// bits)". Authority ids are made of it, so the method must not differ within a fleet.
///
/// # Errors
///
/// [`PublicKeyError::Malformed`].
pub fn subject_key_id(spki: &[u8]) -> Result<[u8; KEY_ID_LEN], PublicKeyError> {
    let (_, key) = split(spki).map_err(PublicKeyError::Malformed)?;
    Ok(Sha1::digest(key).into())
}

/// Bytes in a key identifier.
pub const KEY_ID_LEN: usize = 20;

fn split(spki: &[u8]) -> Result<(&[u8], &[u8]), DerError> {
    let mut outer = Reader::new(spki);
    let mut reader = Reader::new(outer.expect(tag::SEQUENCE, "public key")?);
    outer.finish("public key")?;
    let algorithm = reader.expect(tag::SEQUENCE, "algorithm of the public key")?;
    let key = reader.bit_string("public key bits")?;
    reader.finish("public key")?;
    Ok((algorithm, key))
}

fn elliptic(curve: &[u8], point: &[u8]) -> Result<Kind, PublicKeyError> {
    let (kind, length) = match curve {
        oid::P256 => (Kind::P256, 65),
        oid::P384 => (Kind::P384, 97),
        oid::P521 => (Kind::P521, 133),
        other => return Err(PublicKeyError::Algorithm(format!("on curve {}", oid::dotted(other)))),
    };
    if point.len() != length || point[0] != 0x04 {
        return Err(PublicKeyError::Point);
    }
    Ok(kind)
}

fn rsa(key: &[u8]) -> Result<usize, PublicKeyError> {
    let read = || {
        let mut outer = Reader::new(key);
        let mut reader = Reader::new(outer.expect(tag::SEQUENCE, "RSA key")?);
        outer.finish("RSA key")?;
        let modulus = reader.expect(tag::INTEGER, "RSA modulus")?;
        let exponent = reader.expect(tag::INTEGER, "RSA exponent")?;
        reader.finish("RSA key")?;
        Ok((modulus, exponent))
    };
    let (modulus, exponent) = read().map_err(PublicKeyError::Malformed)?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = match modulus.first() {
        Some(first) => modulus.len() * 8 - first.leading_zeros() as usize,
        None => 0,
    };
    if !RSA_BITS.contains(&bits) {
        return Err(PublicKeyError::RsaBits(bits));
    }
    match exponent {
        [1] | [] => Err(PublicKeyError::RsaExponent),
        [.., last] if last % 2 == 0 => Err(PublicKeyError::RsaExponent),
        [first, ..] if first & 0x80 != 0 => Err(PublicKeyError::RsaExponent),
        _ => Ok(bits),
    }
}

fn algorithm(kind: Kind, scheme: Scheme, hash: Hash) -> Option<&'static dyn VerificationAlgorithm> {
    let algorithm: &'static dyn VerificationAlgorithm = match (kind, scheme, hash) {
        (Kind::P256, Scheme::EcdsaDer, Hash::Sha256) => &aws::ECDSA_P256_SHA256_ASN1,
        (Kind::P256, Scheme::EcdsaDer, Hash::Sha384) => &aws::ECDSA_P256_SHA384_ASN1,
        (Kind::P256, Scheme::EcdsaDer, Hash::Sha512) => &aws::ECDSA_P256_SHA512_ASN1,
        (Kind::P384, Scheme::EcdsaDer, Hash::Sha256) => &aws::ECDSA_P384_SHA256_ASN1,
        (Kind::P384, Scheme::EcdsaDer, Hash::Sha384) => &aws::ECDSA_P384_SHA384_ASN1,
        (Kind::P384, Scheme::EcdsaDer, Hash::Sha512) => &aws::ECDSA_P384_SHA512_ASN1,
        (Kind::P256, Scheme::EcdsaFixed, Hash::Sha256) => &aws::ECDSA_P256_SHA256_FIXED,
        (Kind::P384, Scheme::EcdsaFixed, Hash::Sha384) => &aws::ECDSA_P384_SHA384_FIXED,
        (Kind::P521, Scheme::EcdsaFixed, Hash::Sha512) => &aws::ECDSA_P521_SHA512_FIXED,
        (Kind::Rsa(_), Scheme::RsaPkcs1, Hash::Sha256) => &aws::RSA_PKCS1_2048_8192_SHA256,
        (Kind::Rsa(_), Scheme::RsaPkcs1, Hash::Sha384) => &aws::RSA_PKCS1_2048_8192_SHA384,
        (Kind::Rsa(_), Scheme::RsaPkcs1, Hash::Sha512) => &aws::RSA_PKCS1_2048_8192_SHA512,
        (Kind::Rsa(_), Scheme::RsaPss, Hash::Sha256) => &aws::RSA_PSS_2048_8192_SHA256,
        (Kind::Rsa(_), Scheme::RsaPss, Hash::Sha384) => &aws::RSA_PSS_2048_8192_SHA384,
        (Kind::Rsa(_), Scheme::RsaPss, Hash::Sha512) => &aws::RSA_PSS_2048_8192_SHA512,
        (Kind::P521, Scheme::EcdsaDer, Hash::Sha256) => &aws::ECDSA_P521_SHA256_ASN1,
        (Kind::Rsa(_), Scheme::RsaPssMaxSalt, Hash::Sha256) => {
            &const { aws::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(aws::RsaPssSaltLength::Max) }
        }
        _ => return None,
    };
    Some(algorithm)
}
