use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::*;

pub(crate) fn configs() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

async fn listen(limits: Limits) -> (TlsListener, SocketAddr, TlsConnector) {
    let (server, client) = configs();
    let listener = TlsListener::bind(([127, 0, 0, 1], 0).into(), server, limits).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address, client.into())
}

async fn dial(
    connector: TlsConnector,
    address: SocketAddr,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

#[tokio::test]
async fn a_connection_comes_with_its_peer_and_without_delay() {
    let (mut listener, address, connector) = listen(Limits::default()).await;
    let (client, server) = tokio::join!(dial(connector, address), listener.accept());
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(server.connect_info().address, client.get_ref().0.local_addr().unwrap());
    assert!(server.connect_info().svid.is_none(), "an anonymous client");
    let Socket::Tcp(tcp) = server.stream.get_ref().0 else { panic!("not TCP") };
    assert!(tcp.nodelay().unwrap());
    client.write_all(b"ping").await.unwrap();
    let mut read = [0; 4];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn silent_clients_and_garbage_do_not_keep_others_waiting() {
    let (mut listener, address, connector) = listen(Limits::default()).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let both = async { tokio::join!(dial(connector, address), listener.accept()) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up_and_frees_its_place() {
    let limits = Limits { handshakes: 1, handshake_timeout: Duration::from_millis(100) };
    let (mut listener, address, connector) = listen(limits).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { silent.read(&mut [0; 1]).await.unwrap() });
    let both = async { tokio::join!(dial(connector, address), listener.accept()) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(client.is_ok() && server.is_ok());
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), 0, "the silent one was closed");
    assert!(listener.unfinished.is_empty());
}

#[tokio::test]
async fn one_address_may_have_half_of_the_unfinished_handshakes() {
    let limits = Limits { handshakes: 4, ..Limits::default() };
    let (mut listener, address, _) = listen(limits).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let third_is_closed = async {
        let third = &mut silent[2];
        third.read(&mut [0; 1]).await
    };
    tokio::select! {
        read = third_is_closed => assert!(matches!(read, Ok(0) | Err(_))),
        _ = listener.accept() => panic!("nobody shook hands"),
    }
    assert_eq!(listener.unfinished[&PeerKey::address(address.ip())], 2);
}

/// A server that asks for client certificates, and a client that presents one with this URI.
fn mutual(uri: &str) -> (Arc<rustls::ServerConfig>, TlsConnector) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(params, key);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let roots = Arc::new(roots);
    let issue = |names: Vec<rcgen::SanType>| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        (vec![der], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    };
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let (chain, key) = issue(vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())]);
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let (chain, key) = issue(vec![rcgen::SanType::URI(uri.try_into().unwrap())]);
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    (Arc::new(server), Arc::new(client).into())
}

#[tokio::test]
async fn a_client_with_an_svid_is_named_and_one_with_another_certificate_is_refused() {
    let (config, connector) = mutual("spiffe://example.org/agent");
    let mut listener =
        TlsListener::bind(([127, 0, 0, 1], 0).into(), config, Limits::default()).await.unwrap();
    let (client, server) = tokio::join!(dial(connector, listener.local_addr().unwrap()), listener.accept());
    let server = server.unwrap();
    let svid = server.connect_info().svid.unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://example.org/agent");
    // Others at its address are counted apart from it.
    assert!(matches!(server.peer_key(), PeerKey::Identity(_)), "{:?}", server.peer_key());
    drop(client);

    let (config, connector) = mutual("https://example.org/agent");
    let mut listener =
        TlsListener::bind(([127, 0, 0, 1], 0).into(), config, Limits::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = async {
        let mut client = dial(connector, address).await.unwrap();
        client.read(&mut [0; 1]).await
    };
    tokio::select! {
        read = refused => assert!(!matches!(read, Ok(1)), "closed"),
        _ = listener.accept() => panic!("the certificate names nobody"),
    }
}

/// What the server knows of a client that sends `header` before its handshake, if it lets it in.
async fn known_as(trusted: &str, header: &[u8]) -> Option<SocketAddr> {
    let (listener, address, connector) = listen(Limits::default()).await;
    let mut listener = listener.with_balancers(Balancers::new(vec![trusted.parse().unwrap()]));
    let client = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(header).await?;
        connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await
    };
    let served = async { listener.accept().await.unwrap().connect_info().address };
    let both = async { tokio::join!(client, served) };
    tokio::select! {
        biased;
        (client, known) = both => client.ok().map(|_| known),
        () = tokio::time::sleep(Duration::from_millis(500)) => None,
    }
}

#[tokio::test]
async fn a_client_behind_a_balancer_is_known_by_the_address_that_the_balancer_tells() {
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 8081\r\n";
    let told = Some("203.0.113.7:40000".parse().unwrap());
    assert_eq!(known_as("127.0.0.0/8", header).await, told);
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x7f\0\0\x01\x9c\x40\x1f\x91";
    assert_eq!(known_as("127.0.0.0/8", binary).await, told);
    let own = known_as("127.0.0.0/8", b"").await.unwrap();
    assert!(own.ip().is_loopback(), "without a header: {own}");
}

#[tokio::test]
async fn nobody_else_chooses_the_address_that_it_is_known_by() {
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 8081\r\n";
    assert_eq!(known_as("10.0.0.0/8", header).await, None);
    assert_eq!(known_as("127.0.0.0/8", b"PROXY TCP4 nonsense\r\n").await, None);
    assert!(known_as("10.0.0.0/8", b"").await.is_some());
}

#[tokio::test]
async fn a_client_behind_a_balancer_cannot_keep_its_neighbours_out() {
    let limits = Limits { handshakes: 8, ..Limits::default() };
    let (listener, address, connector) = listen(limits).await;
    let mut listener = listener.with_balancers(Balancers::new(vec!["127.0.0.0/8".parse().unwrap()]));
    let mut silent = Vec::new();
    for _ in 0..6 {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 8081\r\n").await.unwrap();
        silent.push(tcp);
    }
    let client = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(b"PROXY TCP4 203.0.113.8 127.0.0.1 40000 8081\r\n").await?;
        connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await
    };
    let both = async { tokio::join!(client, listener.accept()) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(client.is_ok());
    assert_eq!(server.unwrap().connect_info().address.ip(), IpAddr::from([203, 0, 113, 8]));
    assert_eq!(listener.unfinished[&PeerKey::address([203, 0, 113, 7].into())], 4, "half of all");
}

#[tokio::test]
async fn a_header_that_does_not_end_counts_against_the_time_of_the_handshake() {
    let limits = Limits { handshakes: 1, handshake_timeout: Duration::from_millis(100) };
    let (listener, address, connector) = listen(limits).await;
    let mut listener = listener.with_balancers(Balancers::new(vec!["127.0.0.0/8".parse().unwrap()]));
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"PROXY TCP4 203.0").await.unwrap();
    let both = async { tokio::join!(dial(connector, address), listener.accept()) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(client.is_ok() && server.is_ok());
}
