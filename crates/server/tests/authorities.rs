//! Operators rotate authorities by hand: self-signed X.509, JWT, and X.509 below a CA in files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use support::agent::verify;
use support::messages::{assert_lately, assert_refused, entry, retry_delay};
use support::{Api, TestServer, World, eventually, trust_domain};
use tonic::Code;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_ca::x509::{CaTemplate, Subject, self_signed_ca};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::localauthority::v1 as api;
use vouchsafe_proto::spire::api::server::svid::v1::MintX509svidRequest;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_server::StartError;
use vouchsafe_server::config::{DiskCa, Upstream};
use vouchsafe_testkit::{Fault, Method};
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::pem;
use vouchsafe_types::spiffe_id::SpiffeId;

impl TestServer {
    async fn x509(&self) -> api::GetX509AuthorityStateResponse {
        let request = api::GetX509AuthorityStateRequest {};
        self.admin.authorities().get_x509_authority_state(request).await.unwrap().into_inner()
    }

    async fn jwt(&self) -> api::GetJwtAuthorityStateResponse {
        let request = api::GetJwtAuthorityStateRequest {};
        self.admin.authorities().get_jwt_authority_state(request).await.unwrap().into_inner()
    }

    async fn prepare_x509(&self) -> Result<String, tonic::Status> {
        let request = api::PrepareX509AuthorityRequest {};
        let prepared = self.admin.authorities().prepare_x509_authority(request).await?;
        Ok(prepared.into_inner().prepared_authority.unwrap().authority_id)
    }

    async fn activate_x509(&self, id: &str) -> Result<String, tonic::Status> {
        let request = api::ActivateX509AuthorityRequest { authority_id: id.into() };
        let activated = self.admin.authorities().activate_x509_authority(request).await?;
        Ok(activated.into_inner().activated_authority.unwrap().authority_id)
    }

    async fn taint_x509(&self, id: &str) -> Result<String, tonic::Status> {
        let request = api::TaintX509AuthorityRequest { authority_id: id.into() };
        let tainted = self.admin.authorities().taint_x509_authority(request).await?;
        Ok(tainted.into_inner().tainted_authority.unwrap().authority_id)
    }

    async fn revoke_x509(&self, id: &str) -> Result<String, tonic::Status> {
        let request = api::RevokeX509AuthorityRequest { authority_id: id.into() };
        let revoked = self.admin.authorities().revoke_x509_authority(request).await?;
        Ok(revoked.into_inner().revoked_authority.unwrap().authority_id)
    }

    async fn taint_upstream(&self, id: &str) -> Result<String, tonic::Status> {
        let request = api::TaintX509UpstreamAuthorityRequest { subject_key_id: id.into() };
        let tainted = self.admin.authorities().taint_x509_upstream_authority(request).await?;
        Ok(tainted.into_inner().upstream_authority_subject_key_id)
    }

    async fn revoke_upstream(&self, id: &str) -> Result<String, tonic::Status> {
        let request = api::RevokeX509UpstreamAuthorityRequest { subject_key_id: id.into() };
        let revoked = self.admin.authorities().revoke_x509_upstream_authority(request).await?;
        Ok(revoked.into_inner().upstream_authority_subject_key_id)
    }

    /// Which authority has signed the SVID that the server presents.
    async fn own_issuer(&self) -> String {
        let seen = Arc::new(Mutex::new(String::new()));
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap();
        let mut config = config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Look(seen.clone())))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let channel = vouchsafe_transport::connect::tls_channel(&self.address(), Arc::new(config)).unwrap();
        Api(channel).bundles().get_bundle(GetBundleRequest::default()).await.unwrap();
        seen.lock().unwrap().clone()
    }

    /// The X.509 authorities of the bundle: id and taint.
    async fn roots(&self) -> Vec<(String, bool)> {
        let bundle = self.bundle().await;
        bundle.x509_authorities.iter().map(|root| (ski(&root.asn1), root.tainted)).collect()
    }
}

/// Believes everybody and remembers who has signed the certificate.
#[derive(Debug)]
struct Look(Arc<Mutex<String>>);

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Certificate::parse(leaf).unwrap().issuer_authority_id();
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
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn ski(der: &[u8]) -> String {
    Certificate::parse(der).unwrap().authority_id()
}

