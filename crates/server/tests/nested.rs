//! Servers below servers: one trust domain, one set of roots, several places that sign.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::agent::{TestAgent, verify};
use support::messages::{assert_lately, assert_refused, entry};
use support::workload::Workload;
use support::{TestServer, World, eventually};
use tonic::Code;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::Subject;
use vouchsafe_ca::x509::csr::create_ca_csr;
use vouchsafe_proto::spire::api::server::bundle::v1::{AppendBundleRequest, PublishJwtAuthorityRequest};
use vouchsafe_proto::spire::api::server::localauthority::v1 as api;
use vouchsafe_proto::spire::api::server::svid::v1::NewDownstreamX509caRequest;
use vouchsafe_proto::spire::api::types;
use vouchsafe_server::config::{Upstream, UpstreamServer};
use vouchsafe_types::certificate::Certificate;

/// A server below another one, and what it depends on.
struct Below {
    workload: Workload,
    /// The agent of the upstream server whose workload this server is.
    agent: TestAgent,
    entry: types::Entry,
    upstream: Upstream,
}

impl Below {
    /// What a server in `world` needs to be below `above`.
    async fn prepare(above: &TestServer, world: &World) -> Self {
        let agent = above.agent().await;
        let entry = types::Entry { downstream: true, ..entry("/below", &agent.id) };
        let entry = above.create(entry).await;
        let workload = Workload::start(world.path(), &agent, &entry).await;
        let upstream = Upstream::Spire(UpstreamServer {
            host: "127.0.0.1".into(),
            port: above.running.tcp_address.port(),
            workload_api_socket: workload.socket.clone(),
            key_exchange: vouchsafe_identity::config::KeyExchange::Any,
        });
        Self { workload, agent, entry, upstream }
    }

    async fn start(&self, world: &World) -> TestServer {
        world.try_start(|config| config.upstream = self.upstream.clone()).await.unwrap()
    }
}

fn ski(der: &[u8]) -> String {
    Certificate::parse(der).unwrap().authority_id()
}

async fn state(server: &TestServer) -> api::GetX509AuthorityStateResponse {
    let request = api::GetX509AuthorityStateRequest {};
    server.admin.authorities().get_x509_authority_state(request).await.unwrap().into_inner()
}

async fn active(server: &TestServer) -> api::AuthorityState {
    state(server).await.active.unwrap()
}

fn roots(bundle: &types::Bundle) -> Vec<(String, bool)> {
    bundle.x509_authorities.iter().map(|root| (ski(&root.asn1), root.tainted)).collect()
}

