//! Keys of transparency logs, and what they have signed.

use std::collections::HashMap;

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use webpki::aws_lc_rs::{
    ECDSA_P256_SHA256, ECDSA_P384_SHA256, ECDSA_P521_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256,
};

use super::validity::Period;
use crate::digest::sha256;

/// Keys of transparency logs by log ID, which is the SHA-256 of the key.
#[derive(Debug, Default)]
pub(crate) struct LogKeys(pub(super) HashMap<Vec<u8>, LogKey>);

#[derive(Debug)]
pub(super) struct LogKey {
    spki: SubjectPublicKeyInfoDer<'static>,
    used: Period,
}

impl LogKeys {
    pub(super) fn insert(&mut self, spki: Vec<u8>, used: Period) -> Result<(), &'static str> {
        let id = sha256(&spki).to_vec();
        let spki = SubjectPublicKeyInfoDer::from(spki);
        RawPublicKeyEntity::try_from(&spki).map_err(|_| "the key of a log is none")?;
        self.0.insert(id, LogKey { spki, used });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the log `id` signed `message`, at `unix` as it says itself.
    pub(crate) fn verify(
        &self,
        id: &[u8],
        unix: i64,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), LogError> {
        let key = self.0.get(id).ok_or_else(|| LogError::Unknown { id: hex::encode(id) })?;
        if !key.used.has(unix) {
            return Err(LogError::NotInUse);
        }
        let entity = RawPublicKeyEntity::try_from(&key.spki).map_err(|_| LogError::Signature)?;
        let algorithms = SIGNATURES.iter();
        let verified = algorithms.map(|algorithm| entity.verify_signature(*algorithm, message, signature));
        if verified.into_iter().any(|result| result.is_ok()) { Ok(()) } else { Err(LogError::Signature) }
    }
}

/// Why a log's promise does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("nobody trusts the log {id}")]
    Unknown { id: String },
    #[error("the log's key was not in use at that time")]
    NotInUse,
    #[error("the log has not signed this")]
    Signature,
}

/// How signers and logs sign: with SHA-256, as cosign has it.
pub(crate) static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] =
    &[ECDSA_P256_SHA256, ECDSA_P384_SHA256, ECDSA_P521_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256];
