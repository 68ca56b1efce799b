//! Nodes that attest with a certificate, as a stock agent does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256};
use rcgen::{KeyUsagePurpose, SanType};
use support::agent::key_and_csr;
use support::messages::{assert_denied, assert_refused, id_of};
use support::x509pop::{GO_SALT, Key, Node, Pki, converse};
use support::{TestServer, World};
use tonic::Code;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, BanAgentRequest, DeleteAgentRequest, GetAgentRequest, RenewAgentRequest,
    attest_agent_response,
};
use vouchsafe_proto::spire::api::server::bundle::v1::AppendBundleRequest;
use vouchsafe_proto::spire::api::server::svid::v1::MintX509svidRequest;
use vouchsafe_proto::spire::api::types;
use vouchsafe_server::config::admission::{AgentPath, X509Pop, X509PopMode};
use vouchsafe_types::spiffe_id::SpiffeId;

async fn server_of(world: &World, settings: X509Pop) -> TestServer {
    world.try_start(|config| config.admission.x509pop = Some(settings)).await.unwrap()
}

fn path_of(result: &attest_agent_response::Result) -> String {
    result.svid.as_ref().unwrap().id.as_ref().unwrap().path.clone()
}

#[tokio::test]
async fn a_node_with_a_certificate_becomes_an_agent_that_is_known_by_it() {
    let (world, pki) = (World::new(), Pki::new());
    let server = server_of(&world, pki.settings()).await;
    let node = pki.node();
    let result = node.attest(&server).await.unwrap();
    assert!(result.reattestable);
    assert_eq!(path_of(&result), format!("/spire/agent/x509pop/{}", node.fingerprint()));
    let request = GetAgentRequest { id: result.svid.unwrap().id, output_mask: None };
    let agent = server.admin.agents().get_agent(request).await.unwrap().into_inner();
    let root = Node { chain: vec![pki.root.to_vec()], key: node.key }.fingerprint();
    let mut selectors: Vec<_> =
        agent.selectors.iter().map(|each| format!("{}:{}", each.r#type, each.value)).collect();
    selectors.sort_unstable();
    assert_eq!(
        selectors,
        [
            format!("x509pop:ca:fingerprint:{root}"),
            "x509pop:san:rack:7/left".into(),
            "x509pop:serialnumber:0abc".into(),
            "x509pop:subject:cn:node-1".into(),
        ]
    );
    assert_eq!((agent.attestation_type.as_str(), agent.can_reattest), ("x509pop", true));
}

#[tokio::test]
async fn rsa_keys_attest_with_the_salt_of_go_and_with_that_of_others() {
    let (world, pki) = (World::new(), Pki::new());
    let server = server_of(&world, pki.settings()).await;
    for salt in [&GO_SALT, &RSA_PSS_SHA256] {
        pki.rsa_node(salt).attest(&server).await.unwrap();
    }
}

#[tokio::test]
async fn it_attests_again_whenever_it_likes_and_never_renews() {
    let (world, pki) = (World::new(), Pki::new());
    let server = server_of(&world, pki.settings()).await;
    let node = pki.node();
    let agent = node.join(&server).await;
    agent.authorized().await.unwrap();
    let params = Some(AgentX509svidParams { csr: key_and_csr().await.1 });
    let renewal = agent.api.agents().renew_agent(RenewAgentRequest { params }).await;
    assert_denied(renewal.map(drop), Some(Reason::AgentMustReattest));
    let again = node.join(&server).await;
    assert_eq!(again.id, agent.id);
    again.authorized().await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentNotActive));
    assert_eq!(server.running.counts().1, 1);
}

#[tokio::test]
async fn a_banned_node_stays_out_and_an_evicted_one_comes_back() {
    let (world, pki) = (World::new(), Pki::new());
    let server = server_of(&world, pki.settings()).await;
    let node = pki.node();
    let agent = node.join(&server).await;
    let id = id_of(&agent.id);
    server.admin.agents().ban_agent(BanAgentRequest { id: id.clone() }).await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentBanned));
    let refused = node.attest(&server).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "failed to attest: agent is banned")
    );
    server.admin.agents().delete_agent(DeleteAgentRequest { id }).await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentNotAttested));
    node.join(&server).await.authorized().await.unwrap();
}

