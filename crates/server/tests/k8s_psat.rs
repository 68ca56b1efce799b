//! Nodes that attest with the service account token of a Pod, as a stock agent does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use support::agent::{TestAgent, key_and_csr};
use support::kubernetes::{FakeApi, Trouble, authenticated, kubeconfig_of, node, pod, token};
use support::messages::{assert_denied, assert_refused, retry_delay};
use support::x509pop::converse_as;
use support::{TestServer, World, eventually};
use tonic::{Code, Status};
use vouchsafe_cluster::Source;
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, GetAgentRequest, RenewAgentRequest, attest_agent_response,
};
use vouchsafe_server::config::admission::{K8sPsat, PsatCluster};
use vouchsafe_testkit::Fault;

/// When the clocks of these tests begin.
const NOW: i64 = 1_900_000_000;

fn cluster(api: &FakeApi) -> PsatCluster {
    let accounts = BTreeSet::from(["spire:agent".to_owned()]);
    PsatCluster::new(Source::Kubeconfig(api.kubeconfig.clone()), accounts)
}

async fn server_of(world: &World, cluster: PsatCluster) -> TestServer {
    let clusters = [("demo".to_owned(), cluster)].into();
    world.try_start(|config| config.admission.k8s_psat = Some(K8sPsat { clusters })).await.unwrap()
}

async fn started() -> (World, FakeApi, TestServer) {
    let world = World::new();
    let api = FakeApi::start(world.path()).await;
    let server = server_of(&world, cluster(&api)).await;
    (world, api, server)
}

fn claims() -> Value {
    json!({"aud": ["spire-server"], "exp": NOW + 600, "sub": "system:serviceaccount:spire:agent"})
}

fn good() -> String {
    token(&claims())
}

fn payload(token: &str) -> Vec<u8> {
    json!({"cluster": "demo", "token": token}).to_string().into_bytes()
}

async fn attest(server: &TestServer, payload: Vec<u8>) -> Result<attest_agent_response::Result, Status> {
    converse_as("k8s_psat", server, (payload, key_and_csr().await.1), |_| Vec::new()).await
}

async fn join(server: &TestServer) -> TestAgent {
    let (key, csr) = key_and_csr().await;
    let result = converse_as("k8s_psat", server, (payload(&good()), csr), |_| Vec::new()).await;
    TestAgent::with(server, key, &result.unwrap().svid.unwrap())
}

async fn selectors_of(server: &TestServer, result: attest_agent_response::Result) -> Vec<String> {
    let request = GetAgentRequest { id: result.svid.unwrap().id, output_mask: None };
    let agent = server.admin.agents().get_agent(request).await.unwrap().into_inner();
    assert_eq!((agent.attestation_type.as_str(), agent.can_reattest), ("k8s_psat", true));
    let mut selectors: Vec<_> =
        agent.selectors.iter().map(|each| format!("{}:{}", each.r#type, each.value)).collect();
    selectors.sort_unstable();
    selectors
}

fn path_of(result: &attest_agent_response::Result) -> String {
    result.svid.as_ref().unwrap().id.as_ref().unwrap().path.clone()
}

#[tokio::test]
async fn the_agent_of_a_pod_is_known_by_its_node_and_described_by_both() {
    let world = World::new();
    let api = FakeApi::start(world.path()).await;
    let mut settings = cluster(&api);
    settings.node_labels.insert("zone".into());
    settings.pod_labels.insert("app".into());
    let server = server_of(&world, settings).await;
    api.knows(&good());
    let result = attest(&server, payload(&good())).await.unwrap();
    assert!(result.reattestable);
    assert_eq!(path_of(&result), "/spire/agent/k8s_psat/demo/node-uid-1");
    assert_eq!(
        selectors_of(&server, result).await,
        [
            "k8s_psat:agent_node_ip:10.0.0.7",
            "k8s_psat:agent_node_label:zone:a",
            "k8s_psat:agent_node_name:node-1",
            "k8s_psat:agent_node_uid:node-uid-1",
            "k8s_psat:agent_ns:spire",
            "k8s_psat:agent_pod_label:app:agent",
            "k8s_psat:agent_pod_name:agent-x",
            "k8s_psat:agent_pod_uid:pod-uid-1",
            "k8s_psat:agent_sa:agent",
            "k8s_psat:cluster:demo",
        ]
    );
    assert_eq!(api.state().audiences, json!(["spire-server"]));
    assert_eq!(api.asked(), 3, "one review, one Pod, one node");
}

#[tokio::test]
async fn an_agent_can_be_known_by_its_pod_and_tokens_be_for_the_api_server() {
    let world = World::new();
    let api = FakeApi::start(world.path()).await;
    let mut settings = cluster(&api);
    settings.pod_uid_in_id = true;
    settings.audience = Vec::new();
    let server = server_of(&world, settings).await;
    let token = token(&json!({"aud": ["https://api"], "sub": "system:serviceaccount:spire:agent"}));
    api.knows(&token);
    let result = attest(&server, payload(&token)).await.unwrap();
    assert_eq!(path_of(&result), "/spire/agent/k8s_psat/demo/pod/pod-uid-1");
}

#[tokio::test]
async fn it_attests_again_whenever_it_likes_and_never_renews() {
    let (_world, api, server) = started().await;
    api.knows(&good());
    let agent = join(&server).await;
    agent.authorized().await.unwrap();
    let params = Some(AgentX509svidParams { csr: key_and_csr().await.1 });
    let renewal = agent.api.agents().renew_agent(RenewAgentRequest { params }).await;
    assert_denied(renewal.map(drop), Some(Reason::AgentMustReattest));
    let again = join(&server).await;
    assert_eq!(again.id, agent.id);
    again.authorized().await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentNotActive));
}

