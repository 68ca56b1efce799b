//! Which clients may read the pages of a server.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use vouchsafe_runtime::clock::Clock;

use crate::config::{Expect, KeyExchange, WallTime, provider};
use crate::roots::RootsCell;
use crate::tls_verifier::PeerVerifier;
use crate::verify::SvidVerifier;
use crate::web;

/// Who may connect.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Anybody; no certificate is asked for.
    Anyone,
    /// Who presents an X.509-SVID that is expected.
    Svids(RootsCell, Expect),
    /// Who presents a certificate that an authority of these PEM blocks has issued.
    IssuedBy(Arc<[u8]>),
}

/// A configuration for a server that presents what `certificate` resolves to at each handshake, speaks HTTP/1.1, and
/// refuses whoever is not one of `clients`.
///
/// # Errors
///
/// [`ClientsError`]: the authorities of [`Clients::IssuedBy`] cannot be used, or rustls refuses, which would be a bug.
pub fn server_config_for(
    clients: Clients,
    key_exchange: KeyExchange,
    certificate: Arc<dyn ResolvesServerCert>,
    clock: Clock,
) -> Result<ServerConfig, ClientsError> {
    let builder = ServerConfig::builder_with_details(key_exchange.provider(), Arc::new(WallTime(clock)))
        .with_protocol_versions(key_exchange.versions())
        .map_err(|source| ClientsError::Inconsistent { source })?;
    let verifier: Option<Arc<dyn ClientCertVerifier>> = match clients {
        Clients::Anyone => None,
        Clients::Svids(roots, expect) => {
            Some(Arc::new(PeerVerifier::new(SvidVerifier::new(roots), expect, true)))
        }
        Clients::IssuedBy(authorities) => Some(issued_by(&authorities)?),
    };
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn issued_by(authorities: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, ClientsError> {
    let roots = web::pem_roots(authorities).map_err(|source| ClientsError::Authorities { source })?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider().clone()).build();
    verifier.map_err(|source| ClientsError::Verifier { source })
}

/// Why clients cannot be told apart.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The authorities cannot be used.
    #[error("cannot use the certificate authorities of clients")]
    Authorities {
        /// Why.
        source: web::Error,
    },
    /// rustls does not take them.
    #[error("cannot verify clients by their certificate authorities")]
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::{Duration, UNIX_EPOCH};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::config::VERSIONS;
    use crate::own::SvidCell;
    use crate::test_pki::{Ca, Leaf, NOW, roots};

    /// Believes any server.
    #[derive(Debug)]
    struct Trusting;

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    }

    /// Whether a client with `leaf` gets a byte from a server for `clients`.
    async fn is_served(clients: &Clients, leaf: Option<&Leaf>) -> bool {
        let own = SvidCell::empty();
        own.set(Ca::root("server").issue("spiffe://example.org/spire/server").own(&[])).unwrap();
        let clock = Clock::derived(UNIX_EPOCH + Duration::from_secs(NOW));
        let server = server_config_for(clients.clone(), KeyExchange::Any, Arc::new(own), clock).unwrap();
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting));
        let client = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let key = PrivateKeyDer::try_from(leaf.key.clone()).unwrap();
                builder.with_client_auth_cert(vec![leaf.der.clone()], key).unwrap()
            }
        };
        let (near, far) = duplex(64 * 1024);
        let accept = async {
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
            stream.write_all(b"x").await?;
            stream.shutdown().await
        };
        let connect = async {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
            stream.read_u8().await
        };
        let (served, _): (io::Result<u8>, _) = tokio::join!(connect, accept);
        served.is_ok()
    }

    #[tokio::test]
    async fn anyone_needs_no_certificate() {
        assert!(is_served(&Clients::Anyone, None).await);
    }

    #[tokio::test]
    async fn an_svid_must_be_the_expected_one_of_a_known_trust_domain() {
        let (ca, other) = (Ca::root("ca"), Ca::root("other"));
        let expected = "spiffe://example.org/prometheus".parse().unwrap();
        let clients = Clients::Svids(RootsCell::new(roots(&[("example.org", &[&ca])])), Expect::Id(expected));
        assert!(is_served(&clients, Some(&ca.issue("spiffe://example.org/prometheus"))).await);
        assert!(!is_served(&clients, None).await);
        assert!(!is_served(&clients, Some(&ca.issue("spiffe://example.org/other"))).await);
        assert!(!is_served(&clients, Some(&other.issue("spiffe://example.org/prometheus"))).await);
    }

    #[tokio::test]
    async fn a_certificate_must_be_issued_by_a_given_authority() {
        let (ca, other) = (Ca::root("ca"), Ca::root("other"));
        let text = vouchsafe_types::pem::encode("CERTIFICATE", &ca.der).into_bytes();
        let clients = Clients::IssuedBy(text.into());
        assert!(is_served(&clients, Some(&ca.issue("spiffe://any/one"))).await);
        assert!(!is_served(&clients, None).await);
        assert!(!is_served(&clients, Some(&other.issue("spiffe://any/one"))).await);
        let nothing = Clients::IssuedBy(b"nothing".as_slice().into());
        let certificate = Arc::new(SvidCell::empty());
        server_config_for(nothing, KeyExchange::Any, certificate, Clock::system()).unwrap_err();
    }
}
