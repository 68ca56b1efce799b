//! This process's own X.509-SVID.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use vouchsafe_types::X509Svid;
use vouchsafe_types::x509_svid::X509SvidError;
use zeroize::Zeroize;

/// A certificate chain, leaf first and without the root, and the leaf's private key, which is wiped on drop.
pub struct OwnSvid {
    /// DER certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl OwnSvid {
    /// From DER certificates and a PKCS#8 key.
    #[must_use]
    pub fn from_pkcs8(chain: &[Arc<[u8]>], key: &[u8]) -> Self {
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Self { chain, key: PrivateKeyDer::Pkcs8(key.to_vec().into()) }
    }
}

impl Drop for OwnSvid {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for OwnSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSvid").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// The current own SVID, if there is one yet. Cheap to clone; all clones see a change at once.
///
/// A handshake takes what is held when it begins. Without an SVID a server refuses handshakes and a client is
/// anonymous.
#[derive(Clone)]
pub struct SvidCell {
    shared: Arc<Shared>,
}

struct Shared {
    held: ArcSwapOption<Held>,
    changed: watch::Sender<u64>,
}

struct Held {
    svid: Arc<X509Svid>,
    certified: Arc<CertifiedKey>,
}

impl SvidCell {
    /// Holds nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { shared: Arc::new(Shared { held: ArcSwapOption::empty(), changed: watch::Sender::new(0) }) }
    }

    /// Replaces the SVID; counts from the next handshake on.
    ///
    /// # Errors
    ///
    /// When the chain or the key cannot be used, or do not belong together. What was held stays.
    pub fn set(&self, mut own: OwnSvid) -> Result<(), OwnSvidError> {
        let chain = own.chain.iter().map(|der| Arc::from(der.as_ref())).collect();
        let svid = X509Svid::parse(chain).map_err(|source| OwnSvidError::Chain { source })?;
        let unusable = |source| OwnSvidError::Key { source };
        let key = any_supported_type(&own.key).map_err(unusable)?;
        let certified = CertifiedKey::new(std::mem::take(&mut own.chain), key);
        match certified.keys_match() {
            // A key that cannot tell its public half is not held against it.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(OwnSvidError::Mismatch),
            Err(source) => return Err(unusable(source)),
        }
        self.shared.held.store(Some(Arc::new(Held { svid: Arc::new(svid), certified: Arc::new(certified) })));
        self.shared.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// What is held, without the key.
    #[must_use]
    pub fn load(&self) -> Option<Arc<X509Svid>> {
        self.shared.held.load().as_ref().map(|held| held.svid.clone())
    }

    /// Changes with each [`SvidCell::set`]; the number counts them.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.shared.held.load().as_ref().map(|held| held.certified.clone())
    }
}

impl Default for SvidCell {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for SvidCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidCell").field("id", &self.load().map(|svid| svid.id.clone())).finish()
    }
}

impl ResolvesServerCert for SvidCell {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for SvidCell {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.shared.held.load().is_some()
    }
}

/// Why an SVID cannot be used as our own.
#[derive(Debug, thiserror::Error)]
pub enum OwnSvidError {
    /// The chain is not an X.509-SVID.
    #[error("own certificate is not an X.509-SVID")]
    Chain {
        /// What is wrong with it.
        source: X509SvidError,
    },
    /// The key cannot be loaded.
    #[error("own private key cannot be used")]
    Key {
        /// Why.
        source: rustls::Error,
    },
    /// They belong to different SVIDs.
    #[error("own private key does not belong to the own certificate")]
    Mismatch,
}
