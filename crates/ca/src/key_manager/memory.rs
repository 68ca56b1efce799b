//! Keys that end with the process.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use super::{KeyManager, KeyManagerError, Keys, admit, generate, listed};
use crate::key::{KeyType, PrivateKey};
use crate::signer::Signer;

/// Keeps keys in memory: a restart means new authorities and a new attestation.
#[derive(Debug, Default)]
pub struct Memory {
    keys: RwLock<Keys>,
}

impl Memory {
    /// No keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl KeyManager for Memory {
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let key = generate(id, key_type).await?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        admit(&keys, id)?;
        keys.insert(id.to_owned(), key.clone());
        Ok(Arc::new(key))
    }

    async fn get(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError> {
        Ok(self.private_key(id).map(|key| Arc::new(key) as Arc<dyn Signer>))
    }

    async fn list(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, KeyManagerError> {
        Ok(listed(&self.keys.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn private_key(&self, id: &str) -> Option<PrivateKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}