#[tokio::test]
async fn it_attests_while_the_database_is_away() {
    let (_world, api, server) = started().await;
    api.knows(&good());
    join(&server).await;
    server.faults.set_all(&Fault::unavailable());
    join(&server).await.authorized().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_good_is_refused_without_asking_the_api_server() {
    let (_world, api, server) = started().await;
    let check = async |payload: Vec<u8>, code, text: &str| {
        assert_refused(attest(&server, payload).await, code, &format!("nodeattestor(k8s_psat): {text}"));
    };
    let raw = |text: &str| text.as_bytes().to_vec();
    let with = |key: &str, value: Value| {
        let mut claims = claims();
        claims[key] = value;
        payload(&token(&claims))
    };
    let invalid = Code::InvalidArgument;
    check(raw("x"), invalid, "failed to unmarshal data payload: …").await;
    check(raw("{}"), invalid, "missing cluster in attestation data").await;
    check(raw(r#"{"cluster":"","token":"x"}"#), invalid, "missing cluster in attestation data").await;
    check(raw(r#"{"cluster":"demo"}"#), invalid, "missing token in attestation data").await;
    check(raw(r#"{"cluster":"x","token":"x"}"#), invalid, r#"not configured for cluster "x""#).await;
    check(payload("x"), invalid, "malformed token in attestation data: it is not a signed JWT").await;
    check(payload(&"x".repeat(17 << 10)), invalid, "malformed token in attestation data: it is longer…")
        .await;
    check(payload(&"x".repeat(24 << 10)), invalid, "failed to unmarshal data payload: it is longer…").await;
    let account = json!("system:serviceaccount:default:default");
    let text = r#""default:default" is not an allowed service account for cluster "demo""#;
    check(with("sub", account), Code::PermissionDenied, text).await;
    let review = r#"unable to validate token with TokenReview API for cluster "demo": "#;
    let text = format!(r#"{review}its audiences are ["other"], and must have one of ["spire-server"]"#);
    check(with("aud", json!(["other"])), Code::Internal, &text).await;
    check(with("exp", json!(NOW - 120)), Code::Internal, &format!("{review}it has expired")).await;
    assert_eq!(api.asked(), 0);
}

#[tokio::test]
async fn what_the_api_server_says_decides_and_not_what_the_token_says() {
    let (_world, api, server) = started().await;
    let check = async |status: Value, code, text: &str| {
        api.reviews_as(&good(), status);
        let outcome = attest(&server, payload(&good())).await;
        assert_refused(outcome, code, &format!("nodeattestor(k8s_psat): {text}"));
    };
    let with = |key: &str, value: Value| {
        let mut status = authenticated();
        *status.pointer_mut(key).unwrap() = value;
        status
    };
    let review = r#"unable to validate token with TokenReview API for cluster "demo""#;
    let error = json!({"error": "[invalid bearer token]"});
    let text = format!("{review}: token review API response contains an error: [invalid bearer token]");
    check(error, Code::Internal, &text).await;
    let text = r#"token not authenticated according to TokenReview API for cluster "demo""#;
    check(json!({}), Code::PermissionDenied, text).await;
    let text = format!(
        "{review}: token review API did not validate audience: wanted one of [\"spire-server\"] but got [\"api\"]"
    );
    check(with("/audiences", json!(["api"])), Code::Internal, &text).await;
    let text = r#"fail to parse username from token review status for cluster "demo": unexpected username format: alice"#;
    check(with("/user/username", json!("alice")), Code::Internal, text).await;
    let text = r#""kube-system:agent" is not an allowed service account for cluster "demo""#;
    let account = json!("system:serviceaccount:kube-system:agent");
    check(with("/user/username", account), Code::PermissionDenied, text).await;
    let text = r#"fail to get pod name from token review status for cluster "demo": missing pod name"#;
    check(with("/user/extra", json!({})), Code::Internal, text).await;
    assert!(api.state().asked.iter().all(|asked| asked.contains("tokenreviews")));
}

#[tokio::test]
async fn a_pod_that_is_gone_or_runs_nowhere_makes_no_agent() {
    let (_world, api, server) = started().await;
    api.knows(&good());
    let check = async |path: &str, object: Option<Value>, code, text: &str| {
        match object {
            Some(object) => drop(api.state().objects.insert(path.into(), object)),
            None => drop(api.state().objects.remove(path)),
        }
        let outcome = attest(&server, payload(&good())).await;
        assert_refused(outcome, code, &format!("nodeattestor(k8s_psat): {text}"));
        api.state().objects.extend([
            ("/api/v1/namespaces/spire/pods/agent-x".to_owned(), pod()),
            ("/api/v1/nodes/node-1".to_owned(), node()),
        ]);
    };
    let (pods, nodes) = ("/api/v1/namespaces/spire/pods/agent-x", "/api/v1/nodes/node-1");
    let text = r#"fail to get pod from k8s API server for cluster "demo": unable to query pods API: pods "agent-x" not found"#;
    check(pods, None, Code::Internal, text).await;
    let mut other = pod();
    other["metadata"]["uid"] = json!("pod-uid-2");
    let text = r#"token is of a pod that is gone for cluster "demo": spire/agent-x is not the pod that it was made for any more"#;
    check(pods, Some(other), Code::PermissionDenied, text).await;
    let mut pending = pod();
    pending["spec"].as_object_mut().unwrap().remove("nodeName");
    let text = r#"fail to get node from k8s API server for cluster "demo": empty node name"#;
    check(pods, Some(pending), Code::Internal, text).await;
    let text = r#"fail to get node from k8s API server for cluster "demo": unable to query nodes API: nodes "node-1" not found"#;
    check(nodes, None, Code::Internal, text).await;
    let mut nameless = node();
    nameless["metadata"].as_object_mut().unwrap().remove("uid");
    check(nodes, Some(nameless), Code::Internal, r#"node UID is empty for cluster "demo""#).await;
    attest(&server, payload(&good())).await.unwrap();
}

#[tokio::test]
async fn an_api_server_in_trouble_is_no_refusal_and_is_left_alone_for_a_while() {
    let (_world, api, server) = started().await;
    api.knows(&good());
    let try_it = async || attest(&server, payload(&good())).await;
    for trouble in [Trouble::Refuses(503, None), Trouble::Refuses(429, Some(2)), Trouble::Hangs] {
        api.state().trouble = Some(trouble);
        let away = try_it().await.unwrap_err();
        assert_eq!(away.code(), Code::Unavailable, "{}", away.message());
        assert!(retry_delay(&away).unwrap() >= Duration::from_secs(1), "{away:?}");
        let asked = api.asked();
        let told = try_it().await.unwrap_err();
        assert!(told.message().contains("did not answer a moment ago"), "{}", told.message());
        assert!(told.code() == Code::Unavailable && retry_delay(&told).is_some());
        assert_eq!(api.asked(), asked);
        api.state().trouble = None;
        eventually(async || try_it().await.ok()).await;
    }
    assert_eq!(server.running.counts().1, 1);
}

#[tokio::test]
async fn an_api_server_that_this_server_may_not_ask_is_the_operators_problem_and_no_refusal() {
    let (_world, api, server) = started().await;
    api.knows(&good());
    for code in [401, 403] {
        api.state().trouble = Some(Trouble::Refuses(code, None));
        let status = attest(&server, payload(&good())).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{}", status.message());
        api.state().trouble = None;
        attest(&server, payload(&good())).await.unwrap();
    }
}

#[tokio::test]
async fn a_kubeconfig_is_read_when_it_is_there_and_again_when_it_changes() {
    let world = World::new();
    let api = FakeApi::start(world.path()).await;
    api.knows(&good());
    let mut settings = cluster(&api);
    let path = world.path().join("later");
    settings.source = Source::Kubeconfig(path.clone());
    let server = server_of(&world, settings).await;
    let status = attest(&server, payload(&good())).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("unable to get clientset"), "{}", status.message());
    // Nobody listens there.
    std::fs::write(&path, kubeconfig_of("http://127.0.0.1:1")).unwrap();
    let away = attest(&server, payload(&good())).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "{}", away.message());
    std::fs::copy(&api.kubeconfig, &path).unwrap();
    eventually(async || attest(&server, payload(&good())).await.ok()).await;
}
