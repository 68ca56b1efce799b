//! Servers that federate with each other over both profiles, and with endpoints that mean no good.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::NamedGroup;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::messages::{assert_refused, entry};
use support::{TestServer, World, eventually, received};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::{Code, Status};
use vouchsafe_identity::config::{KeyExchange, provider};
use vouchsafe_identity::web::WebRoots;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle;
use vouchsafe_proto::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use vouchsafe_proto::spire::api::server::trustdomain::v1 as td;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use vouchsafe_server::Config;
use vouchsafe_server::config::federation::{BundleEndpoint, CertificateFiles, ServingProfile};
use vouchsafe_types::bundle::format::to_spiffe_json;
use vouchsafe_types::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use vouchsafe_types::trust_domain::TrustDomain;

fn endpoint(profile: ServingProfile) -> BundleEndpoint {
    let refresh_hint = BundleEndpoint::DEFAULT_REFRESH_HINT;
    BundleEndpoint { address: "127.0.0.1:0".parse().unwrap(), refresh_hint, profile }
}

/// A server of `name` that serves its bundle.
async fn start(world: &World, name: &str, profile: ServingProfile) -> TestServer {
    let adjust = |config: &mut Config| {
        config.trust_domain = TrustDomain::parse(name).unwrap();
        config.federation.bundle_endpoint = Some(endpoint(profile));
    };
    world.try_start(adjust).await.unwrap()
}

fn url(server: &TestServer) -> String {
    format!("https://localhost:{}", server.running.bundle_endpoint.unwrap().port())
}

fn by_spiffe_id(name: &str, url: &str, id: &str) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: name.into(),
        bundle_endpoint_url: url.into(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
            endpoint_spiffe_id: id.into(),
        })),
        trust_domain_bundle: None,
    }
}

fn by_name(name: &str, url: &str) -> types::FederationRelationship {
    types::FederationRelationship {
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})),
        ..by_spiffe_id(name, url, "")
    }
}

async fn create(server: &TestServer, relationship: types::FederationRelationship) {
    let request = td::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![relationship],
        output_mask: None,
    };
    let answer = server.admin.trust_domains().batch_create_federation_relationship(request).await;
    let status = answer.unwrap().into_inner().results[0].status.clone().unwrap();
    assert_eq!(status.message, "OK");
}

async fn set(server: &TestServer, given: types::Bundle) {
    let request = bundle::BatchSetFederatedBundleRequest { bundle: vec![given], output_mask: None };
    let answer = server.admin.bundles().batch_set_federated_bundle(request).await.unwrap().into_inner();
    assert_eq!(answer.results[0].status.as_ref().unwrap().message, "OK");
}

async fn held(server: &TestServer, name: &str) -> Option<types::Bundle> {
    let request = bundle::GetFederatedBundleRequest { trust_domain: name.into(), ..Default::default() };
    server.admin.bundles().get_federated_bundle(request).await.ok().map(tonic::Response::into_inner)
}

async fn refresh(server: &TestServer, name: &str) -> Result<(), Status> {
    let request = td::RefreshBundleRequest { trust_domain: name.into() };
    server.admin.trust_domains().refresh_bundle(request).await.map(drop)
}

/// What `server`'s endpoint serves: its bundle with the hint, without what the document cannot tell.
async fn served(server: &TestServer) -> types::Bundle {
    let mut bundle = types::Bundle { refresh_hint: 300, ..server.bundle().await };
    bundle.jwt_authorities.iter_mut().for_each(|authority| authority.expires_at = 0);
    bundle
}

async fn append(server: &TestServer, other: &TestServer) {
    let request = bundle::AppendBundleRequest {
        x509_authorities: other.bundle().await.x509_authorities,
        ..bundle::AppendBundleRequest::default()
    };
    server.admin.bundles().append_bundle(request).await.unwrap();
}

