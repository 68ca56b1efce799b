//! The server's side of `x509pop` for keys on P-256.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vouchsafe_types::certificate::Certificate;

const NONCE: [u8; 32] = [42; 32];

/// What the answer is checked by.
pub(crate) struct Proof {
    public_key: Vec<u8>,
}

pub(crate) fn challenge(payload: &[u8]) -> (String, Proof) {
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let leaf = STANDARD.decode(payload["certificates"][0].as_str().unwrap()).unwrap();
    let spki = Certificate::parse(&leaf).unwrap().public_key_der;
    // An uncompressed point.
    let public_key = spki[spki.len() - 65..].to_vec();
    let nonce = STANDARD.encode(NONCE);
    (format!(r#"{{"rsa_signature":null,"ecdsa_signature":{{"nonce":"{nonce}"}}}}"#), Proof { public_key })
}

impl Proof {
    pub(crate) fn verify(&self, answer: &[u8]) -> bool {
        let answer: serde_json::Value = serde_json::from_slice(answer).unwrap();
        let part = |name: &str| STANDARD.decode(answer["ecdsa_signature"][name].as_str().unwrap()).unwrap();
        let (message, signature) = ([&NONCE[..], &part("nonce")].concat(), [part("r"), part("s")].concat());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key)
            .verify(&message, &signature)
            .is_ok()
    }
}
