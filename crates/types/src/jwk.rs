//! Public keys in their two forms: SPKI DER (X.509, SPIRE's API) and JWK (bundles, RFC 7517 and RFC 7518 §6).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

mod der;
#[cfg(test)]
mod tests;

/// A public key whose encoding is valid. Whether a point lies on its curve is checked when it is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PublicKey {
    /// A point on a NIST curve, both coordinates at full length.
    Ec {
        /// Which curve.
        curve: Curve,
        /// Its first coordinate, [`Curve::coordinate_bytes`] long.
        x: Vec<u8>,
        /// Its second coordinate, [`Curve::coordinate_bytes`] long.
        y: Vec<u8>,
    },
    /// An RSA key.
    Rsa {
        /// The modulus, big-endian without leading zeros.
        n: Vec<u8>,
        /// The public exponent, big-endian without leading zeros.
        e: Vec<u8>,
    },
    /// An Ed25519 key: found in X.509 authorities, of no use for JWT-SVIDs.
    Ed25519 {
        /// The 32 bytes of the key.
        x: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads SPKI DER (RFC 5280 §4.1.2.7).
    ///
    /// # Errors
    ///
    /// [`KeyError::Unsupported`] for another kind of key, else how the encoding is broken.
    pub fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        if spki.len() > MAX_SPKI_BYTES {
            return Err(KeyError::TooLong);
        }
        der::read_spki(spki)
    }

    /// Writes SPKI DER.
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        der::write_spki(self)
    }

    /// Reads the parameters of a JWK.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unsupported`] for another kind of key, which a reader of bundles ignores; else the parameter
    /// that is missing or broken.
    pub fn from_jwk(jwk: &JwkParameters<'_>) -> Result<Self, KeyError> {
        // Trust-Domain-and-Bundle §4.2.1: "The `kty` parameter MUST be set".
        match jwk.kty.ok_or(KeyError::Missing("kty"))? {
            "EC" => Self::ec_from_jwk(jwk),
            "RSA" => {
                let (n, e) = (unsigned(jwk.n, "n")?, unsigned(jwk.e, "e")?);
                check_rsa(n, e)
            }
            "OKP" if jwk.crv == Some("Ed25519") => {
                let x = decode(jwk.x, "x")?;
                if x.len() == ED25519_BYTES { Ok(Self::Ed25519 { x }) } else { Err(KeyError::Broken("x")) }
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    fn ec_from_jwk(jwk: &JwkParameters<'_>) -> Result<Self, KeyError> {
        let curve = Curve::parse(jwk.crv.ok_or(KeyError::Missing("crv"))?).ok_or(KeyError::Unsupported)?;
        let (x, y) = (decode(jwk.x, "x")?, decode(jwk.y, "y")?);
        // RFC 7518 §6.2.1.2: "The length of this octet string MUST be the full size of a coordinate for the curve
        // specified in the "crv" parameter." §6.2.1.3 says the same of "y".
        if x.len() != curve.coordinate_bytes() {
            return Err(KeyError::Broken("x"));
        }
        if y.len() != curve.coordinate_bytes() {
            return Err(KeyError::Broken("y"));
        }
        Ok(Self::Ec { curve, x, y })
    }

    /// The `kty` of its JWK.
    #[must_use]
    pub fn kty(&self) -> &'static str {
        match self {
            Self::Ec { .. } => "EC",
            Self::Rsa { .. } => "RSA",
            Self::Ed25519 { .. } => "OKP",
        }
    }

    /// The other parameters of its JWK, as names and values in the order in which SPIRE writes them.
    #[must_use]
    pub fn jwk_parameters(&self) -> Vec<(&'static str, String)> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec { curve, x, y } => {
                vec![("crv", curve.as_str().to_owned()), ("x", encode(x)), ("y", encode(y))]
            }
            Self::Rsa { n, e } => vec![("n", encode(n)), ("e", encode(e))],
            Self::Ed25519 { x } => vec![("crv", "Ed25519".to_owned()), ("x", encode(x))],
        }
    }
}

/// The parameters of a JWK that describe a public key, as they stand in the document.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct JwkParameters<'a> {
    /// Key type.
    pub kty: Option<&'a str>,
    /// Curve.
    pub crv: Option<&'a str>,
    /// First coordinate.
    pub x: Option<&'a str>,
    /// Second coordinate.
    pub y: Option<&'a str>,
    /// Modulus.
    pub n: Option<&'a str>,
    /// Public exponent.
    pub e: Option<&'a str>,
}

/// A NIST curve (RFC 7518 §6.2.1.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Curve {
    /// P-256, `prime256v1`.
    P256,
    /// P-384, `secp384r1`.
    P384,
    /// P-521, `secp521r1`.
    P521,
}

impl Curve {
    /// Its name in a JWK.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Length of a coordinate.
    #[must_use]
    pub fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521].into_iter().find(|curve| curve.as_str() == name)
    }
}

fn decode(value: Option<&str>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let text = value.ok_or(KeyError::Missing(name))?;
    if text.len() > MAX_SPKI_BYTES {
        return Err(KeyError::TooLong);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Broken(name))
}

/// RFC 7518 §2, Base64urlUInt: "The representation MUST utilize the minimum number of octets to represent the
/// value." §6.3.1.1 tells of libraries that prefix a zero all the same, so leading zeros are dropped.
fn unsigned(value: Option<&str>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let bytes = decode(value, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let number = bytes.get(zeros..).unwrap_or_default();
    if number.is_empty() { Err(KeyError::Broken(name)) } else { Ok(number.to_vec()) }
}

/// Bounds what a verifier has to compute with.
fn check_rsa(n: Vec<u8>, e: Vec<u8>) -> Result<PublicKey, KeyError> {
    if n.len() > MAX_RSA_MODULUS_BYTES {
        return Err(KeyError::Broken("n"));
    }
    if e.len() > MAX_RSA_EXPONENT_BYTES {
        return Err(KeyError::Broken("e"));
    }
    Ok(PublicKey::Rsa { n, e })
}

/// Why a public key cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A kind of key, a curve or a point format that is not known here.
    #[error("unsupported kind of public key")]
    Unsupported,
    /// The DER is broken or not in its canonical form.
    #[error("public key is not valid SPKI DER")]
    Malformed,
    /// A JWK lacks this parameter.
    #[error("JWK parameter \"{0}\" is missing")]
    Missing(&'static str),
    /// This JWK parameter is not base64url, or has the wrong length.
    #[error("JWK parameter \"{0}\" is malformed")]
    Broken(&'static str),
    /// Longer than [`MAX_SPKI_BYTES`].
    #[error("public key is longer than {MAX_SPKI_BYTES} bytes")]
    TooLong,
}

/// Longest encoded key, in either form. A longer one is refused.
pub const MAX_SPKI_BYTES: usize = 8 * 1024;
/// Longest RSA modulus: 16,384 bits. A longer one is refused.
pub const MAX_RSA_MODULUS_BYTES: usize = 2048;
const MAX_RSA_EXPONENT_BYTES: usize = 8;
const ED25519_BYTES: usize = 32;