#[tokio::test]
async fn two_servers_federate_with_each_other_by_spiffe_id() {
    let (a_world, b_world) = (World::new(), World::new());
    let a = start(&a_world, "example.org", ServingProfile::HttpsSpiffe).await;
    let b = start(&b_world, "b.example", ServingProfile::HttpsSpiffe).await;
    create(&a, by_spiffe_id("b.example", &url(&b), "spiffe://b.example/spire/server")).await;
    create(&b, by_spiffe_id("example.org", &url(&a), "spiffe://example.org/spire/server")).await;
    let text =
        "failed to refresh bundle: can't perform SPIFFE Authentication: local copy of bundle not found; …";
    assert_refused(refresh(&a, "b.example").await, Code::Internal, text);

    // The operators exchange the first bundles; from then on the servers do.
    set(&a, b.bundle().await).await;
    set(&b, a.bundle().await).await;
    eventually(async || (held(&a, "b.example").await == Some(served(&b).await)).then_some(())).await;
    eventually(async || (held(&b, "example.org").await == Some(served(&a).await)).then_some(())).await;

    append(&b, &a).await;
    refresh(&a, "b.example").await.unwrap();
    let fetched = held(&a, "b.example").await.unwrap();
    assert_eq!((fetched.x509_authorities.len(), &fetched), (2, &served(&b).await));
    let metrics = a.metrics.render();
    for series in [
        "spire_server_bundle_manager_update_federated_bundle{trust_domain_id=\"b_example\"} 2\n",
        "spire_server_bundle_manager_fetch_federated_bundle{status=\"Unknown\",trust_domain_id=\"b_example\"} ",
        "spire_server_vouchsafe_federated_bundle_fetched_seconds{trust_domain_id=\"b_example\"} 19000000",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
    let deleted = td::BatchDeleteFederationRelationshipRequest { trust_domains: vec!["b.example".into()] };
    a.admin.trust_domains().batch_delete_federation_relationship(deleted).await.unwrap();
    let gone = async || (!a.metrics.render().contains("federated_bundle_fetched_seconds")).then_some(());
    eventually(gone).await;
}

#[tokio::test]
async fn an_agent_gets_the_federated_bundle_with_the_entry_that_names_it() {
    let (a_world, b_world) = (World::new(), World::new());
    let a = a_world.start().await;
    let b = start(&b_world, "b.example", ServingProfile::HttpsSpiffe).await;
    let relationship = types::FederationRelationship {
        trust_domain_bundle: Some(b.bundle().await),
        ..by_spiffe_id("b.example", &url(&b), "spiffe://b.example/spire/server")
    };
    create(&a, relationship).await;
    refresh(&a, "b.example").await.unwrap();
    let mut agent = a.agent().await;
    let federating = types::Entry { federates_with: vec!["b.example".into()], ..entry("/w", &agent.id) };
    a.create(federating).await;
    agent.reconnect();
    let synced = agent.api.entries().get_authorized_entries(GetAuthorizedEntriesRequest::default()).await;
    assert_eq!(synced.unwrap().into_inner().entries[0].federates_with, ["b.example"]);
    let request =
        bundle::GetFederatedBundleRequest { trust_domain: "b.example".into(), ..Default::default() };
    let got = agent.api.bundles().get_federated_bundle(request).await.unwrap().into_inner();
    assert_eq!(got, served(&b).await);
}

/// A certificate authority of the web, as tests have it.
struct WebCa {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl WebCa {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn roots(&self) -> WebRoots {
        WebRoots::Pem(self.pem.clone().into_bytes().into())
    }

    /// Certificate and key for `host`.
    fn issue(&self, host: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn write(&self, host: &str, files: &CertificateFiles) {
        let (certificate, key) = self.issue(host);
        std::fs::write(&files.key_file, key.serialize_pem()).unwrap();
        std::fs::write(&files.cert_file, certificate.pem()).unwrap();
    }
}

fn files(dir: &tempfile::TempDir) -> CertificateFiles {
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let sync_interval = Duration::from_millis(20);
    CertificateFiles { cert_file: path("cert.pem"), key_file: path("key.pem"), sync_interval }
}

/// A server that believes `ca`, and gives up a fetch after `deadline`.
async fn client(world: &World, ca: &WebCa, deadline: Duration) -> TestServer {
    let adjust = |config: &mut Config| {
        config.federation.web_roots = ca.roots();
        config.federation.fetch_deadline = deadline;
    };
    world.try_start(adjust).await.unwrap()
}

#[tokio::test]
async fn a_server_is_federated_with_by_host_name_and_its_certificate_is_replaced_while_it_runs() {
    let (a_world, b_world, ca) = (World::new(), World::new(), WebCa::new());
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    ca.write("localhost", &files);
    let a = client(&a_world, &ca, Duration::from_secs(10)).await;
    let b = start(&b_world, "b.example", ServingProfile::HttpsWeb(files.clone())).await;
    create(&a, by_name("b.example", &url(&b))).await;
    // Nobody has to ask for it.
    eventually(async || (held(&a, "b.example").await == Some(served(&b).await)).then_some(())).await;

    std::fs::write(&files.cert_file, "half a certificate").unwrap();
    for _ in 0..5 {
        tokio::time::sleep(files.sync_interval).await;
        refresh(&a, "b.example").await.expect("the certificate before is still served");
    }
    ca.write("elsewhere.example", &files);
    let refused = eventually(async || refresh(&a, "b.example").await.err()).await;
    assert!(refused.message().contains("use the profile https_spiffe"), "{refused}");
    ca.write("localhost", &files);
    eventually(async || refresh(&a, "b.example").await.ok()).await;
}

#[tokio::test]
async fn the_endpoint_serves_one_page_and_nothing_else() {
    let (world, ca) = (World::new(), WebCa::new());
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    ca.write("localhost", &files);
    let server = start(&world, "b.example", ServingProfile::HttpsWeb(files)).await;
    let tls = vouchsafe_identity::web::web_client_config(&ca.roots(), world.clock.clone()).unwrap();
    let bounds = vouchsafe_transport::fetch::Bounds { deadline: Duration::from_secs(10), body: 100_000 };
    let get = async |path: &str| {
        let target = vouchsafe_transport::fetch::Target::https(&format!("{}{path}", url(&server)), &tls);
        vouchsafe_transport::fetch::fetch(&target.unwrap(), bounds).await.unwrap()
    };
    let page = get("/").await;
    let mut expected = received(&server.bundle().await);
    expected.refresh_hint = 300;
    assert_eq!(page.body, to_spiffe_json(&expected).unwrap().as_bytes());
    assert_eq!((page.status.as_u16(), page.content_type.as_deref()), (200, Some("application/json")));
    let other = get("/bundle").await;
    assert_eq!((other.status.as_u16(), &*other.body), (404, b"404 page not found\n".as_slice()));
}

/// What a hostile endpoint does with a connection after it has read the request.
type Deed = fn(TlsStream<tokio::net::TcpStream>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// An endpoint for `localhost` that does `deed`; its URL.
async fn hostile(ca: &WebCa, tasks: &mut JoinSet<()>, deed: Deed) -> String {
    listen(provider().clone(), ca.issue("localhost"), tasks, deed).await
}

async fn listen(
    provider: Arc<CryptoProvider>,
    (certificate, key): (rcgen::Certificate, KeyPair),
    tasks: &mut JoinSet<()>,
    deed: Deed,
) -> String {
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut request = vec![0; 4096];
                drop(tls.read(&mut request).await);
                deed(tls).await;
            });
        }
    });
    format!("https://localhost:{port}/")
}

