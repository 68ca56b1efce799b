//! Private keys by name.
//!
//! A key manager owns the keys: others see [`Signer`]s. Generating under a name that exists replaces the key,
//! at once and for good, as the reference does. RSA keys are generated on a blocking thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::key::{KeyError, KeyType, PrivateKey};
use crate::signer::Signer;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::class::Class;

mod disk;
mod memory;

pub use disk::{Disk, MAX_FILE_BYTES};
pub use memory::Memory;

/// Keeps keys, in this process or elsewhere.
#[async_trait]
pub trait KeyManager: Send + Sync + std::fmt::Debug {
    /// Makes a key and keeps it as `id`, in place of any other; on an error the other stays.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError`]; its class says whether a retry is sensible.
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyManagerError>;

    /// The key kept as `id`.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError::Unavailable`].
    async fn get(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError>;

    /// All keys with their names, in order of name.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError::Unavailable`].
    async fn list(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, KeyManagerError>;

    /// A key to seal files with, derived for `label` from a key that survives restarts; `None` if no key does.
    fn seal_key(&self, label: &str) -> Option<Zeroizing<[u8; SEAL_KEY_LEN]>> {
        let _ = label;
        None
    }

    /// The private key kept as `id`, if it is in this process (TLS needs it).
    fn private_key(&self, id: &str) -> Option<PrivateKey> {
        let _ = id;
        None
    }
}

/// Bytes in a key to seal files with.
pub const SEAL_KEY_LEN: usize = 32;

/// Most keys that one local manager keeps; a further name is refused.
pub const MAX_KEYS: usize = 1_024;

/// Longest name of a key, in bytes.
pub const MAX_ID_LEN: usize = 255;

/// A key manager did not do it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KeyManagerError {
    #[error("key name {0:?} is not usable: must have 1 to 255 bytes")]
    Id(String),
    #[error("key manager is full: it keeps at most {MAX_KEYS} keys, and {0:?} would be one more")]
    Full(String),
    #[error("key {id:?} was not generated")]
    Generate { id: String, source: KeyError },
    #[error("keys file {path} cannot be read: check that it belongs to the user who runs this")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "keys file {path} cannot be written: check the directory's owner and free space; nothing changed"
    )]
    Write { path: PathBuf, source: std::io::Error },
    #[error("keys file {path} has more than {MAX_FILE_BYTES} bytes: it is not a keys file")]
    TooLarge { path: PathBuf },
    #[error(
        "keys file {path} is damaged: {reason}; restore it from a backup, or move it away to start with new keys"
    )]
    Corrupt { path: PathBuf, reason: String },
    #[error("key manager is unavailable")]
    Unavailable { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the thread that makes keys was lost")]
    Thread,
}

impl KeyManagerError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Id(_) | Self::Full(_) => Class::Caller,
            Self::Read { .. } | Self::TooLarge { .. } | Self::Corrupt { .. } => Class::Permanent,
            // A full disk may be emptied, an unreachable KMS may come back, a shutting-down runtime ends.
            Self::Write { .. } | Self::Unavailable { .. } | Self::Thread => Class::Transient,
            Self::Generate { .. } => Class::Bug,
        }
    }
}

type Keys = BTreeMap<String, PrivateKey>;

fn admit(keys: &Keys, id: &str) -> Result<(), KeyManagerError> {
    if id.is_empty() || id.len() > MAX_ID_LEN {
        return Err(KeyManagerError::Id(id.chars().take(MAX_ID_LEN).collect()));
    }
    if keys.len() >= MAX_KEYS && !keys.contains_key(id) {
        return Err(KeyManagerError::Full(id.to_owned()));
    }
    Ok(())
}

/// Elliptic curve keys take microseconds; RSA keys take up to seconds and leave the reactor.
async fn generate(id: &str, key_type: KeyType) -> Result<PrivateKey, KeyManagerError> {
    let generated = match key_type {
        KeyType::EcP256 | KeyType::EcP384 => PrivateKey::generate(key_type),
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            let made = blocking::run(move || PrivateKey::generate(key_type)).await;
            made.map_err(|_| KeyManagerError::Thread)?
        }
    };
    generated.map_err(|source| KeyManagerError::Generate { id: id.to_owned(), source })
}

fn listed(keys: &Keys) -> Vec<(String, Arc<dyn Signer>)> {
    keys.iter().map(|(id, key)| (id.clone(), Arc::new(key.clone()) as Arc<dyn Signer>)).collect()
}

#[cfg(test)]
mod tests;
