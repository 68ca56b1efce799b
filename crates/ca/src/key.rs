//! Private keys in this process.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair, RSA_PKCS1_SHA256,
};
use vouchsafe_types::pem::{self, PemError};
use zeroize::Zeroizing;

use crate::signer::{SignError, Signature, SignatureAlgorithm, Signer};

/// A private key in memory. Clones share it; AWS-LC wipes it when the last one goes.
#[derive(Clone)]
pub struct PrivateKey {
    inner: Arc<Inner>,
}

struct Inner {
    pair: Pair,
    key_type: KeyType,
    public_key_der: Vec<u8>,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

/// What kind of key to make.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum KeyType {
    /// `ec-p256`
    #[default]
    EcP256,
    /// `ec-p384`
    EcP384,
    /// `rsa-2048`
    Rsa2048,
    /// `rsa-4096`
    Rsa4096,
}

impl PrivateKey {
    /// Makes a key. RSA keys take up to seconds of CPU: call from a blocking thread.
    ///
    /// # Errors
    ///
    /// [`KeyError::Generate`].
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate(key_type);
        let pair = match key_type {
            KeyType::EcP256 => {
                Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?)
            }
            KeyType::EcP384 => {
                Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?)
            }
            KeyType::Rsa2048 => Pair::Rsa(rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?),
            KeyType::Rsa4096 => Pair::Rsa(rsa::KeyPair::generate(KeySize::Rsa4096).map_err(failed)?),
        };
        Self::new(pair, key_type)
    }

    /// Reads an unencrypted PKCS #8 key, DER.
    ///
    /// # Errors
    ///
    /// [`KeyError::Pkcs8`] unless it is a key of one of the four types.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        for (algorithm, key_type) in CURVES {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, der) {
                return Self::new(Pair::Ec(pair), key_type);
            }
        }
        Self::from_rsa(rsa::KeyPair::from_pkcs8(der).map_err(|_| KeyError::Pkcs8)?)
    }

    /// Reads the first private key of a PEM text: PKCS #8 (`PRIVATE KEY`), SEC 1 (`EC PRIVATE KEY`) or PKCS #1 (`RSA
    /// PRIVATE KEY`), unencrypted.
    ///
    /// # Errors
    ///
    /// [`KeyError::Pem`], [`KeyError::NoKey`], and [`KeyError::Pkcs8`] unless it is of one of the four types.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let blocks = pem::parse(text).map_err(KeyError::Pem)?;
        let found =
            blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")).ok_or(KeyError::NoKey)?;
        let unusable = |_| KeyError::Pkcs8;
        match found.label.as_str() {
            "EC PRIVATE KEY" => {
                for (algorithm, key_type) in CURVES {
                    if let Ok(pair) = EcdsaKeyPair::from_private_key_der(algorithm, &found.der) {
                        return Self::new(Pair::Ec(pair), key_type);
                    }
                }
                Err(KeyError::Pkcs8)
            }
            "RSA PRIVATE KEY" => Self::from_rsa(rsa::KeyPair::from_der(&found.der).map_err(unusable)?),
            "PRIVATE KEY" => Self::from_pkcs8(&found.der),
            _ => Err(KeyError::Encrypted),
        }
    }

    fn from_rsa(pair: rsa::KeyPair) -> Result<Self, KeyError> {
        let key_type = match pair.public_modulus_len() {
            256 => KeyType::Rsa2048,
            512 => KeyType::Rsa4096,
            _ => return Err(KeyError::Pkcs8),
        };
        Self::new(Pair::Rsa(pair), key_type)
    }

    fn new(pair: Pair, key_type: KeyType) -> Result<Self, KeyError> {
        let encoded = match &pair {
            Pair::Ec(pair) => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()),
            Pair::Rsa(pair) => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()),
        };
        let public_key_der = encoded.map_err(|_| KeyError::Encode)?.as_ref().to_vec();
        Ok(Self { inner: Arc::new(Inner { pair, key_type, public_key_der }) })
    }

    /// The key as PKCS #8, DER, unencrypted; wiped when dropped.
    ///
    /// # Errors
    ///
    /// [`KeyError::Encode`].
    pub fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match &self.inner.pair {
            Pair::Ec(pair) => {
                let document = pair.to_pkcs8v1().map_err(|_| KeyError::Encode)?;
                Ok(Zeroizing::new(document.as_ref().to_vec()))
            }
            Pair::Rsa(pair) => {
                let document: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Encode)?;
                Ok(Zeroizing::new(document.as_ref().to_vec()))
            }
        }
    }

    /// The secret number of an elliptic curve key, the same in every encoding of the key.
    pub(crate) fn scalar(&self) -> Option<Zeroizing<Vec<u8>>> {
        let Pair::Ec(pair) = &self.inner.pair else { return None };
        let scalar: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().ok()?;
        Some(Zeroizing::new(scalar.as_ref().to_vec()))
    }

    /// What kind of key it is.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.inner.key_type
    }

    /// Signs here and now.
    ///
    /// # Errors
    ///
    /// [`SignError::Refused`].
    pub fn sign_local(&self, message: &[u8]) -> Result<Signature, SignError> {
        let rng = SystemRandom::new();
        match &self.inner.pair {
            Pair::Ec(pair) => {
                let signature = pair.sign(&rng, message).map_err(|_| SignError::Refused)?;
                Ok(Signature::new(signature.as_ref().to_vec()))
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature)
                    .map_err(|_| SignError::Refused)?;
                Ok(Signature::new(signature))
            }
        }
    }
}

