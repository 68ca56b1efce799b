//! The audit log: who did what, in the form of SPIRE's, and no secrets in it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::messages::{entry, id_of};
use support::{World, eventually};
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, BanAgentRequest, CountAgentsRequest, CreateJoinTokenRequest,
    count_agents_request,
};
use vouchsafe_proto::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest,
};
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchDeleteEntryRequest, ListEntriesRequest, list_entries_request,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::AttestationData;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Value>>>);

struct Fields(Vec<(String, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push((field.name().to_owned(), format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name().to_owned(), value.to_owned()));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Vec::new());
        event.record(&mut fields);
        for (name, text) in fields.0 {
            if name == vouchsafe_server::audit::FIELDS {
                self.0.lock().unwrap().push(serde_json::from_str(&text).unwrap());
            }
        }
    }
}

impl Lines {
    /// The next line about `method`, which is taken away.
    async fn next(&self, method: &str) -> Value {
        eventually(async || {
            let mut lines = self.0.lock().unwrap();
            let at = lines.iter().position(|line| line["method"] == method)?;
            Some(lines.remove(at))
        })
        .await
    }
}

/// Asserts the fields of a line that are the same in every run.
#[track_caller]
fn assert_line(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
}

#[tokio::test]
async fn every_call_leaves_a_line_that_says_who_did_what_and_how_it_ended() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let world = World::new();
    let server = world.try_start(|config| config.admission.audit_log = true).await.unwrap();

    let token = CreateJoinTokenRequest { ttl: 60, token: "top-secret".into(), ..Default::default() };
    let token = server.admin.agents().create_join_token(token).await.unwrap().into_inner();
    let line = lines.next("CreateJoinToken").await;
    let program = std::env::current_exe().unwrap();
    let uid = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap();
    assert_line(
        &line,
        &json!({
            "type": "audit", "status": "success", "subsystem_name": "api", "service": "agent.v1.Agent",
            "authorized_as": "local", "authorized_via": "transport", "ttl": 60,
            "caller_uid": uid, "caller_pid": std::process::id(), "caller_path": program.to_str().unwrap(),
        }),
    );
    assert!(line["request_id"].is_string());
    assert!(!line.to_string().contains("top-secret"), "a token in {line}");

    let agent = support::agent::TestAgent::attest(&server, &token.value).await.unwrap();
    let line = lines.next("AttestAgent").await;
    assert_line(
        &line,
        &json!({
            "status": "success", "authorized_as": "nobody", "authorized_via": "",
            "node_attestor_type": "join_token", "agent_id": agent.id.as_str(),
        }),
    );
    assert!(line["caller_addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");

    let refused = support::agent::TestAgent::attest(&server, "wrong-secret").await;
    assert!(refused.is_err());
    let line = lines.next("AttestAgent").await;
    let text = "failed to attest: join token does not exist or has already been used";
    assert_line(&line, &json!({"status": "error", "status_code": "InvalidArgument", "status_message": text}));
    assert!(!line.to_string().contains("wrong-secret"), "a token in {line}");

    let created = server.create(entry("/db", &agent.id)).await;
    let line = lines.next("BatchCreateEntry").await;
    assert_line(
        &line,
        &json!({
            "status": "success", "spiffe_id": "spiffe://example.org/db", "parent_id": agent.id.as_str(),
            "selectors": "unix:uid:1000", "admin": false, "x509_svid_ttl": 0,
        }),
    );
    agent.x509(&created.id).await.unwrap().unwrap();
    let line = lines.next("BatchNewX509SVID").await;
    assert_line(
        &line,
        &json!({
            "status": "success", "authorized_as": "agent", "authorized_via": "datastore",
            "caller_id": agent.id.as_str(), "entry_id": created.id, "spiffe_id": "spiffe://example.org/db",
        }),
    );
    assert_eq!(line["csr"].as_str().unwrap().len(), 64);

    let request = BatchDeleteEntryRequest { ids: vec!["nope".into()] };
    server.admin.entries().batch_delete_entry(request).await.unwrap();
    let line = lines.next("BatchDeleteEntry").await;
    let expected = json!({
        "status": "error", "status_code": "NotFound", "status_message": "entry not found", "entry_id": "nope",
    });
    assert_line(&line, &expected);

    server.admin.agents().ban_agent(BanAgentRequest { id: id_of(&agent.id) }).await.unwrap();
    let line = lines.next("BanAgent").await;
    assert_line(&line, &json!({"status": "success", "spiffe_id": agent.id.as_str()}));
    filters_are_told(&server, &lines).await;
    foreign_bundles_are_told(&server, &lines).await;
    a_stranger_fills_no_line(&server, &lines).await;
    // Who was not let in is in the ordinary log.
    agent.authorized().await.unwrap_err();
    assert!(lines.0.lock().unwrap().iter().all(|line| line["method"] != "GetAuthorizedEntries"));
}

