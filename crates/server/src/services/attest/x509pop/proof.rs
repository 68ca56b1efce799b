//! The challenge of x509pop: a nonce that the node signs together with one of its own.
//!
//! The messages are SPIRE's JSON. What is signed is the server's nonce, then the node's, hashed with SHA-256: RSA with PSS
//! padding, or ECDSA as two numbers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use vouchsafe_ca::public_key::{Hash, Kind, PublicKey, Scheme};

/// Bytes of a nonce, of either side.
pub(super) const NONCE: usize = 32;

#[derive(Debug, Serialize)]
pub(super) struct Challenge {
    rsa_signature: Option<Nonce>,
    ecdsa_signature: Option<Nonce>,
}

#[derive(Debug, Serialize)]
struct Nonce {
    nonce: String,
}

/// The node's answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    rsa_signature: Option<RsaSignature>,
    ecdsa_signature: Option<EcdsaSignature>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RsaSignature {
    nonce: Option<String>,
    signature: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EcdsaSignature {
    nonce: Option<String>,
    r: Option<String>,
    s: Option<String>,
}

impl Challenge {
    /// The challenge for a key of this kind.
    pub(super) fn new(kind: Kind, nonce: &[u8; NONCE]) -> Self {
        let nonce = Some(Nonce { nonce: STANDARD.encode(nonce) });
        match kind {
            Kind::Rsa(_) => Self { rsa_signature: nonce, ecdsa_signature: None },
            Kind::P256 | Kind::P384 | Kind::P521 => Self { rsa_signature: None, ecdsa_signature: nonce },
        }
    }
}

/// Whether `response` proves that its sender holds the key.
///
/// # Errors
///
/// What is wrong, in the words of SPIRE.
pub(super) fn verify(
    key: &PublicKey<'_>,
    nonce: &[u8; NONCE],
    response: &Response,
) -> Result<(), &'static str> {
    match key.kind() {
        Kind::Rsa(_) => {
            let proof = response.rsa_signature.as_ref().ok_or("expecting RSA response")?;
            let message = combined(nonce, proof.nonce.as_deref())?;
            let signature = decoded(proof.signature.as_deref()).ok_or(RSA)?;
            // Go signs with the longest salt that fits, others with one as long as the hash.
            let signed = [Scheme::RsaPss, Scheme::RsaPssMaxSalt]
                .into_iter()
                .any(|scheme| key.verify(scheme, Hash::Sha256, &message, &signature).is_ok());
            signed.then_some(()).ok_or(RSA)
        }
        Kind::P256 | Kind::P384 | Kind::P521 => {
            let proof = response.ecdsa_signature.as_ref().ok_or("expecting ECDSA response")?;
            let message = combined(nonce, proof.nonce.as_deref())?;
            let number = |text: &Option<String>| integer(&decoded(text.as_deref())?);
            let (r, s) = number(&proof.r).zip(number(&proof.s)).ok_or(ECDSA)?;
            let signature = sequence(&r, &s);
            key.verify(Scheme::EcdsaDer, Hash::Sha256, &message, &signature).map_err(|_| ECDSA)
        }
    }
}

const RSA: &str = "RSA signature verify failed";
const ECDSA: &str = "ECDSA signature verify failed";

fn combined(ours: &[u8; NONCE], theirs: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let theirs = decoded(theirs).filter(|theirs| theirs.len() == NONCE).ok_or("invalid response nonce")?;
    Ok([&ours[..], &theirs].concat())
}

fn decoded(text: Option<&str>) -> Option<Vec<u8>> {
    STANDARD.decode(text?).ok()
}

/// A positive number as DER. Longer ones than any curve has are not taken.
fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
    let sign = digits.first().is_none_or(|first| first & 0x80 != 0);
    let length =
        u8::try_from(digits.len() + usize::from(sign)).ok().filter(|length| *length <= MAX_NUMBER)?;
    let mut der = vec![INTEGER, length];
    der.extend(sign.then_some(0));
    der.extend(digits);
    Some(der)
}

fn sequence(r: &[u8], s: &[u8]) -> Vec<u8> {
    let length = r.len() + s.len();
    let mut der = vec![SEQUENCE];
    // Two numbers have at most 136 bytes.
    der.extend((length >= 0x80).then_some(0x81));
    der.extend(u8::try_from(length));
    der.extend([r, s].concat());
    der
}

/// Bytes of a number of P-521, with a sign byte.
const MAX_NUMBER: u8 = 67;
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests;