async fn say(mut tls: TlsStream<tokio::net::TcpStream>, answer: String) {
    drop(tls.write_all(answer.as_bytes()).await);
    drop(tls.shutdown().await);
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const DEEDS: &[(Deed, &str)] = &[
    (
        |tls| {
            Box::pin(async move {
                std::future::pending::<()>().await;
                drop(tls);
            })
        },
        "did not answer completely within 300ms",
    ),
    (
        |mut tls| {
            Box::pin(async move {
                drop(tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n").await);
                while tls.write_all(b" ").await.is_ok() && tls.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        },
        "did not answer completely within 300ms",
    ),
    (
        |mut tls| {
            Box::pin(async move {
                drop(tls.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
                let page = vec![b' '; 1 << 16];
                while tls.write_all(&page).await.is_ok() {}
            })
        },
        "sent more than 4194304 bytes",
    ),
    (|tls| Box::pin(say(tls, ok("{\"keys\": 5}"))), "failed to decode bundle: bundle is not a JWK set"),
    (
        |tls| {
            let moved =
                "HTTP/1.1 302 Found\r\nLocation: https://localhost:1/\r\nContent-Length: 4\r\n\r\nmore";
            Box::pin(say(tls, moved.into()))
        },
        "unexpected status 302 fetching bundle: more",
    ),
    (|tls| Box::pin(say(tls, "SMTP ready\r\n".into())), "gave no complete HTTP answer"),
];

#[tokio::test]
async fn whatever_an_endpoint_does_it_ends_in_time_changes_nothing_and_holds_up_nobody() {
    let (world, b_world, ca) = (World::new(), World::new(), WebCa::new());
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    ca.write("localhost", &files);
    let good = start(&b_world, "good.example", ServingProfile::HttpsWeb(files)).await;
    // Huge bodies take a while in a debug build.
    let server = client(&world, &ca, Duration::from_millis(300)).await;
    let patient_world = World::new();
    let patient = client(&patient_world, &ca, Duration::from_secs(20)).await;
    let mut tasks = JoinSet::new();
    for (number, (deed, expected)) in DEEDS.iter().enumerate() {
        let name = format!("bad{number}.example");
        let before = types::Bundle { trust_domain: name.clone(), refresh_hint: 9, ..good.bundle().await };
        let victim = if expected.contains("300ms") { &server } else { &patient };
        set(victim, before.clone()).await;
        create(victim, by_name(&name, &hostile(&ca, &mut tasks, *deed).await)).await;
        let refused = refresh(victim, &name).await.unwrap_err();
        assert!(refused.message().contains(expected), "{}", refused.message());
        assert_eq!(held(victim, &name).await.as_ref(), Some(&before));
    }

    // While an endpoint hangs for its whole deadline, others are fetched.
    let hanging = hostile(&ca, &mut tasks, DEEDS[0].0).await;
    create(&patient, by_name("hanging.example", &hanging)).await;
    create(&patient, by_name("good.example", &url(&good))).await;
    let began = std::pin::pin!(refresh(&patient, "hanging.example"));
    let fetched = std::pin::pin!(refresh(&patient, "good.example"));
    match futures_util::future::select(began, fetched).await {
        futures_util::future::Either::Right((fetched, _)) => fetched.unwrap(),
        futures_util::future::Either::Left((hanging, _)) => panic!("the hanging one came first: {hanging:?}"),
    }
    assert_eq!(held(&patient, "good.example").await, Some(served(&good).await));
}

#[tokio::test]
async fn an_endpoint_of_another_identity_or_trust_domain_is_not_believed() {
    let (a_world, b_world, c_world) = (World::new(), World::new(), World::new());
    let a = a_world.start().await;
    let b = start(&b_world, "b.example", ServingProfile::HttpsSpiffe).await;
    let c = start(&c_world, "c.example", ServingProfile::HttpsSpiffe).await;
    set(&a, b.bundle().await).await;
    create(&a, by_spiffe_id("b.example", &url(&c), "spiffe://b.example/spire/server")).await;
    let refused = refresh(&a, "b.example").await.unwrap_err();
    assert!(refused.message().contains("TLS handshake with localhost"), "{refused}");
    create(&a, by_spiffe_id("d.example", &url(&b), "spiffe://b.example/another")).await;
    let refused = refresh(&a, "d.example").await.unwrap_err();
    let expected = "failed: the peer is spiffe://b.example/spire/server, expected spiffe://b.example/another";
    assert!(refused.message().ends_with(expected), "{refused}");
    assert_eq!(held(&a, "d.example").await, None);
    // One trust domain may serve the bundle of another, if the operator says so.
    create(&a, by_spiffe_id("e.example", &url(&b), "spiffe://b.example/spire/server")).await;
    refresh(&a, "e.example").await.unwrap();
    assert_eq!(held(&a, "e.example").await.unwrap().x509_authorities, b.bundle().await.x509_authorities);
}

#[tokio::test]
async fn an_older_bundle_is_not_taken_and_a_configured_relationship_wins() {
    let (world, ca, mut tasks) = (World::new(), WebCa::new(), JoinSet::new());
    let empty: Deed = |tls| Box::pin(say(tls, ok("{\"keys\": [], \"spiffe_sequence\": 4}")));
    let configured = FederationRelationship {
        trust_domain: TrustDomain::parse("b.example").unwrap(),
        bundle_endpoint_url: EndpointUrl::parse(&hostile(&ca, &mut tasks, empty).await).unwrap(),
        bundle_endpoint_profile: EndpointProfile::HttpsWeb,
    };
    let adjust = |config: &mut Config| {
        config.federation.web_roots = ca.roots();
        config.federation.federates_with = vec![configured];
    };
    let server = world.try_start(adjust).await.unwrap();
    create(&server, by_name("b.example", "https://localhost:1/")).await;
    refresh(&server, "b.example").await.expect("the endpoint of the configuration answers");
    assert_eq!(held(&server, "b.example").await.unwrap().sequence_number, 4);

    let newer =
        types::Bundle { trust_domain: "b.example".into(), sequence_number: 5, ..server.bundle().await };
    set(&server, newer.clone()).await;
    let refused = refresh(&server, "b.example").await.unwrap_err();
    assert!(refused.message().contains("serves an older bundle"), "{refused}");
    assert_eq!(held(&server, "b.example").await.unwrap().sequence_number, 5);
    set(&server, types::Bundle { sequence_number: 3, ..newer }).await;
    refresh(&server, "b.example").await.unwrap();
    assert_eq!(held(&server, "b.example").await.unwrap().sequence_number, 4);
}

#[tokio::test]
async fn files_that_cannot_be_served_keep_the_server_from_starting() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let missing = ServingProfile::HttpsWeb(files(&dir));
    let adjust = |config: &mut Config| config.federation.bundle_endpoint = Some(endpoint(missing));
    let Err(error) = world.try_start(adjust).await else { panic!("it started") };
    assert_eq!(error.to_string(), "cannot serve the bundle endpoint");
}

#[tokio::test]
async fn a_key_exchange_that_is_required_is_required_of_endpoints_with_an_svid_too() {
    let (ca, mut tasks) = (WebCa::new(), JoinSet::new());
    let id = "spiffe://b.example/endpoint";
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let svid = params.signed_by(&key, &ca.issuer).unwrap();
    let mut classical = CryptoProvider::clone(provider());
    classical.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let deed: Deed = |tls| Box::pin(say(tls, ok("{\"keys\": []}")));
    let url = listen(Arc::new(classical), (svid, key), &mut tasks, deed).await;
    let refreshed = async |key_exchange| {
        let world = World::new();
        let server = world.try_start(|config| config.admission.key_exchange = key_exchange).await.unwrap();
        let root = vouchsafe_types::pem::parse(ca.pem.as_bytes()).unwrap().remove(0).der.to_vec();
        let root = types::X509Certificate { asn1: root.into(), tainted: false };
        let first = types::Bundle {
            trust_domain: "b.example".into(),
            x509_authorities: vec![root],
            ..Default::default()
        };
        let relationship = types::FederationRelationship {
            trust_domain_bundle: Some(first),
            ..by_spiffe_id("b.example", &url, id)
        };
        create(&server, relationship).await;
        refresh(&server, "b.example").await
    };
    let refused = refreshed(KeyExchange::PostQuantum).await.unwrap_err();
    assert!(refused.message().contains("fatal alert: HandshakeFailure"), "{refused}");
}
