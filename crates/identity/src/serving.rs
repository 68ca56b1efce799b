//! A server of pages: it presents an SVID or a certificate of the ordinary web, and asks its clients for nothing, unless
//! it is told which ones may connect.

mod clients;
mod files;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vouchsafe_runtime::clock::Clock;

use crate::config::{KeyExchange, WallTime};

pub use self::clients::{Clients, ClientsError, server_config_for};
pub use self::files::{CertificateFiles, FilesError};

/// A configuration for a server that presents what `certificate` resolves to at each handshake (an
/// [`crate::own::SvidCell`] or a [`CertificateCell`]) and speaks HTTP/1.1.
///
/// # Errors
///
/// [`rustls::Error`], which would be a bug.
pub fn open_server_config(
    key_exchange: KeyExchange,
    certificate: Arc<dyn ResolvesServerCert>,
    clock: Clock,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(key_exchange.provider(), Arc::new(WallTime(clock)))
        .with_protocol_versions(key_exchange.versions())?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The current certificate of a web server (or of its client), with its key. Cheap to clone; all clones see a change at once.
#[derive(Clone)]
pub struct CertificateCell {
    held: Arc<ArcSwap<CertifiedKey>>,
}

impl CertificateCell {
    /// From PEM: the chain, leaf first, and its private key.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] says what cannot be used.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self { held: Arc::new(ArcSwap::from_pointee(certified(chain, key)?)) })
    }

    /// Replaces the certificate and says whether it is another one; counts from the next handshake on.
    ///
    /// # Errors
    ///
    /// [`CertificateError`]; what was held stays.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<bool, CertificateError> {
        let next = certified(chain, key)?;
        let changed = self.held.load().cert != next.cert;
        if changed {
            self.held.store(Arc::new(next));
        }
        Ok(changed)
    }

    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.held.load_full()
    }
}

impl ResolvesServerCert for CertificateCell {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for CertificateCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateCell").finish_non_exhaustive()
    }
}

fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|source| CertificateError::Chain { source })?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| CertificateError::Key { source })?;
    let key = any_supported_type(&key).map_err(|source| CertificateError::Unusable { source })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that cannot tell its public half is not held against it.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::Mismatch),
        Err(source) => Err(CertificateError::Unusable { source }),
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain is broken PEM.
    #[error("certificate cannot be read as PEM")]
    Chain {
        /// Why.
        source: pem::Error,
    },
    /// The chain is empty.
    #[error("there is no certificate in the PEM text; is it the right file?")]
    NoCertificate,
    /// The key is broken PEM, or none.
    #[error("private key cannot be read as PEM")]
    Key {
        /// Why.
        source: pem::Error,
    },
    /// The leaf is no certificate, or the key is of a kind that cannot be used.
    #[error("certificate or private key cannot be used")]
    Unusable {
        /// Why.
        source: rustls::Error,
    },
    /// The key is that of another certificate.
    #[error("the private key does not belong to the certificate; were both files replaced?")]
    Mismatch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_pki::{Ca, Leaf};

    fn pem(leaf: &Leaf) -> (Vec<u8>, Vec<u8>) {
        let encode = |label, der: &[u8]| vouchsafe_types::pem::encode(label, der).into_bytes();
        (encode("CERTIFICATE", &leaf.der), encode("PRIVATE KEY", &leaf.key))
    }

    #[test]
    fn a_broken_replacement_leaves_what_was_held() {
        let ca = Ca::root("ca");
        let (first, first_key) = pem(&ca.issue("spiffe://example.org/1"));
        let (second, second_key) = pem(&ca.issue("spiffe://example.org/2"));
        let cell = CertificateCell::from_pem(&first, &first_key).unwrap();
        let held = cell.held.load_full();
        let refused = |chain: &[u8], key: &[u8]| cell.replace(chain, key).unwrap_err().to_string();
        assert!(refused(&second, &first_key).starts_with("the private key does not belong"));
        assert!(refused(b"", &first_key).starts_with("there is no certificate"));
        assert_eq!(refused(&second, b""), "private key cannot be read as PEM");
        let garbage = vouchsafe_types::pem::encode("CERTIFICATE", b"garbage");
        assert_eq!(refused(garbage.as_bytes(), &first_key), "certificate or private key cannot be used");
        assert!(!cell.replace(&first, &first_key).unwrap(), "the same one is no change");
        assert!(Arc::ptr_eq(&held, &cell.held.load_full()));
        assert!(cell.replace(&second, &second_key).unwrap());
        assert!(!Arc::ptr_eq(&held, &cell.held.load_full()));
    }
}
