use std::io;
use std::time::Duration;

use rcgen::PKCS_ECDSA_P384_SHA384;
use rustls::NamedGroup;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::own::OwnSvidError;
use crate::peer;
use crate::test_pki::{Ca, NOW, roots, trust_domain};
use crate::verify::VerifyError;

const SERVER: &str = "spiffe://example.org/spire/server";
const AGENT: &str = "spiffe://example.org/spire/agent/join_token/1";

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn clock() -> Clock {
    Clock::derived(std::time::UNIX_EPOCH + Duration::from_secs(NOW))
}

fn holding(own: crate::own::OwnSvid) -> SvidCell {
    let cell = SvidCell::empty();
    cell.set(own).unwrap();
    cell
}

struct Fixture {
    ca: Ca,
    roots: RootsCell,
    own: SvidCell,
}

type Streams = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

impl Fixture {
    fn new() -> Self {
        let ca = Ca::root("example");
        let roots = RootsCell::new(roots(&[("example.org", &[&ca])]));
        let own = holding(ca.issue(SERVER).own(&[]));
        Self { ca, roots, own }
    }

    fn server(&self) -> ServerConfig {
        let members = Expect::MemberOf(trust_domain("example.org"));
        server_config(&self.own, ClientAuth::Optional(self.roots.clone(), members), clock()).unwrap()
    }

    fn trust(&self) -> ServerTrust {
        ServerTrust::Verified(self.roots.clone(), Expect::Id(id(SERVER)))
    }

    async fn connect(&self, own: Option<&SvidCell>) -> io::Result<Streams> {
        connect(self.server(), client_config(self.trust(), own, clock()).unwrap()).await
    }
}

/// What a person is told.
fn reason(outcome: io::Result<Streams>) -> String {
    let error = outcome.unwrap_err();
    VerifyError::behind(&error).unwrap_or_else(|| panic!("{error}")).to_string()
}

/// Shakes hands and sends one byte each way, because a TLS 1.3 client is done before the server has judged it.
async fn connect(server: ServerConfig, client: ClientConfig) -> io::Result<Streams> {
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from("nobody.test").unwrap();
    let client = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await?;
        Ok::<_, io::Error>(stream)
    };
    let server = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"x").await?;
        Ok::<_, io::Error>(stream)
    };
    let (client, server) = tokio::join!(client, server);
    // Both fail when one refuses; the refuser's error is the one that says why.
    match (client, server) {
        (Ok(client), Ok(server)) => Ok((client, server)),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        (Err(client), Err(server)) if client.to_string().contains("received fatal alert") => Err(server),
        (Err(client), Err(_)) => Err(client),
    }
}

#[tokio::test]
async fn an_anonymous_client_is_served_and_the_server_is_verified() {
    let fixture = Fixture::new();
    let (client, server) = fixture.connect(None).await.unwrap();
    assert!(server.get_ref().1.peer_certificates().is_none());
    let peer = peer::read(client.get_ref().1.peer_certificates().unwrap()).unwrap();
    assert_eq!(peer.id.as_str(), SERVER);
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(
        client.get_ref().1.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519MLKEM768
    );
}

#[tokio::test]
async fn a_client_with_an_svid_is_known_to_the_server() {
    let fixture = Fixture::new();
    let intermediate = fixture.ca.intermediate("intermediate", |_| ());
    let own = holding(intermediate.issue_with(AGENT, &PKCS_ECDSA_P384_SHA384, |_| ()).own(&[&intermediate]));
    let (_, server) = fixture.connect(Some(&own)).await.unwrap();
    let peer = peer::read(server.get_ref().1.peer_certificates().unwrap()).unwrap();
    assert_eq!(peer.id.as_str(), AGENT);
    assert_eq!(peer.chain.len(), 2);
}

#[tokio::test]
async fn a_client_that_holds_no_svid_yet_is_anonymous() {
    let fixture = Fixture::new();
    let (_, server) = fixture.connect(Some(&SvidCell::empty())).await.unwrap();
    assert!(server.get_ref().1.peer_certificates().is_none());
}

#[tokio::test]
async fn a_client_certificate_that_does_not_verify_is_refused() {
    let fixture = Fixture::new();
    let impostor = holding(Ca::root("impostor").issue(AGENT).own(&[]));
    let error = reason(fixture.connect(Some(&impostor)).await);
    assert!(error.contains("is not signed by an authority of its trust domain"), "{error}");
    let foreign = holding(fixture.ca.issue("spiffe://foreign.test/w").own(&[]));
    let error = reason(fixture.connect(Some(&foreign)).await);
    assert!(error.contains("no bundle for the trust domain of spiffe://foreign.test/w"), "{error}");
}