fn id(state: &Option<api::AuthorityState>) -> &str {
    state.as_ref().map_or("", |state| &state.authority_id)
}

fn upstream_id(state: &Option<api::AuthorityState>) -> &str {
    state.as_ref().map_or("", |state| &state.upstream_authority_subject_key_id)
}

#[tokio::test]
async fn a_self_signed_authority_is_rotated_by_hand_and_agents_stay_connected() {
    let world = World::new();
    let server = world.start().await;
    let mut agent = server.agent().await;
    let entry = server.create(entry("/web", &agent.id)).await;
    let old_svid = agent.x509(&entry.id).await.unwrap().unwrap();
    let first = id(&server.x509().await.active).to_owned();
    assert_eq!(server.roots().await, [(first.clone(), false)]);

    let second = server.prepare_x509().await.unwrap();
    assert_eq!(server.roots().await, [(first.clone(), false), (second.clone(), false)]);
    let state = server.x509().await;
    assert_eq!((id(&state.active), id(&state.prepared), id(&state.old)), (&*first, &*second, ""));
    assert_lately(state.prepared.unwrap().expires_at, server.clock.unix_now() + 24 * support::HOUR);
    assert_eq!(server.activate_x509(&second).await.unwrap(), second);
    let state = server.x509().await;
    assert_eq!((id(&state.active), id(&state.prepared), id(&state.old)), (&*second, "", &*first));
    let before = server.bundle().await.sequence_number;
    assert_eq!(server.taint_x509(&first).await.unwrap(), first);
    assert_eq!(server.roots().await, [(first.clone(), true), (second.clone(), false)]);
    assert_eq!(server.bundle().await.sequence_number, before + 1);
    // Who missed the new authority still reaches the server, which the old one vouches for until it is revoked.
    let late = support::roots_of(&types::Bundle {
        x509_authorities: vec![server.bundle().await.x509_authorities[0].clone()],
        ..server.bundle().await
    });
    let reach = async || {
        let api = support::connect(&server.address(), &late, None, &server.clock);
        api.bundles().get_bundle(GetBundleRequest::default()).await
    };
    eventually(async || (server.own_issuer().await == second).then_some(())).await;
    reach().await.unwrap();

    // What the new authority signs is believed by who trusts it alone.
    let renewed = agent.renew().await.unwrap();
    agent.adopt(renewed);
    let new_svid = agent.x509(&entry.id).await.unwrap().unwrap();
    assert_eq!(server.revoke_x509(&first).await.unwrap(), first);
    assert_eq!(server.roots().await, [(second, false)]);
    let bundle = server.bundle().await;
    verify(&bundle, &new_svid.svid, &server.clock).unwrap();
    verify(&bundle, &old_svid.svid, &server.clock).unwrap_err();
    eventually(async || reach().await.err()).await;

    // The server proves itself by the new authority, and knows the agent by it.
    agent.roots = support::roots_of(&bundle);
    eventually(async || {
        agent.reconnect();
        agent.authorized().await.ok()
    })
    .await;
}

#[tokio::test]
async fn commands_out_of_order_get_the_answers_of_the_real_server() {
    let world = World::new();
    let server = world.start().await;
    let first = id(&server.x509().await.active).to_owned();
    let second = server.prepare_x509().await.unwrap();
    assert_refused(server.activate_x509("").await, Code::InvalidArgument, "no authority ID provided");
    assert_refused(server.activate_x509("other").await, Code::InvalidArgument, "unexpected authority ID");
    assert_refused(
        server.taint_x509(&first).await,
        Code::InvalidArgument,
        "unable to taint current local authority",
    );
    assert_refused(
        server.taint_x509(&second).await,
        Code::InvalidArgument,
        "only Old local authorities can be tainted: unsupported local authority status: PREPARED",
    );
    server.activate_x509(&second).await.unwrap();
    assert_refused(
        server.activate_x509(&first).await,
        Code::Internal,
        "only Prepared authorities can be activated: unsupported local authority status: OLD",
    );
    assert_refused(
        server.revoke_x509(&first).await,
        Code::Internal,
        "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA",
    );
    server.taint_x509(&first).await.unwrap();
    assert_refused(
        server.taint_x509(&first).await,
        Code::Internal,
        "failed to taint X.509 authority: root CA is already tainted",
    );
    let revoked = "invalid authority ID: only Old local authority can be revoked";
    assert_refused(server.revoke_x509("other").await, Code::InvalidArgument, revoked);
    assert_refused(
        server.revoke_x509(&second).await,
        Code::InvalidArgument,
        "invalid authority ID: unable to use current authority",
    );
    server.revoke_x509(&first).await.unwrap();
    assert_refused(
        server.revoke_x509(&first).await,
        Code::Internal,
        "failed to revoke X.509 authority: no root CA found with provided subject key ID",
    );
    assert_eq!(id(&server.x509().await.old), first, "it is still told, as the real server does");
}