async fn filters_are_told(server: &support::TestServer, lines: &Lines) {
    let filter = list_entries_request::Filter { by_hint: Some("h".into()), ..Default::default() };
    let request = ListEntriesRequest { filter: Some(filter), ..Default::default() };
    server.admin.entries().list_entries(request).await.unwrap();
    assert_line(&lines.next("ListEntries").await, &json!({"status": "success", "hint": "h"}));
    let filter = count_agents_request::Filter { by_banned: Some(true), ..Default::default() };
    server.admin.agents().count_agents(CountAgentsRequest { filter: Some(filter) }).await.unwrap();
    assert_line(&lines.next("CountAgents").await, &json!({"status": "success", "by_banned": true}));
    // Nothing of its own is told; there is a line all the same.
    server.admin.entries().list_entries(ListEntriesRequest::default()).await.unwrap();
    assert_line(&lines.next("ListEntries").await, &json!({"status": "success", "authorized_as": "local"}));
}

async fn foreign_bundles_are_told(server: &support::TestServer, lines: &Lines) {
    let foreign = types::Bundle { trust_domain: "b.test".into(), refresh_hint: 5, ..server.bundle().await };
    let key = foreign.jwt_authorities[0].key_id.clone();
    let request = BatchSetFederatedBundleRequest { bundle: vec![foreign], output_mask: None };
    server.admin.bundles().batch_set_federated_bundle(request).await.unwrap();
    let line = lines.next("BatchSetFederatedBundle").await;
    assert_line(
        &line,
        &json!({"trust_domain_id": "b.test", "refresh_hint": 5, "jwt_authority_key_id.0": key}),
    );
    assert_eq!(line["x509_authorities_asn1_sha256.0"].as_str().unwrap().len(), 64);
    let request = BatchDeleteFederatedBundleRequest { trust_domains: vec!["b.test".into()], mode: 2 };
    server.admin.bundles().batch_delete_federated_bundle(request).await.unwrap();
    let line = lines.next("BatchDeleteFederatedBundle").await;
    assert_line(&line, &json!({"status": "success", "trust_domain_id": "b.test", "mode": "DISSOCIATE"}));
}

async fn a_stranger_fills_no_line(server: &support::TestServer, lines: &Lines) {
    let long = AttestationData { r#type: "é".repeat(1 << 20), payload: b"x".to_vec().into() };
    let params = Params { data: Some(long), params: Some(AgentX509svidParams { csr: b"x".to_vec().into() }) };
    let request = AttestAgentRequest { step: Some(Step::Params(params)) };
    let answers = server.connect(None).agents().attest_agent(tokio_stream::once(request)).await;
    drop(answers.unwrap().into_inner().message().await.unwrap_err());
    let line = lines.next("AttestAgent").await.to_string();
    assert!(line.len() < 40_000, "a stranger chose the {} bytes of a line", line.len());
}