fn keys(bundle: &types::Bundle) -> Vec<&str> {
    let mut keys: Vec<_> = bundle.jwt_authorities.iter().map(|key| key.key_id.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn what_servers_below_sign_is_believed_by_the_roots_and_their_jwt_keys_are_known_everywhere() {
    let (world, middle_world, leaf_world) = (World::new(), World::new(), World::new());
    let top = world.start().await;
    let middle_needs = Below::prepare(&top, &middle_world).await;
    let middle = middle_needs.start(&middle_world).await;
    let leaf_needs = Below::prepare(&middle, &leaf_world).await;
    let leaf = leaf_needs.start(&leaf_world).await;

    let root = active(&top).await.authority_id;
    let above_middle = active(&middle).await;
    assert_eq!(above_middle.upstream_authority_subject_key_id, root);
    assert_eq!(active(&leaf).await.upstream_authority_subject_key_id, above_middle.authority_id);
    assert!(active(&leaf).await.expires_at <= above_middle.expires_at);
    let top_bundle = top.bundle().await;
    for server in [&middle, &leaf] {
        assert_eq!(roots(&server.bundle().await), [(root.clone(), false)], "the root's bundle, and no more");
        let agent = server.agent().await;
        let entry = server.create(entry("/web", &agent.id)).await;
        let svid = agent.x509(&entry.id).await.unwrap().unwrap().svid;
        verify(&top_bundle, &svid, &server.clock).unwrap();
    }
    let svid = leaf_needs.agent.x509(&leaf_needs.entry.id).await.unwrap().unwrap().svid;
    assert_eq!(svid.chain.len(), 2);
    eventually(async || {
        let (top, middle, leaf) = (top.bundle().await, middle.bundle().await, leaf.bundle().await);
        (keys(&top).len() == 3 && keys(&top) == keys(&middle) && keys(&top) == keys(&leaf)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_root_that_is_tainted_and_revoked_above_is_left_behind_below() {
    let (world, below_world) = (World::new(), World::new());
    let top = world.start().await;
    let mut needs = Below::prepare(&top, &below_world).await;
    let below = needs.start(&below_world).await;
    let old = active(&below).await;
    let mut authorities = top.admin.authorities();
    let prepared = authorities.prepare_x509_authority(api::PrepareX509AuthorityRequest {}).await.unwrap();
    let new_root = prepared.into_inner().prepared_authority.unwrap().authority_id;
    let old_root = old.upstream_authority_subject_key_id.clone();
    // A new root above is known below before it signs.
    let both = [(old_root.clone(), false), (new_root.clone(), false)];
    eventually(async || (roots(&below.bundle().await) == both).then_some(())).await;
    let request = api::ActivateX509AuthorityRequest { authority_id: new_root.clone() };
    authorities.activate_x509_authority(request).await.unwrap();
    assert_eq!(active(&below).await, old, "what is not tainted stays");

    let request = api::TaintX509AuthorityRequest { authority_id: old_root.clone() };
    authorities.taint_x509_authority(request).await.unwrap();
    let tainted = [(old_root.clone(), true), (new_root.clone(), false)];
    eventually(async || (roots(&below.bundle().await) == tainted).then_some(())).await;
    let new = active(&below).await;
    assert_eq!(new.upstream_authority_subject_key_id, new_root, "replaced before the taint is told");
    assert_eq!(state(&below).await.old.unwrap().authority_id, old.authority_id);

    // The agent renews, as agents do that learn of the taint, and so does the downstream server's own identity.
    let renewed = needs.agent.renew().await.unwrap();
    needs.agent.adopt(renewed);
    needs.workload.renew(&needs.agent, &needs.entry).await;
    let request = api::RevokeX509AuthorityRequest { authority_id: old_root };
    authorities.revoke_x509_authority(request).await.unwrap();
    let left = [(new_root, false)];
    eventually(async || (roots(&below.bundle().await) == left).then_some(())).await;
}

#[tokio::test]
async fn an_upstream_server_that_is_away_delays_a_new_authority_and_nothing_else() {
    let (world, below_world) = (World::new(), World::with_disk_keys());
    let top = world.start().await;
    let needs = Below::prepare(&top, &below_world).await;
    let below = needs.start(&below_world).await;
    let before = active(&below).await;
    let agent = below.agent().await;
    let entry = below.create(entry("/web", &agent.id)).await;
    let bundle = top.bundle().await;
    top.stop().await.unwrap();

    let prepare = below.admin.authorities().prepare_x509_authority(api::PrepareX509AuthorityRequest {}).await;
    assert_refused(prepare, Code::Internal, "failed to prepare X.509 authority: …");
    let prepare = below.admin.authorities().prepare_jwt_authority(api::PrepareJwtAuthorityRequest {}).await;
    assert_refused(prepare, Code::Internal, "failed to prepare JWT authority: …");
    let svid = agent.x509(&entry.id).await.unwrap().unwrap().svid;
    verify(&bundle, &svid, &below.clock).unwrap();
    agent.jwt(&entry.id, &["aud"]).await.unwrap();

    // Also after a restart, and also when the next authority is due.
    below.stop().await.unwrap();
    below_world.hands.jump(14 * support::HOUR);
    let below = needs.start(&below_world).await;
    assert_eq!(active(&below).await, before);
    let agent = below.agent().await;
    let entry = below.create(support::messages::entry("/late", &agent.id)).await;
    let svid = agent.x509(&entry.id).await.unwrap().unwrap().svid;
    verify(&bundle, &svid, &below.clock).unwrap();
}

#[tokio::test]
async fn without_an_authority_and_an_upstream_server_there_is_no_start() {
    let (world, below_world) = (World::new(), World::new());
    let top = world.start().await;
    let needs = Below::prepare(&top, &below_world).await;
    top.stop().await.unwrap();
    let error = below_world.try_start(|config| config.upstream = needs.upstream.clone()).await.err().unwrap();
    let text = format!("{error:?}");
    assert!(text.contains("unable to request a new Downstream X509CA"), "{text}");
}

#[tokio::test]
async fn a_downstream_entry_opens_the_two_downstream_methods_and_others_do_not() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let downstream = types::Entry { downstream: true, ..entry("/below", &agent.id) };
    let downstream = server.create(downstream).await;
    let plain = server.create(entry("/web", &agent.id)).await;
    let identity = async |entry: &types::Entry| agent.x509(&entry.id).await.unwrap().unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let csr = create_ca_csr(&key, &Subject::ca_default(), &support::trust_domain()).await.unwrap();
    let ask = |ttl: i32| NewDownstreamX509caRequest { csr: csr.clone().into(), preferred_ttl: ttl };
    let authority = types::JwtKey {
        public_key: vouchsafe_ca::signer::Signer::public_key_der(&key).to_vec().into(),
        key_id: "below".into(),
        expires_at: server.clock.unix_now() + 3600,
        tainted: false,
    };
    let publish = || PublishJwtAuthorityRequest { jwt_authority: Some(authority.clone()) };

    let api = server.connect(Some(&identity(&downstream).await.cell));
    for (asked, lives) in [(7200, 7200), (0, 24 * 3600), (-5, 24 * 3600), (1_000_000, 24 * 3600)] {
        let made = api.svids().new_downstream_x509ca(ask(asked)).await.unwrap().into_inner();
        let [ca] = made.ca_cert_chain.as_slice() else { panic!("{} certificates", made.ca_cert_chain.len()) };
        let said = Certificate::parse(ca).unwrap();
        assert!(said.is_ca);
        assert_lately(said.not_after, server.clock.unix_now() + lives);
        assert_eq!(said.uris, ["spiffe://example.org"]);
        let ou = Subject::parse(&said.subject_der).unwrap().organizational_unit;
        assert_eq!(ou, ["DOWNSTREAM-1"]);
        assert_eq!(made.x509_authorities, [server.bundle().await.x509_authorities[0].asn1.clone()]);
    }
    let known = api.bundles().publish_jwt_authority(publish()).await.unwrap().into_inner().jwt_authorities;
    assert_eq!(known, server.bundle().await.jwt_authorities);
    assert_eq!(known.last(), Some(&authority));
    let broken = NewDownstreamX509caRequest { csr: b"x".to_vec().into(), preferred_ttl: 0 };
    assert_refused(
        api.svids().new_downstream_x509ca(broken).await,
        Code::InvalidArgument,
        "malformed CSR: …",
    );
    let nothing = api.bundles().publish_jwt_authority(PublishJwtAuthorityRequest::default()).await;
    assert_refused(nothing, Code::InvalidArgument, "missing JWT authority");
    let unnamed = types::JwtKey { key_id: String::new(), ..authority.clone() };
    let unnamed = PublishJwtAuthorityRequest { jwt_authority: Some(unnamed) };
    let refused = api.bundles().publish_jwt_authority(unnamed).await;
    assert_refused(refused, Code::InvalidArgument, "invalid JWT authority: missing key ID");

    let others =
        [server.connect(Some(&identity(&plain).await.cell)), agent.api.clone(), server.admin.clone()];
    for other in others {
        let refused = other.svids().new_downstream_x509ca(ask(0)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let refused = other.bundles().publish_jwt_authority(publish()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
}

#[tokio::test]
async fn a_server_below_cannot_make_the_bundle_too_large_for_agents() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let downstream = server.create(types::Entry { downstream: true, ..entry("/below", &agent.id) }).await;
    let api = server.connect(Some(&agent.x509(&downstream.id).await.unwrap().unwrap().cell));
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let public_key = bytes::Bytes::copy_from_slice(vouchsafe_ca::signer::Signer::public_key_der(&key));
    let authority = |n: usize| types::JwtKey {
        public_key: public_key.clone(),
        key_id: format!("key {n}"),
        expires_at: server.clock.unix_now() + 3600,
        tainted: false,
    };
    let appended =
        AppendBundleRequest { jwt_authorities: (0..998).map(authority).collect(), ..Default::default() };
    server.admin.bundles().append_bundle(appended).await.unwrap();
    let publish = async |n| {
        let request = PublishJwtAuthorityRequest { jwt_authority: Some(authority(n)) };
        api.bundles().publish_jwt_authority(request).await
    };
    publish(998).await.unwrap();
    let text = "failed to publish JWT key: the bundle has 1000 JWT authorities; …";
    assert_refused(publish(999).await, Code::Internal, text);
    publish(998).await.expect("it is known already");
    let prepared = server.admin.authorities().prepare_jwt_authority(api::PrepareJwtAuthorityRequest {}).await;
    prepared.expect("this server's own authorities find room");
}