#[tokio::test]
async fn a_jwt_authority_is_rotated_by_hand_and_any_that_does_not_sign_can_be_revoked() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let entry = server.create(entry("/web", &agent.id)).await;
    let mut authorities = server.admin.authorities();
    let first = id(&server.jwt().await.active).to_owned();
    let prepared = authorities.prepare_jwt_authority(api::PrepareJwtAuthorityRequest {}).await.unwrap();
    let second = prepared.into_inner().prepared_authority.unwrap().authority_id;
    let revoke = async |id: &str| {
        let request = api::RevokeJwtAuthorityRequest { authority_id: id.into() };
        server.admin.authorities().revoke_jwt_authority(request).await
    };
    let taint = async |id: &str| {
        let request = api::TaintJwtAuthorityRequest { authority_id: id.into() };
        server.admin.authorities().taint_jwt_authority(request).await
    };
    let invalid = |text: &str| format!("invalid authority ID: {text}");
    assert_refused(revoke("").await, Code::InvalidArgument, &invalid("no authority ID provided"));
    assert_refused(revoke(&second).await, Code::InvalidArgument, &invalid("unable to use a prepared key"));
    assert_refused(revoke(&first).await, Code::InvalidArgument, &invalid("unable to use current authority"));
    let unknown = invalid("no JWT authority found with provided authority ID");
    assert_refused(revoke("other").await, Code::InvalidArgument, &unknown);

    let request = api::ActivateJwtAuthorityRequest { authority_id: second.clone() };
    authorities.activate_jwt_authority(request).await.unwrap();
    let kid = |token: &str| {
        use base64::Engine;
        let header =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap());
        let header: serde_json::Value = serde_json::from_slice(&header.unwrap()).unwrap();
        header["kid"].as_str().unwrap().to_owned()
    };
    let token = agent.jwt(&entry.id, &["aud"]).await.unwrap().token;
    assert_eq!(kid(&token), second);
    let untainted = "failed to revoke JWT authority: it is not possible to revoke an untainted key";
    assert_refused(revoke(&first).await, Code::Internal, untainted);
    let tainted = taint(&first).await.unwrap().into_inner().tainted_authority.unwrap();
    assert_eq!(tainted, api::AuthorityState { authority_id: first.clone(), ..Default::default() });
    assert_refused(
        taint(&first).await,
        Code::Internal,
        "failed to taint JWT authority: key is already tainted",
    );
    let flags = |bundle: types::Bundle| -> Vec<(String, bool)> {
        bundle.jwt_authorities.into_iter().map(|key| (key.key_id, key.tainted)).collect()
    };
    assert_eq!(flags(server.bundle().await), [(first.clone(), true), (second.clone(), false)]);

    // Two rotations later its slot is gone, and it can be revoked all the same.
    let third = authorities.prepare_jwt_authority(api::PrepareJwtAuthorityRequest {}).await.unwrap();
    let third = third.into_inner().prepared_authority.unwrap().authority_id;
    revoke(&first).await.unwrap();
    assert_eq!(flags(server.bundle().await), [(second, false), (third, false)]);
}

