use std::io;
use std::time::Duration;

use rcgen::SanType;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::test_pki::{Ca, Leaf, NOW};

fn pem(kind: &str, der: &[u8]) -> Vec<u8> {
    vouchsafe_types::pem::encode(kind, der).into_bytes()
}

fn leaf(ca: &Ca, name: &str) -> Leaf {
    ca.issue_with("spiffe://unused/", &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    })
}

/// Connects to `host` where `ca` issued a certificate for `node`; the server wants a client of `clients`, if given.
async fn connect(ca: &Ca, clients: Option<&Ca>, config: ClientConfig, host: &'static str) -> io::Result<()> {
    let leaf = leaf(ca, "node");
    let builder = ServerConfig::builder_with_details(provider().clone(), Arc::new(WallTime(clock())))
        .with_protocol_versions(VERSIONS)
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(pem_roots(&pem("CERTIFICATE", &clients.der)).unwrap());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider().clone());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(leaf.key.clone()).unwrap();
    let server = builder.with_single_cert(vec![leaf.der.clone()], key).unwrap();
    let (near, far) = duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.shutdown().await
    };
    let connect = async {
        let name = ServerName::try_from(host).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, near).await?;
        stream.read_u8().await.map(drop)
    };
    tokio::join!(connect, accept).0
}

fn clock() -> Clock {
    Clock::derived(std::time::UNIX_EPOCH + Duration::from_secs(NOW))
}

fn config(expected: Expected<'_>) -> ClientConfig {
    private_client_config(expected, None, clock()).unwrap()
}

#[tokio::test]
async fn a_server_proves_as_much_as_is_expected_of_it() {
    let (ca, other) = (Ca::root("ca"), Ca::root("other"));
    let (right, wrong) = (pem("CERTIFICATE", &ca.der), pem("CERTIFICATE", &other.der));
    connect(&ca, None, config(Expected::Name(&right)), "node").await.unwrap();
    connect(&ca, None, config(Expected::Name(&right)), "other").await.unwrap_err();
    connect(&ca, None, config(Expected::Name(&wrong)), "node").await.unwrap_err();
    connect(&ca, None, config(Expected::Chain(&right)), "127.0.0.1").await.unwrap();
    connect(&ca, None, config(Expected::Chain(&wrong)), "127.0.0.1").await.unwrap_err();
    connect(&ca, None, config(Expected::Chain(&wrong)), "node").await.unwrap_err();
    connect(&ca, None, config(Expected::Nothing), "127.0.0.1").await.unwrap();
    assert!(private_client_config(Expected::Chain(b"nothing"), None, clock()).is_err());
}

#[tokio::test]
async fn the_client_presents_its_certificate_where_one_is_asked_for() {
    let (ca, clients) = (Ca::root("ca"), Ca::root("clients"));
    let own = leaf(&clients, "agent");
    let key = vouchsafe_types::pem::encode("PRIVATE KEY", &own.key);
    let cell = CertificateCell::from_pem(&pem("CERTIFICATE", &own.der), key.as_bytes()).unwrap();
    let with_own = private_client_config(Expected::Nothing, Some(&cell), clock()).unwrap();
    connect(&ca, Some(&clients), with_own, "node").await.unwrap();
    connect(&ca, Some(&clients), config(Expected::Nothing), "node").await.unwrap_err();
}