#[tokio::test]
async fn a_foreign_client_is_served_only_if_it_is_expected() {
    let fixture = Fixture::new();
    let foreign_ca = Ca::root("foreign");
    fixture.roots.set(roots(&[("example.org", &[&fixture.ca]), ("foreign.test", &[&foreign_ca])]));
    let admin = holding(foreign_ca.issue("spiffe://foreign.test/admin").own(&[]));
    let error = reason(fixture.connect(Some(&admin)).await);
    assert!(
        error.contains("the peer is spiffe://foreign.test/admin, expected a member of example.org"),
        "{error}"
    );
    let expect = Expect::Matching("an admin", Arc::new(|id| id.as_str() == "spiffe://foreign.test/admin"));
    let server =
        server_config(&fixture.own, ClientAuth::Optional(fixture.roots.clone(), expect), clock()).unwrap();
    assert!(connect(server, client_config(fixture.trust(), Some(&admin), clock()).unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_server_that_requires_client_certificates_refuses_anonymous_clients() {
    let fixture = Fixture::new();
    let auth = ClientAuth::Required(fixture.roots.clone(), Expect::Anyone);
    let server = server_config(&fixture.own, auth, clock()).unwrap();
    assert!(connect(server, client_config(fixture.trust(), None, clock()).unwrap()).await.is_err());
}

#[tokio::test]
async fn a_server_with_another_id_is_refused() {
    let fixture = Fixture::new();
    fixture.own.set(fixture.ca.issue(AGENT).own(&[])).unwrap();
    let error = reason(fixture.connect(None).await);
    assert!(error.contains(&format!("the peer is {AGENT}, expected {SERVER}")), "{error}");
}

#[tokio::test]
async fn an_expired_server_is_refused_by_our_clock() {
    let fixture = Fixture::new();
    let late = Clock::derived(std::time::UNIX_EPOCH + Duration::from_secs(NOW + 3601));
    let client = client_config(fixture.trust(), None, late).unwrap();
    let error = reason(connect(fixture.server(), client).await);
    assert!(error.contains(&format!("the certificate of {SERVER} expired")), "{error}");
}

#[tokio::test]
async fn insecure_bootstrap_believes_any_server_that_has_its_key() {
    let fixture = Fixture::new();
    for leaf in [Ca::root("impostor").issue(SERVER), fixture.ca.issue(AGENT)] {
        fixture.own.set(leaf.own(&[])).unwrap();
        let trust = ServerTrust::InsecureBootstrap(id(SERVER));
        assert!(connect(fixture.server(), client_config(trust, None, clock()).unwrap()).await.is_ok());
    }
}

#[tokio::test]
async fn a_rotation_reaches_the_next_handshake_and_not_running_connections() {
    let fixture = Fixture::new();
    let mut changes = fixture.own.watch();
    let (server, client) =
        (Arc::new(fixture.server()), client_config(fixture.trust(), None, clock()).unwrap());
    let (mut before, mut before_server) = connect((*server).clone(), client.clone()).await.unwrap();
    let serial = |stream: &client::TlsStream<DuplexStream>| {
        peer::read(stream.get_ref().1.peer_certificates().unwrap()).unwrap().serial
    };
    // A new authority, a new server SVID, and the old authority gone.
    let next = Ca::root("next");
    fixture.roots.set(roots(&[("example.org", &[&next])]));
    fixture.own.set(next.issue(SERVER).own(&[])).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let (after, _) = connect((*server).clone(), client).await.unwrap();
    assert_ne!(serial(&before), serial(&after));
    before.write_all(b"y").await.unwrap();
    assert_eq!(before_server.read_u8().await.unwrap(), b'y');
}

#[tokio::test]
async fn a_server_without_an_svid_refuses_handshakes() {
    let fixture = Fixture::new();
    let auth = ClientAuth::Optional(fixture.roots.clone(), Expect::Anyone);
    let server = server_config(&SvidCell::empty(), auth, clock()).unwrap();
    assert!(connect(server, client_config(fixture.trust(), None, clock()).unwrap()).await.is_err());
}

#[tokio::test]
async fn tls_1_2_works_and_nothing_older_is_spoken() {
    let fixture = Fixture::new();
    let own = holding(fixture.ca.issue(AGENT).own(&[]));
    let mut client = ClientConfig::builder_with_details(provider().clone(), Arc::new(WallTime(clock())))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(
            SvidVerifier::new(fixture.roots.clone()),
            Expect::Id(id(SERVER)),
            true,
        )))
        .with_client_cert_resolver(Arc::new(own));
    client.alpn_protocols = vec![H2.to_vec()];
    let (_, server) = connect(fixture.server(), client).await.unwrap();
    assert_eq!(server.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    assert!(server.get_ref().1.peer_certificates().is_some());
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let fixture = Fixture::new();
    let (server, client) = (fixture.server(), client_config(fixture.trust(), None, clock()).unwrap());
    for _ in 0..2 {
        let (stream, _) = connect(server.clone(), client.clone()).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_key_of_another_certificate_is_refused_and_what_was_held_stays() {
    let fixture = Fixture::new();
    let held = fixture.own.load().unwrap();
    let mut mixed = fixture.ca.issue(SERVER);
    mixed.key = fixture.ca.issue(SERVER).key;
    assert!(matches!(fixture.own.set(mixed.own(&[])), Err(OwnSvidError::Mismatch)));
    mixed.key = b"garbage".to_vec();
    assert!(matches!(fixture.own.set(mixed.own(&[])), Err(OwnSvidError::Key { .. })));
    assert_eq!(fixture.own.load().unwrap().serial, held.serial);
}

#[test]
fn debug_output_shows_no_key() {
    let fixture = Fixture::new();
    let own = fixture.ca.issue(SERVER).own(&[]);
    assert_eq!(format!("{own:?}"), "OwnSvid { certificates: 1, .. }");
    assert_eq!(format!("{:?}", fixture.own), format!("SvidCell {{ id: Some({:?}) }}", id(SERVER)));
}
