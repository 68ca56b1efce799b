//! A client of the ordinary web: the peer is a host name, vouched for by a certificate authority that is trusted for
//! all of the web. Used where the peer cannot have an SVID that we know: an `https_web` bundle endpoint, the URL of a
//! first trust bundle.

mod private;

use std::sync::Arc;

use rustls::client::{Resumption, VerifierBuilderError};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use vouchsafe_runtime::clock::Clock;

use crate::config::{VERSIONS, WallTime, provider};

pub use self::private::{Expected, private_client_config};

/// Which authorities are believed.
#[derive(Clone, Debug)]
pub enum WebRoots {
    /// Those of the operating system. Read anew at each call, from where `SSL_CERT_FILE` and `SSL_CERT_DIR` say if set.
    System,
    /// The certificates of these PEM blocks.
    Pem(Arc<[u8]>),
}

/// A configuration for a client that knows servers by host name and presents no certificate. TLS 1.2 or newer; no
/// ALPN; no session is resumed.
///
/// Reads files for [`WebRoots::System`].
///
/// # Errors
///
/// [`Error`]; a retry makes sense once the certificates have been installed.
pub fn web_client_config(roots: &WebRoots, clock: Clock) -> Result<ClientConfig, Error> {
    let store = match roots {
        WebRoots::System => system_roots()?,
        WebRoots::Pem(text) => pem_roots(text)?,
    };
    let mut config = ClientConfig::builder_with_details(provider().clone(), Arc::new(WallTime(clock)))
        .with_protocol_versions(VERSIONS)
        .map_err(|source| Error::Inconsistent { source })?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Why the web cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system has no certificates of authorities.
    #[error("no certificate authorities found on this system; install the package ca-certificates")]
    NoSystemRoots,
    /// The PEM blocks cannot be read.
    #[error("certificate authorities cannot be read as PEM")]
    Pem {
        /// Why.
        source: pem::Error,
    },
    /// There is no certificate in the PEM blocks.
    #[error("there is no certificate in the PEM text of the certificate authorities")]
    NoPemRoots,
    /// A certificate cannot be an authority.
    #[error("certificate {index} of the certificate authorities cannot be used")]
    Unusable {
        /// Which, counted from 1.
        index: usize,
        /// Why.
        source: rustls::Error,
    },
    /// rustls does not take the authorities.
    #[error("cannot verify servers by these certificate authorities")]
    Verifier {
        /// Why.
        source: VerifierBuilderError,
    },
    /// Would be a bug.
    #[error("TLS configuration is inconsistent")]
    Inconsistent {
        /// What rustls says.
        source: rustls::Error,
    },
}

/// A system has many; one that cannot be used does not spoil the others.
fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "part of the system's certificate authorities cannot be read");
    }
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(found.certs);
    if usable == 0 { Err(Error::NoSystemRoots) } else { Ok(store) }
}

pub(crate) fn pem_roots(text: &[u8]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for (index, der) in CertificateDer::pem_slice_iter(text).enumerate() {
        let der = der.map_err(|source| Error::Pem { source })?;
        store.add(der).map_err(|source| Error::Unusable { index: index + 1, source })?;
    }
    if store.is_empty() { Err(Error::NoPemRoots) } else { Ok(store) }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use rcgen::SanType;
    use rustls::ServerConfig;
    use rustls_pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::test_pki::{Ca, NOW};

    fn pem(ders: &[&[u8]]) -> WebRoots {
        let text: String = ders.iter().map(|der| vouchsafe_types::pem::encode("CERTIFICATE", der)).collect();
        WebRoots::Pem(text.into_bytes().into())
    }

    /// Connects to `host` where `ca` issued a certificate for `example.org`, believing `roots`.
    async fn connect(ca: &Ca, roots: &WebRoots, host: &'static str, now: u64) -> io::Result<()> {
        let leaf = ca.issue_with("spiffe://unused/", &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.subject_alt_names = vec![SanType::DnsName("example.org".try_into().unwrap())];
        });
        let server = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der.clone()], PrivateKeyDer::try_from(leaf.key.clone()).unwrap())
            .unwrap();
        let clock = Clock::derived(std::time::UNIX_EPOCH + Duration::from_secs(now));
        let client = web_client_config(roots, clock).unwrap();
        let (near, far) = duplex(64 * 1024);
        let accept = async {
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
            stream.write_all(b"x").await?;
            stream.shutdown().await
        };
        let connect = async {
            let name = ServerName::try_from(host).unwrap();
            let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
            stream.read_u8().await.map(drop)
        };
        tokio::join!(connect, accept).0
    }

    #[tokio::test]
    async fn a_server_is_its_host_name_vouched_for_by_a_given_authority_now() {
        let (ca, other) = (Ca::root("ca"), Ca::root("other"));
        let both = pem(&[&other.der, &ca.der]);
        connect(&ca, &both, "example.org", NOW).await.unwrap();
        connect(&ca, &both, "example.com", NOW).await.unwrap_err();
        connect(&ca, &both, "example.org", NOW + 7200).await.unwrap_err();
        connect(&ca, &pem(&[&other.der]), "example.org", NOW).await.unwrap_err();
    }

    #[test]
    fn authorities_that_cannot_be_used_are_refused_by_number() {
        let ca = Ca::root("ca");
        let refused = |roots| web_client_config(&roots, Clock::system()).unwrap_err().to_string();
        assert_eq!(
            refused(WebRoots::Pem(b"nothing".as_slice().into())),
            "there is no certificate in the PEM text of the certificate authorities"
        );
        assert_eq!(
            refused(pem(&[&ca.der, b"no DER"])),
            "certificate 2 of the certificate authorities cannot be used"
        );
    }
}
