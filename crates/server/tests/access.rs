//! Who may call: over the admin socket, as an administrator, as a workload, as nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::agent::TestAgent;
use support::messages::{assert_denied, assert_refused, entry, ids};
use support::{Api, TestServer, World};
use tonic::{Code, Status};
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::spire::agent::debug::v1::GetInfoRequest;
use vouchsafe_proto::spire::agent::debug::v1::debug_client::DebugClient;
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, GetAuthorizedEntriesRequest, ListEntriesRequest,
};
use vouchsafe_proto::spire::api::types;

async fn list(api: &Api) -> Result<Vec<types::Entry>, Status> {
    Ok(api.entries().list_entries(ListEntriesRequest::default()).await?.into_inner().entries)
}

async fn authorized(api: &Api) -> Result<(), Status> {
    api.entries().get_authorized_entries(GetAuthorizedEntriesRequest::default()).await.map(drop)
}

/// A connection with the SVID of a new entry.
async fn workload(server: &TestServer, agent: &TestAgent, wanted: types::Entry) -> (Api, types::Entry) {
    let entry = server.create(wanted).await;
    let identity = agent.x509(&entry.id).await.unwrap().unwrap();
    (server.connect(Some(&identity.cell)), entry)
}

#[tokio::test]
async fn an_admin_entry_administers_over_tcp_as_long_as_it_exists() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let wanted = types::Entry { admin: true, ..entry("/admin", &agent.id) };
    let (admin, own) = workload(&server, &agent, wanted).await;
    let request = BatchCreateEntryRequest { entries: vec![entry("/db", &agent.id)], output_mask: None };
    let created = admin.entries().batch_create_entry(request).await.unwrap().into_inner();
    let created = created.results[0].entry.clone().unwrap();
    assert_eq!(list(&admin).await.unwrap(), server.entries().await);
    admin.agents().create_join_token(CreateJoinTokenRequest { ttl: 1, ..Default::default() }).await.unwrap();
    // It is no agent.
    assert_denied(authorized(&admin).await, Some(Reason::AgentNotAttested));

    let request = BatchDeleteEntryRequest { ids: vec![own.id] };
    server.admin.entries().batch_delete_entry(request).await.unwrap();
    assert_denied(list(&admin).await, None);
    assert_eq!(ids(&server.entries().await), [created.id.as_str()]);
}

#[tokio::test]
async fn a_configured_admin_id_administers_over_tcp() {
    let world = World::new();
    let admin_id = vouchsafe_testkit::samples::spiffe_id("/ops");
    let server = world.try_start(|config| config.admin_ids.push(admin_id)).await.unwrap();
    let agent = server.agent().await;
    let (ops, _) = workload(&server, &agent, entry("/ops", &agent.id)).await;
    assert_eq!(list(&ops).await.unwrap().len(), 1);
}

#[tokio::test]
async fn workloads_agents_and_strangers_do_not_administer() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let (db, _) = workload(&server, &agent, entry("/db", &agent.id)).await;
    let before = server.entries().await;
    let stranger = server.connect(None);
    for api in [&db, &agent.api, &stranger] {
        assert_denied(list(api).await, None);
        let request = BatchCreateEntryRequest { entries: vec![entry("/x", &agent.id)], output_mask: None };
        assert_denied(api.entries().batch_create_entry(request).await, None);
        let request = CreateJoinTokenRequest { ttl: 60, ..CreateJoinTokenRequest::default() };
        assert_denied(api.agents().create_join_token(request).await, None);
        // What is meant for everybody.
        api.bundles().get_bundle(GetBundleRequest::default()).await.unwrap();
    }
    let refused = list(&stranger).await;
    let text = "authorization denied for method /spire.api.server.entry.v1.Entry/ListEntries";
    assert_refused(refused, Code::PermissionDenied, text);
    assert_eq!(server.entries().await, before);
    // Nor does an operator pass for an agent.
    assert_denied(authorized(&server.admin).await, None);
    assert_denied(authorized(&stranger).await, None);
}

#[tokio::test]
async fn an_admin_whose_svid_expired_does_not_administer() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let wanted = types::Entry { admin: true, x509_svid_ttl: 60, ..entry("/admin", &agent.id) };
    let (admin, _) = workload(&server, &agent, wanted).await;
    list(&admin).await.unwrap();
    world.hands.jump(120);
    assert_denied(list(&admin).await, None);
}

#[tokio::test]
async fn the_server_does_not_take_a_certificate_that_it_did_not_issue() {
    let world = World::new();
    let (server, elsewhere) = (world.start().await, World::new());
    let foreign = elsewhere.start().await.agent().await;
    let refused = server.connect(Some(&foreign.identity.cell));
    let refused = refused.bundles().get_bundle(GetBundleRequest::default()).await.unwrap_err();
    assert_ne!(refused.code(), Code::PermissionDenied, "the handshake fails: {refused:?}");
    server.connect(None).bundles().get_bundle(GetBundleRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_method_that_is_not_served_says_so() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    for api in [&server.admin, &agent.api] {
        let unknown = DebugClient::new(api.0.clone()).get_info(GetInfoRequest {}).await;
        assert_refused(unknown, Code::Unimplemented, "unknown service spire.agent.debug.v1.Debug");
    }
}

#[tokio::test]
async fn a_message_over_four_mebibytes_is_refused_and_the_connection_goes_on() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let entry = server.create(entry("/db", &agent.id)).await;
    let huge = types::Entry { hint: "x".repeat(5 << 20), ..entry.clone() };
    let request = BatchCreateEntryRequest { entries: vec![huge], output_mask: None };
    let refused = server.admin.entries().batch_create_entry(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert!(refused.message().contains("4194304"), "{refused:?}");
    let csr = vec![0_u8; 5 << 20].into();
    let refused = agent.x509_with(&entry.id, csr).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert_eq!(server.entries().await, std::slice::from_ref(&entry));
    agent.x509(&entry.id).await.unwrap().unwrap();
}