#[tokio::test]
async fn a_prepared_authority_is_replaced_by_the_next_one_that_is_prepared() {
    let world = World::new();
    let server = world.start().await;
    let first = server.prepare_x509().await.unwrap();
    let second = server.prepare_x509().await.unwrap();
    assert_refused(server.activate_x509(&first).await, Code::InvalidArgument, "unexpected authority ID");
    assert_eq!(server.activate_x509(&second).await.unwrap(), second);
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_the_reason() {
    let world = World::new();
    let server = world.start().await;
    let none = "upstream authority is not configured";
    assert_refused(server.taint_upstream("x").await, Code::FailedPrecondition, none);
    assert_refused(server.revoke_upstream("x").await, Code::FailedPrecondition, none);
    let wit = server.admin.authorities().prepare_wit_authority(api::PrepareWitAuthorityRequest {}).await;
    assert_refused(wit, Code::Unimplemented, "WIT-SVID functionality is not yet implemented");
    let agent = server.agent().await;
    let stranger =
        agent.api.authorities().get_x509_authority_state(api::GetX509AuthorityStateRequest {}).await;
    assert_eq!(stranger.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_store_that_is_away_refuses_commands_and_stops_no_signature() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let entry = server.create(entry("/web", &agent.id)).await;
    let active = server.x509().await;
    server.faults.set(&[Method::UpdateBundle], &Fault::unavailable());
    let refused = server.prepare_x509().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().starts_with("failed to prepare X.509 authority: "), "{refused}");
    assert!(retry_delay(&refused).is_some(), "{refused:?}");
    agent.x509(&entry.id).await.unwrap().unwrap();
    assert_eq!(id(&server.x509().await.active), id(&active.active));
    server.faults.clear();
    server.prepare_x509().await.unwrap();
}

#[tokio::test]
async fn without_jwt_svids_there_is_no_jwt_authority_and_every_call_says_so() {
    let world = World::new();
    let server = world.try_start(|config| config.disable_jwt_svids = true).await.unwrap();
    let agent = server.agent().await;
    let entry = server.create(entry("/web", &agent.id)).await;
    agent.x509(&entry.id).await.unwrap().unwrap();
    assert!(server.bundle().await.jwt_authorities.is_empty());
    let disabled = "JWT functionality is disabled";
    let mut authorities = server.admin.authorities();
    let state = authorities.get_jwt_authority_state(api::GetJwtAuthorityStateRequest {}).await;
    assert_refused(state, Code::Unimplemented, disabled);
    let made = authorities.prepare_jwt_authority(api::PrepareJwtAuthorityRequest {}).await;
    assert_refused(made, Code::Unimplemented, disabled);
    assert_refused(agent.jwt(&entry.id, &["aud"]).await, Code::Unimplemented, disabled);
}

/// A CA in files.
struct Ca {
    cert: PathBuf,
    key: PathBuf,
}

impl Ca {
    fn new(dir: &Path) -> Self {
        Self { cert: dir.join("upstream.crt"), key: dir.join("upstream.key") }
    }

    /// Replaces the CA by a new one that lives for `hours`; gives its id.
    async fn replace(&self, now: i64, hours: i64) -> String {
        let key = PrivateKey::generate(KeyType::EcP384).unwrap();
        let (trust_domain, subject) = (trust_domain(), Subject::ca_default());
        let not_after = now + hours * support::HOUR;
        let template = CaTemplate { trust_domain: &trust_domain, subject: &subject, now, not_after };
        let der = self_signed_ca(&key, &template).await.unwrap();
        fs::write(&self.cert, pem::encode("CERTIFICATE", &der)).unwrap();
        fs::write(&self.key, pem::encode("PRIVATE KEY", &key.pkcs8().unwrap())).unwrap();
        ski(&der)
    }

    fn upstream(&self) -> Upstream {
        Upstream::Disk(DiskCa { cert_file: self.cert.clone(), key_file: self.key.clone(), bundle_file: None })
    }
}

#[tokio::test]
async fn an_upstream_ca_is_replaced_by_hand() {
    let world = World::new();
    let ca = Ca::new(world.path());
    let old = ca.replace(world.clock.unix_now(), 1000).await;
    let server = world.try_start(|config| config.upstream = ca.upstream()).await.unwrap();
    let mut agent = server.agent().await;
    let entry = server.create(entry("/web", &agent.id)).await;
    let before = agent.x509(&entry.id).await.unwrap().unwrap();
    assert_eq!(before.svid.chain.len(), 2, "the authority's certificate follows");
    verify(&server.bundle().await, &before.svid, &server.clock).unwrap();
    let first = server.x509().await;
    assert_eq!(upstream_id(&first.active), old);
    assert_eq!(server.roots().await, [(old.clone(), false)], "the root alone, not the authority below it");

    let new = ca.replace(world.clock.unix_now(), 1000).await;
    let prepared = server.prepare_x509().await.unwrap();
    assert_eq!(server.roots().await, [(old.clone(), false), (new.clone(), false)]);
    let state = server.x509().await;
    assert_eq!((upstream_id(&state.active), upstream_id(&state.prepared)), (&*old, &*new));
    let not_valid = |text: &str| format!("provided subject key id is not valid: {text}");
    let signing = not_valid("unable to use upstream authority singing current authority");
    assert_refused(server.taint_upstream(&old).await, Code::InvalidArgument, &signing);
    let next = not_valid("only upstream authorities signing an old authority can be used");
    assert_refused(server.taint_upstream(&new).await, Code::InvalidArgument, &next);
    server.activate_x509(&prepared).await.unwrap();
    let none = not_valid("upstream authority didn't sign the old local authority");
    assert_refused(server.taint_upstream("other").await, Code::InvalidArgument, &none);
    let local = id(&first.active);
    for (refused, what) in
        [(server.taint_x509(local).await, "tainted"), (server.revoke_x509(local).await, "revoked")]
    {
        let text = format!("local authority can't be {what} if there is an upstream authority");
        assert_refused(refused, Code::FailedPrecondition, &text);
    }

    assert_refused(
        server.revoke_upstream(&old).await,
        Code::Internal,
        "failed to revoke X.509 upstream authority: it is not possible to revoke an untainted root CA",
    );
    assert_eq!(server.taint_upstream(&old.to_uppercase()).await.unwrap(), old);
    assert_eq!(server.roots().await, [(old.clone(), true), (new.clone(), false)]);
    let renewed = agent.renew().await.unwrap();
    agent.adopt(renewed);
    let after = agent.x509(&entry.id).await.unwrap().unwrap();
    assert_eq!(server.revoke_upstream(&old).await.unwrap(), old);
    assert_eq!(server.roots().await, [(new, false)]);
    let bundle = server.bundle().await;
    verify(&bundle, &after.svid, &server.clock).unwrap();
    verify(&bundle, &before.svid, &server.clock).unwrap_err();
}

#[tokio::test]
async fn an_authority_below_a_ca_never_outlives_it_and_has_the_settings_of_any_other() {
    for (key_type, upstream) in [(KeyType::Rsa2048, true), (KeyType::EcP384, false), (KeyType::EcP384, true)]
    {
        let world = World::new();
        let ca = Ca::new(world.path());
        ca.replace(world.clock.unix_now(), 5).await;
        let subject =
            Subject { common_name: "our CA".into(), country: vec!["CH".into()], ..Subject::default() };
        let server = world.try_start(|config| {
            config.upstream = if upstream { ca.upstream() } else { Upstream::None };
            config.ca_key_type = key_type;
            config.jwt_key_type = KeyType::EcP384;
            config.ca_subject = subject.clone();
            config.ca_ttl = Duration::from_secs(7 * 3600);
        });
        let server = server.await.unwrap();
        let hours = if upstream { 5 } else { 7 };
        let state = server.x509().await.active.unwrap();
        assert_lately(state.expires_at, server.clock.unix_now() + hours * support::HOUR);
        assert_lately(
            server.jwt().await.active.unwrap().expires_at,
            server.clock.unix_now() + 7 * support::HOUR,
        );
        let agent = server.agent().await;
        let entry = server.create(entry("/web", &agent.id)).await;
        let svid = agent.x509(&entry.id).await.unwrap().unwrap().svid;
        verify(&server.bundle().await, &svid, &server.clock).unwrap();
        let issuer = Certificate::parse(&svid.chain[0]).unwrap().issuer_der;
        let issuer = Subject::parse(&issuer).unwrap();
        assert_eq!(Subject { serial_number: String::new(), ..issuer }, subject);
        let token = agent.jwt(&entry.id, &["aud"]).await.unwrap();
        assert!(token.token.len() > 100);
    }
}

#[tokio::test]
async fn a_mistake_in_the_files_of_the_upstream_ca_stops_the_start_and_never_a_running_server() {
    let world = World::with_disk_keys();
    let ca = Ca::new(world.path());
    let error = world.try_start(|config| config.upstream = ca.upstream()).await.err().unwrap();
    assert!(
        matches!(&error, StartError::UpstreamFiles(cause) if cause.to_string().contains("upstream.key")),
        "{error:?}"
    );
    ca.replace(world.clock.unix_now(), 1000).await;
    let server = world.try_start(|config| config.upstream = ca.upstream()).await.unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    fs::write(&ca.key, pem::encode("PRIVATE KEY", &key.pkcs8().unwrap())).unwrap();
    let prepared = server.prepare_x509().await.unwrap();
    assert_eq!(server.activate_x509(&prepared).await.unwrap(), prepared, "certified by what was read before");
    server.stop().await.unwrap();
    let error = world.try_start(|config| config.upstream = ca.upstream()).await.err().unwrap();
    assert!(
        matches!(&error, StartError::UpstreamFiles(cause) if cause.to_string().contains("do not match")),
        "{error:?}"
    );
}

#[tokio::test]
async fn authorities_below_a_ca_survive_a_restart_and_leave_with_the_ca() {
    let world = World::with_disk_keys();
    let ca = Ca::new(world.path());
    let root = ca.replace(world.clock.unix_now(), 1000).await;
    let server = world.try_start(|config| config.upstream = ca.upstream()).await.unwrap();
    let first = id(&server.x509().await.active).to_owned();
    server.stop().await.unwrap();
    let server = world.try_start(|config| config.upstream = ca.upstream()).await.unwrap();
    assert_eq!(id(&server.x509().await.active), first);
    assert_eq!(server.roots().await, [(root, false)]);
    server.stop().await.unwrap();
    let server = world.start().await;
    let state = server.x509().await;
    assert_ne!(id(&state.active), first, "without the CA it certifies itself");
    assert_eq!(upstream_id(&state.active), "");
}

/// The authorities under random commands, jumps of the clock and a store that fails now and then: whatever happens, within
/// the time of a tick an SVID can be minted that the bundle verifies.
#[tokio::test]
async fn there_is_always_an_authority_that_signs_what_the_bundle_verifies() {
    let world = World::new();
    let server = world.start().await;
    let mut dice = Entropy::from_seed(11);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://example.org/minted").unwrap();
    let csr = create_csr(&key, Some(&id)).await.unwrap();
    let mut carried_out = 0;
    for _ in 0..60 {
        let state = server.x509().await;
        let old = self::id(&state.old);
        let outcome = match (dice.fraction() * 7.0) as u32 {
            0 => server.prepare_x509().await,
            1 => server.activate_x509(self::id(&state.prepared)).await,
            2 => server.taint_x509(old).await,
            3 => server.revoke_x509(old).await,
            4 => {
                world.hands.jump(((dice.fraction() - 0.4) * 72.0) as i64 * support::HOUR);
                Ok(String::new())
            }
            5 => {
                server.faults.set(&[Method::UpdateBundle], &Fault::unavailable());
                let refused = server.prepare_x509().await;
                server.faults.clear();
                refused
            }
            _ => server.activate_x509("nobody").await,
        };
        carried_out += u32::from(outcome.is_ok());
        eventually(async || {
            let request = MintX509svidRequest { csr: csr.clone().into(), ttl: 60 };
            let minted = server.admin.svids().mint_x509svid(request).await.ok()?;
            let svid = support::agent::parsed(&minted.into_inner().svid.unwrap());
            verify(&server.bundle().await, &svid, &server.clock).ok()
        })
        .await;
    }
    assert!(carried_out > 10, "{carried_out} of 60 did something");
}
