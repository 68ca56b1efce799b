//! Who gets in, how fast, and what an operator of this machine sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use support::agent::{Identity, TestAgent, attest, join_params, key_and_csr};
use support::messages::{assert_refused, entry};
use support::{Api, TestServer, World, trust_domain};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_identity::config::{KeyExchange, provider};
use vouchsafe_proto::spire::api::server::debug::v1::GetInfoRequest;
use vouchsafe_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use vouchsafe_proto::spire::api::server::entry::v1::ListEntriesRequest;
use vouchsafe_proto::spire::api::server::logger::v1::logger_client::LoggerClient;
use vouchsafe_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintX509svidRequest, NewX509svidParams,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_testkit::Stopwatch;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

#[tokio::test]
async fn two_hundred_agents_behind_one_address_attest_in_seconds() {
    let world = World::new();
    let server = world.start().await;
    let tokens = join_all((0..200).map(|_| server.token())).await;
    let api = server.connect(None);
    let csr = key_and_csr().await.1;
    let began = Stopwatch::start();
    let outcomes = join_all(tokens.iter().map(|token| attest(&api, join_params(token, csr.clone())))).await;
    for outcome in outcomes {
        outcome.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}; once a second takes 200 s", began.elapsed());
    assert_eq!(server.running.counts().1, 200);
}

#[tokio::test]
async fn who_guesses_tokens_gets_one_guess_a_second_and_others_their_turn() {
    let world = World::new();
    let server = world.start().await;
    let csr = key_and_csr().await.1;
    let began = Stopwatch::start();
    let guess =
        async |n: usize| attest(&server.connect(None), join_params(&format!("guess-{n}"), csr.clone())).await;
    let guesses = join_all((0..34).map(guess)).await;
    assert!(guesses.iter().all(|outcome| outcome.as_ref().unwrap_err().code() == Code::InvalidArgument));
    assert!(began.wall() >= Duration::from_millis(1900), "{:?}", began.wall());
    // Somebody honest at the same address comes after them.
    server.agent().await;
}

#[tokio::test]
async fn without_the_limit_nobody_waits() {
    let world = World::new();
    let server = world.try_start(|config| config.admission.rate_limits.attestation = false).await.unwrap();
    let (api, csr) = (server.connect(None), key_and_csr().await.1);
    let began = Stopwatch::start();
    for n in 0..60 {
        attest(&api, join_params(&format!("guess-{n}"), csr.clone())).await.unwrap_err();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_batch_larger_than_the_limit_is_refused_unless_it_is_switched_off() {
    let params = || vec![NewX509svidParams { entry_id: "x".into(), csr: "x".into() }; 501];
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let outcome = agent.api.svids().batch_new_x509svid(BatchNewX509svidRequest { params: params() }).await;
    let text =
        "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst size (500)";
    assert_refused(outcome, Code::ResourceExhausted, text);
    server.stop().await.unwrap();
    let world = World::new();
    let server = world.try_start(|config| config.admission.rate_limits.signing = false).await.unwrap();
    let agent = server.agent().await;
    agent.api.svids().batch_new_x509svid(BatchNewX509svidRequest { params: params() }).await.unwrap();
}

#[tokio::test]
async fn debug_tells_this_machine_what_the_server_is() {
    let world = World::new();
    let server = world.start().await;
    let mut debug = DebugClient::new(server.admin.0.clone());
    let info = debug.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.agents_count, info.entries_count, info.federated_bundles_count), (0, 0, 1));
    let ids: Vec<_> = info.svid_chain.iter().map(|each| each.id.clone().map(|id| id.path)).collect();
    assert_eq!(ids, [Some("/spire/server".to_owned()), Some(String::new())]);
    assert!(info.svid_chain[1].subject.ends_with(",O=SPIFFE,C=US"), "{info:?}");
    assert_eq!(info.svid_chain[0].subject, "O=SPIRE,C=US");

    server.agent().await;
    let again = debug.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(again, info, "the same answer for five seconds");
    let text = "unknown service spire.api.server.debug.v1.Debug";
    let remote = DebugClient::new(server.connect(None).0).get_info(GetInfoRequest {}).await;
    assert_refused(remote, Code::Unimplemented, text);
}

