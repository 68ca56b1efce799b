//! Proof of possession of an X.509 certificate, as SPIRE's plugin `x509pop` has it.
//!
//! The agent sends its certificate and what leads to a root that the server knows. The server sends a nonce, and the agent
//! signs SHA-256(server's nonce ‖ own nonce): RSA-PSS, or ECDSA with the two numbers apart.

use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RSA_PSS_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use vouchsafe_runtime::blocking;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::pem;
use zeroize::Zeroizing;

use super::attestor::EvidenceError;
use crate::upstream_agent;

/// Where certificate and key come from.
#[derive(Clone, Debug)]
pub enum X509Pop {
    /// PEM files.
    Files {
        /// `private_key_path`
        private_key: PathBuf,
        /// `certificate_path`: the leaf first, intermediates may follow.
        certificate: PathBuf,
        /// `intermediates_path`
        intermediates: Option<PathBuf>,
    },
    /// `spiffe_endpoint_socket`: the X.509-SVID that the Workload API at this Unix socket gives us.
    WorkloadApi(PathBuf),
}

/// The key that answers challenges.
pub(super) enum ProofKey {
    Rsa(rsa::KeyPair),
    Ec(EcdsaKeyPair, Curve),
}

/// What makes a SHA-256 digest one that the curve's signer takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

#[derive(Serialize)]
struct Payload {
    certificates: Vec<String>,
}

#[derive(Deserialize)]
struct Challenge {
    rsa_signature: Option<Nonce>,
    ecdsa_signature: Option<Nonce>,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: String,
}

impl X509Pop {
    /// Reads everything; checks that certificate and key belong together.
    pub(super) async fn load(&self) -> Result<(Vec<u8>, ProofKey), EvidenceError> {
        let (chain, key) = match self {
            Self::Files { .. } => {
                let settings = self.clone();
                let loaded = blocking::run(move || settings.load_files()).await;
                loaded.map_err(|error| EvidenceError::Challenge(error.to_string()))??
            }
            Self::WorkloadApi(socket) => {
                let svid = upstream_agent::fetch_svid(socket).await.map_err(EvidenceError::WorkloadApi)?;
                let key = ProofKey::from_der(&svid.key);
                let key = key.ok_or_else(|| EvidenceError::WorkloadApi("its key cannot be used".into()))?;
                (svid.chain, key)
            }
        };
        let payload = Payload { certificates: chain.iter().map(|der| STANDARD.encode(der)).collect() };
        let payload = serde_json::to_vec(&payload);
        Ok((payload.map_err(|error| EvidenceError::Challenge(error.to_string()))?, key))
    }