#[tokio::test]
async fn what_proves_nothing_is_refused_in_the_words_of_spire() {
    let (world, pki) = (World::new(), Pki::new());
    let server = server_of(&world, pki.settings()).await;
    let check = async |payload: &str, code, text: &str| {
        let outcome = converse(&server, payload.into(), key_and_csr().await.1, |_| Vec::new()).await;
        assert_refused(outcome, code, &format!("nodeattestor(x509pop): {text}"));
    };
    let invalid = Code::InvalidArgument;
    check("x", invalid, "failed to unmarshal data: …").await;
    check("{}", invalid, "no certificate to attest").await;
    check(r#"{"certificates":null}"#, invalid, "no certificate to attest").await;
    check(r#"{"certificates":["eA=="]}"#, invalid, "unable to parse leaf certificate: …").await;
    let six = ["\"eA==\""; 6].join(",");
    check(&format!(r#"{{"certificates":[{six}]}}"#), invalid, "too many intermediate certificates").await;

    let unknown = Pki::new().node().attest(&server).await;
    let text = "nodeattestor(x509pop): certificate verification failed: \
                x509: certificate signed by unknown authority";
    assert_refused(unknown, Code::PermissionDenied, text);
    let deaf = pki.node_with(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    let text = "nodeattestor(x509pop): unable to generate challenge: \
                certificate not intended for digital signature use";
    assert_refused(deaf.attest(&server).await, Code::Internal, text);

    let (node, other) = (pki.node(), pki.node());
    let csr = key_and_csr().await.1;
    let stolen = converse(&server, node.payload(), csr.clone(), |it| other.respond(it)).await;
    let failed = "nodeattestor(x509pop): challenge response verification failed: ";
    assert_refused(stolen, Code::PermissionDenied, &format!("{failed}ECDSA signature verify failed"));
    let empty = converse(&server, node.payload(), csr.clone(), |_| b"{}".to_vec()).await;
    assert_refused(empty, Code::PermissionDenied, &format!("{failed}expecting ECDSA response"));
    let garbage = converse(&server, node.payload(), csr, |_| b"x".to_vec()).await;
    let text = "nodeattestor(x509pop): unable to unmarshal challenge response: …";
    assert_refused(garbage, invalid, text);
    assert_eq!(server.running.counts().1, 0, "nobody joined");
}

#[tokio::test]
async fn keys_and_chains_are_as_large_as_the_operator_allows() {
    let (world, pki) = (World::new(), Pki::new());
    let settings = X509Pop { max_rsa_key_bits: 1024, max_intermediates: 1, ..pki.settings() };
    let server = server_of(&world, settings).await;
    let text = "nodeattestor(x509pop): leaf certificate key size too large";
    assert_refused(pki.rsa_node(&GO_SALT).attest(&server).await, Code::InvalidArgument, text);
    let mut node = pki.node();
    node.chain.push(pki.rsa_node(&GO_SALT).chain.remove(0));
    let text = "nodeattestor(x509pop): intermediate certificate 0 key size too large";
    assert_refused(node.attest(&server).await, Code::InvalidArgument, text);
    node.chain = vec![node.chain[0].clone(), pki.root.to_vec(), pki.root.to_vec()];
    let text = "nodeattestor(x509pop): too many intermediate certificates";
    assert_refused(node.attest(&server).await, Code::InvalidArgument, text);
}

#[tokio::test]
async fn a_template_names_agents_and_an_address_binds_a_certificate_to_its_node() {
    let (world, pki) = (World::new(), Pki::new());
    let agent_path = AgentPath::parse("/dc/{{ .URISanSelectors.rack }}/{{ .SerialNumberHex }}").unwrap();
    let settings = X509Pop { agent_path, verify_client_ip: true, ..pki.settings() };
    let server = server_of(&world, settings).await;
    assert_eq!(path_of(&pki.node().attest(&server).await.unwrap()), "/spire/agent/dc/7/left/0abc");
    let elsewhere = pki.node_with(|params| {
        params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())];
    });
    let text = "nodeattestor(x509pop): client IP 127.0.0.1 does not match any certificate IP SAN";
    assert_refused(elsewhere.attest(&server).await, Code::PermissionDenied, text);
    let nameless = pki.node_with(|params| {
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    });
    let text = "nodeattestor(x509pop): failed to make spiffe id: template: agent-path: …";
    assert_refused(nameless.attest(&server).await, Code::Internal, text);
}

#[tokio::test]
async fn an_svid_under_the_prefix_attests_its_node_and_another_does_not() {
    let world = World::new();
    let settings = X509Pop::new(X509PopMode::Spiffe(X509Pop::DEFAULT_SVID_PREFIX.into()));
    let server = server_of(&world, settings).await;
    let node = async |path: &str| {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = SpiffeId::new(&support::trust_domain(), path).unwrap();
        let csr = create_csr(&key, Some(&id)).await.unwrap().into();
        let minted = server.admin.svids().mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await.unwrap();
        let chain = minted.into_inner().svid.unwrap().cert_chain.iter().map(|der| der.to_vec()).collect();
        let pkcs8 = key.pkcs8().unwrap();
        Node {
            chain,
            key: Key::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap()),
        }
    };
    let result = node("/spire-exchange/rack/1").await.attest(&server).await.unwrap();
    assert_eq!(path_of(&result), "/spire/agent/x509pop/rack/1");
    let text = "nodeattestor(x509pop): x509 cert doesnt match SVID prefix";
    assert_refused(node("/db").await.attest(&server).await, Code::PermissionDenied, text);
    let text = "nodeattestor(x509pop): certificate verification failed: \
                x509: certificate signed by unknown authority";
    assert_refused(Pki::new().node().attest(&server).await, Code::PermissionDenied, text);
}

#[tokio::test]
async fn an_svid_of_another_trust_domain_attests_nobody_although_its_authority_is_ours() {
    let (world, pki) = (World::new(), Pki::new());
    let settings = X509Pop::new(X509PopMode::Spiffe(X509Pop::DEFAULT_SVID_PREFIX.into()));
    let server = server_of(&world, settings).await;
    let root = types::X509Certificate { asn1: pki.root.to_vec().into(), tainted: false };
    let larger = AppendBundleRequest { x509_authorities: vec![root], ..Default::default() };
    server.admin.bundles().append_bundle(larger).await.unwrap();
    let node = |uri: &str| {
        let uri = SanType::URI(uri.try_into().unwrap());
        pki.node_with(|params| params.subject_alt_names.push(uri))
    };
    node("spiffe://example.org/spire-exchange/rack").attest(&server).await.unwrap();
    let foreign = node("spiffe://other.example/spire-exchange/rack").attest(&server).await;
    let text = "nodeattestor(x509pop): valid SVID x509 cert not found";
    assert_refused(foreign, Code::PermissionDenied, text);
}

#[tokio::test]
async fn a_type_that_is_not_configured_is_refused() {
    let (world, pki) = (World::new(), Pki::new());
    let server = world.start().await;
    let text = "error getting node attestor: could not find node attestor type \"x509pop\"";
    assert_refused(pki.node().attest(&server).await, Code::FailedPrecondition, text);
}

/// Each attestation costs a signature and a write to a disk.
#[tokio::test]
async fn one_node_cannot_keep_the_server_busy_by_attesting_again_and_again() {
    let (world, pki) = (World::new(), Pki::new());
    let server = server_of(&world, pki.settings()).await;
    let node = pki.node();
    for _ in 0..10 {
        node.attest(&server).await.unwrap();
    }
    let refused = node.attest(&server).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(support::messages::retry_delay(&refused).is_some(), "{refused:?}");
    pki.node().attest(&server).await.unwrap();
}