#[tokio::test]
async fn the_level_of_the_log_is_changed_while_the_server_runs() {
    use types::LogLevel::{Debug, Info};
    let world = World::new();
    let server = world.start().await;
    let mut logger = LoggerClient::new(server.admin.0.clone());
    let levels = |logger: types::Logger| (logger.current_level(), logger.launch_level());
    let held = logger.get_logger(GetLoggerRequest {}).await.unwrap().into_inner();
    assert_eq!(levels(held), (Info, Info));
    let request = SetLogLevelRequest { new_level: Debug.into() };
    let set = logger.set_log_level(request).await.unwrap().into_inner();
    assert_eq!(levels(set), (Debug, Info));
    let none = logger.set_log_level(SetLogLevelRequest { new_level: 0 }).await;
    assert_refused(none, Code::InvalidArgument, "newLevel value cannot be LogLevel_UNSPECIFIED");
    let odd = logger.set_log_level(SetLogLevelRequest { new_level: 99 }).await;
    assert_refused(odd, Code::InvalidArgument, "unsupported log level");
    let reset = logger.reset_log_level(ResetLogLevelRequest {}).await.unwrap().into_inner();
    assert_eq!(levels(reset), (Info, Info));
    let remote = LoggerClient::new(server.connect(None).0).get_logger(GetLoggerRequest {}).await;
    assert_refused(remote, Code::Unimplemented, "unknown service spire.api.server.logger.v1.Logger");
}

/// An SVID of `path` from an operator of `server`.
async fn minted(server: &TestServer, id: &str) -> Identity {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let csr = create_csr(&key, Some(&SpiffeId::parse(id).unwrap())).await.unwrap().into();
    let request = MintX509svidRequest { csr, ttl: 0 };
    let svid = server.admin.svids().mint_x509svid(request).await.unwrap().into_inner().svid.unwrap();
    Identity::new(key, &svid)
}

#[tokio::test]
async fn an_administrator_of_another_trust_domain_is_let_in_by_name_only() {
    let elsewhere = World::new();
    let other = TrustDomain::parse("other.org").unwrap();
    let foreign = elsewhere.try_start(|config| config.trust_domain = other.clone()).await.unwrap();
    let world = World::new();
    let admin = SpiffeId::parse("spiffe://other.org/admin").unwrap();
    let server = world.try_start(|config| config.admin_ids = vec![admin]).await.unwrap();
    let bundle = foreign.running.bundle();
    let change = move |held: &mut vouchsafe_types::bundle::Bundle| {
        *held = bundle.clone();
        Ok(())
    };
    let update = server.store.update_bundle(&other, Box::new(change)).await.unwrap();
    assert!(update.changed);

    let list = async |api: Api| api.entries().list_entries(ListEntriesRequest::default()).await.map(drop);
    let listed = minted(&foreign, "spiffe://other.org/admin").await;
    support::eventually(async || list(server.connect(Some(&listed.cell))).await.ok()).await;
    let unlisted = minted(&foreign, "spiffe://other.org/somebody").await;
    let refused = list(server.connect(Some(&unlisted.cell))).await.unwrap_err();
    assert_eq!(refused.message(), "transport error", "no connection: {refused}");
    // One of the trust domain itself is let in, and may not.
    let own = minted(&server, &format!("spiffe://{}/admin", trust_domain())).await;
    let refused = list(server.connect(Some(&own.cell))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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

/// The group that a client with these groups agrees on with the server.
async fn negotiated(
    server: &TestServer,
    groups: &[&'static dyn rustls::crypto::SupportedKxGroup],
) -> Option<String> {
    let crypto = rustls::crypto::CryptoProvider { kx_groups: groups.to_vec(), ..(**provider()).clone() };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(crypto))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.running.tcp_address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    tls.get_ref().1.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()))
}

#[tokio::test]
async fn a_quantum_safe_key_exchange_is_preferred_and_can_be_required() {
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    let world = World::new();
    let server = world.start().await;
    let offered = negotiated(&server, &[X25519MLKEM768, X25519, SECP256R1]).await;
    assert_eq!(offered.as_deref(), Some("X25519MLKEM768"));
    assert_eq!(negotiated(&server, &[X25519]).await.as_deref(), Some("X25519"));
    server.stop().await.unwrap();

    let world = World::new();
    let required =
        |config: &mut vouchsafe_server::Config| config.admission.key_exchange = KeyExchange::PostQuantum;
    let server = world.try_start(required).await.unwrap();
    assert_eq!(negotiated(&server, &[X25519, SECP256R1]).await, None);
    assert_eq!(negotiated(&server, &[X25519, X25519MLKEM768]).await.as_deref(), Some("X25519MLKEM768"));
    let agent: TestAgent = server.agent().await;
    server.create(entry("/db", &agent.id)).await;
    assert_eq!(agent.authorized().await.unwrap().len(), 1);
}
