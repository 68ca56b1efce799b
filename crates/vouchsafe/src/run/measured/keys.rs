//! The key manager.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::key_manager::{KeyManager, KeyManagerError, SEAL_KEY_LEN};
use vouchsafe_ca::signer::{SignError, Signature, SignatureAlgorithm, Signer};
use vouchsafe_runtime::metrics::{Call, Registry};
use zeroize::Zeroizing;

use super::{Calls, status_of};

/// A key manager whose calls are `server_key_manager_<verb>`.
#[derive(Debug)]
pub(in crate::run) struct MeasuredKeys {
    inner: Arc<dyn KeyManager>,
    calls: Calls,
    signed: Call,
}

impl MeasuredKeys {
    pub(in crate::run) fn new(inner: Arc<dyn KeyManager>, registry: Registry) -> Self {
        let signed = registry.call("server_key_manager_sign_data");
        Self { inner, calls: Calls(registry), signed }
    }

    fn count<T>(&self, name: &str, began: Instant, result: &Result<T, KeyManagerError>) {
        let status = result.as_ref().map_or_else(|error| status_of(error.class()), |_| "OK");
        self.calls.observe(name, status, began.elapsed());
    }

    fn measure(&self, signer: Arc<dyn Signer>) -> Arc<dyn Signer> {
        Arc::new(MeasuredSigner { inner: signer, signed: self.signed.clone() })
    }
}

#[async_trait]
impl KeyManager for MeasuredKeys {
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let began = Instant::now();
        let result = self.inner.generate(id, key_type).await;
        self.count("server_key_manager_generate_key", began, &result);
        result.map(|signer| self.measure(signer))
    }

    async fn get(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError> {
        let began = Instant::now();
        let result = self.inner.get(id).await;
        self.count("server_key_manager_get_public_key", began, &result);
        result.map(|signer| signer.map(|signer| self.measure(signer)))
    }

    async fn list(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, KeyManagerError> {
        let began = Instant::now();
        let result = self.inner.list().await;
        self.count("server_key_manager_get_public_keys", began, &result);
        result.map(|keys| keys.into_iter().map(|(id, signer)| (id, self.measure(signer))).collect())
    }

    fn seal_key(&self, label: &str) -> Option<Zeroizing<[u8; SEAL_KEY_LEN]>> {
        self.inner.seal_key(label)
    }

    fn private_key(&self, id: &str) -> Option<PrivateKey> {
        self.inner.private_key(id)
    }
}

/// A key whose signatures are `server_key_manager_sign_data`.
#[derive(Debug)]
struct MeasuredSigner {
    inner: Arc<dyn Signer>,
    signed: Call,
}

impl MeasuredSigner {
    fn count(&self, began: Instant, result: &Result<Signature, SignError>) {
        let status = result.as_ref().map_or_else(|error| status_of(error.class()), |_| "OK");
        self.signed.observe(&[], status, began.elapsed());
    }
}

#[async_trait]
impl Signer for MeasuredSigner {
    fn public_key_der(&self) -> &[u8] {
        self.inner.public_key_der()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }

    fn sign_now(&self, message: &[u8]) -> Option<Result<Signature, SignError>> {
        let began = Instant::now();
        let result = self.inner.sign_now(message)?;
        self.count(began, &result);
        Some(result)
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let began = Instant::now();
        let result = self.inner.sign(message).await;
        self.count(began, &result);
        result
    }
}