const CURVES: [(&EcdsaSigningAlgorithm, KeyType); 2] =
    [(&ECDSA_P256_SHA256_ASN1_SIGNING, KeyType::EcP256), (&ECDSA_P384_SHA384_ASN1_SIGNING, KeyType::EcP384)];

#[async_trait]
impl Signer for PrivateKey {
    fn public_key_der(&self) -> &[u8] {
        &self.inner.public_key_der
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.inner.key_type {
            KeyType::EcP256 => SignatureAlgorithm::EcdsaP256Sha256,
            KeyType::EcP384 => SignatureAlgorithm::EcdsaP384Sha384,
            KeyType::Rsa2048 | KeyType::Rsa4096 => SignatureAlgorithm::RsaPkcs1Sha256,
        }
    }

    fn sign_now(&self, message: &[u8]) -> Option<Result<Signature, SignError>> {
        Some(self.sign_local(message))
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        self.sign_local(message)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, redacted)", self.inner.key_type)
    }
}

impl KeyType {
    /// The name in configuration files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    /// Reads the name in a configuration file, in any case, as the reference does.
    fn from_str(name: &str) -> Result<Self, UnknownKeyType> {
        let all = [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096];
        let found = all.into_iter().find(|each| each.as_str().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownKeyType(name.chars().take(64).collect()))
    }
}

/// Not a key type.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("key type {0:?} is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")]
pub struct UnknownKeyType(String);

/// No key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// The generator failed, which means no entropy.
    #[error("no {0} key could be generated")]
    Generate(KeyType),
    /// The bytes are something else.
    #[error("not an unencrypted PKCS #8 key of type ec-p256, ec-p384, rsa-2048 or rsa-4096")]
    Pkcs8,
    /// Not PEM.
    #[error("not PEM: {0}")]
    Pem(PemError),
    /// No private key among the blocks.
    #[error("no block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY")]
    NoKey,
    /// A private key in a form that needs a password.
    #[error("the private key is encrypted; decrypt it first (openssl pkey)")]
    Encrypted,
    /// A key that cannot be written down: a bug.
    #[error("key could not be encoded")]
    Encode,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public_key::{Hash, PublicKey, Scheme};

    #[test]
    fn every_type_signs_verifies_and_survives_pkcs8() {
        for (name, scheme, hash) in [
            ("ec-p256", Scheme::EcdsaDer, Hash::Sha256),
            ("EC-P384", Scheme::EcdsaDer, Hash::Sha384),
            ("rsa-2048", Scheme::RsaPkcs1, Hash::Sha256),
        ] {
            let key = PrivateKey::generate(name.parse().unwrap()).unwrap();
            let again = PrivateKey::from_pkcs8(&key.pkcs8().unwrap()).unwrap();
            assert_eq!(again.public_key_der(), key.public_key_der());
            assert_eq!(again.key_type(), key.key_type());
            let public = PublicKey::parse(key.public_key_der()).unwrap();
            let signature = again.sign_local(b"message").unwrap();
            public.verify(scheme, hash, b"message", signature.as_der()).unwrap();
            public.verify(scheme, hash, b"massage", signature.as_der()).unwrap_err();
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(ec-p256, redacted)");
    }
}