    fn load_files(&self) -> Result<(Vec<Vec<u8>>, ProofKey), EvidenceError> {
        let Self::Files { private_key, certificate, intermediates } = self else {
            return Err(EvidenceError::Challenge("there are no files".to_owned()));
        };
        let mut chain = certificates("certificate_path", certificate)?;
        let unusable = |problem: &str| EvidenceError::Unusable {
            key: "private_key_path",
            path: private_key.clone(),
            problem: problem.to_owned(),
        };
        let key = blocks("private_key_path", private_key)?
            .into_iter()
            .find(|block| block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY"))
            .ok_or_else(|| unusable("there is no private key in it"))?;
        let key = ProofKey::from_der(&key.der).ok_or_else(|| {
            unusable("its key is none of RSA and EC P-256, P-384 and P-521, or it is encrypted")
        })?;
        let leaf = chain.first().map(|der| Certificate::parse(der));
        if !matches!(leaf, Some(Ok(leaf)) if leaf.public_key_der.ends_with(&key.public_key())) {
            return Err(unusable("it is not the key of the certificate in certificate_path"));
        }
        if let Some(path) = intermediates {
            chain.extend(certificates("intermediates_path", path)?);
        }
        Ok((chain, key))
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<Vec<u8>>, EvidenceError> {
    let certificates: Vec<_> = blocks(key, path)?
        .into_iter()
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| block.der.to_vec())
        .collect();
    if certificates.is_empty() {
        let problem = "there is no certificate in it".to_owned();
        return Err(EvidenceError::Unusable { key, path: path.into(), problem });
    }
    Ok(certificates)
}

fn blocks(key: &'static str, path: &Path) -> Result<Vec<pem::Block>, EvidenceError> {
    let read = |source| EvidenceError::Read { key, path: path.into(), source };
    let mut text = Zeroizing::new(Vec::new());
    std::fs::File::open(path).map_err(read)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(read)?;
    let unusable = |problem| EvidenceError::Unusable { key, path: path.into(), problem };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(unusable(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    pem::parse(&text).map_err(|error| unusable(error.to_string()))
}

impl ProofKey {
    /// Reads PKCS #8, PKCS #1 or SEC 1.
    fn from_der(der: &[u8]) -> Option<Self> {
        const CURVES: [(&EcdsaSigningAlgorithm, Curve); 3] = [
            (&ECDSA_P256_SHA256_FIXED_SIGNING, Curve::P256),
            (&ECDSA_P384_SHA384_FIXED_SIGNING, Curve::P384),
            (&ECDSA_P521_SHA256_FIXED_SIGNING, Curve::P521),
        ];
        for (algorithm, curve) in CURVES {
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, der)
                .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, der));
            if let Ok(pair) = pair {
                return Some(Self::Ec(pair, curve));
            }
        }
        rsa::KeyPair::from_pkcs8(der).or_else(|_| rsa::KeyPair::from_der(der)).ok().map(Self::Rsa)
    }

    /// As it stands at the end of the SubjectPublicKeyInfo.
    fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ec(pair, _) => pair.public_key().as_ref().to_vec(),
        }
    }

    pub(super) fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, EvidenceError> {
        let malformed = |problem: String| EvidenceError::Challenge(problem);
        let challenge: Challenge = serde_json::from_slice(challenge)
            .map_err(|error| malformed(format!("unable to unmarshal challenge: {error}")))?;
        let (nonce, kind) = match self {
            Self::Rsa(_) => (challenge.rsa_signature, "RSA"),
            Self::Ec(..) => (challenge.ecdsa_signature, "ECDSA"),
        };
        let nonce = nonce.ok_or_else(|| malformed(format!("expecting {kind} challenge")))?;
        let theirs = STANDARD.decode(&nonce.nonce).map_err(|error| malformed(error.to_string()))?;
        if theirs.len() != NONCE_LEN {
            return Err(malformed("invalid challenge nonce".to_owned()));
        }
        let mut ours = [0; NONCE_LEN];
        let refused = |_| malformed("the key refused to sign".to_owned());
        SystemRandom::new().fill(&mut ours).map_err(refused)?;
        let message = [theirs.as_slice(), &ours].concat();
        let nonce = STANDARD.encode(ours);
        let answer = match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), &message, &mut signature)
                    .map_err(refused)?;
                let signature = STANDARD.encode(signature);
                serde_json::json!({"rsa_signature": {"nonce": nonce, "signature": signature}})
            }
            Self::Ec(pair, curve) => {
                let signature = pair.sign_digest(&curve.digest(&message)?).map_err(refused)?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let (r, s) = (STANDARD.encode(r), STANDARD.encode(s));
                serde_json::json!({"ecdsa_signature": {"nonce": nonce, "r": r, "s": s}})
            }
        };
        Ok(answer.to_string().into_bytes())
    }
}

impl Curve {
    /// SHA-256 of `message`. AWS-LC signs with P-384 only what it takes for SHA-384: as ECDSA reads a digest as a
    /// number (FIPS 186-5 §6.4.1), leading zeros change nothing.
    fn digest(self, message: &[u8]) -> Result<Digest, EvidenceError> {
        let digest = digest::digest(&digest::SHA256, message);
        if self != Self::P384 {
            return Ok(digest);
        }
        let mut padded = [0; digest::SHA384_OUTPUT_LEN];
        padded[digest::SHA384_OUTPUT_LEN - digest::SHA256_OUTPUT_LEN..].copy_from_slice(digest.as_ref());
        Digest::import_less_safe(&padded, &digest::SHA384)
            .map_err(|_| EvidenceError::Challenge("no digest".to_owned()))
    }
}

const NONCE_LEN: usize = 32;

/// A larger file is not ours.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
