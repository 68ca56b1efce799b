//! A server that is started again on the same directory goes on where it ended.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::World;
use support::agent::{TestAgent, attest, join_params, key_and_csr, verify};
use support::messages::{assert_refused, entry, id_of};
use tonic::Code;
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, GetAgentRequest, ListAgentsRequest};

#[tokio::test]
async fn authorities_agents_entries_and_tokens_survive_a_restart() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let agent = server.agent().await;
    let token = server.token().await;
    let entry = server.create(entry("/db", &agent.id)).await;
    let before = server.bundle().await;
    let agents = server.admin.agents().list_agents(ListAgentsRequest::default()).await.unwrap().into_inner();
    let svid = agent.x509(&entry.id).await.unwrap().unwrap().svid;
    server.stop().await.unwrap();

    let server = world.start().await;
    let agent = agent.moved_to(&server);
    assert_eq!(server.bundle().await, before, "no authority was added, and none is missing");
    assert_eq!(server.entries().await, std::slice::from_ref(&entry));
    let listed = server.admin.agents().list_agents(ListAgentsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed, agents);
    // The agent trusts the old bundle alone, so this takes the same authority.
    assert_eq!(agent.authorized().await.unwrap(), std::slice::from_ref(&entry));
    let after = agent.x509(&entry.id).await.unwrap().unwrap().svid;
    for svid in [svid, after] {
        assert_eq!(verify(&before, &svid, &world.clock).unwrap().path(), "/db");
    }
    TestAgent::attest(&server, &token).await.unwrap();
}

#[tokio::test]
async fn what_was_forbidden_stays_forbidden_after_a_restart() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let token = server.token().await;
    let agent = TestAgent::attest(&server, &token).await.unwrap();
    // A renewal that is journalled does not outlive the ban.
    let renewed = agent.renew().await.unwrap();
    server.admin.agents().ban_agent(BanAgentRequest { id: id_of(&agent.id) }).await.unwrap();
    server.crash().await;

    let server = world.start().await;
    let mut agent = agent.moved_to(&server);
    assert_eq!(agent.authorized().await.unwrap_err().code(), Code::PermissionDenied);
    agent.adopt(renewed);
    assert_eq!(agent.authorized().await.unwrap_err().code(), Code::PermissionDenied);
    let request = GetAgentRequest { id: id_of(&agent.id), output_mask: None };
    assert!(server.admin.agents().get_agent(request).await.unwrap().into_inner().banned);
    let (_, csr) = key_and_csr().await;
    let again = attest(&server.connect(None), join_params(&token, csr)).await;
    assert_refused(
        again,
        Code::InvalidArgument,
        "failed to attest: join token does not exist or has already been used",
    );
}

/// Without its keys a server cannot be the same one; what it vouched for before stays valid.
#[tokio::test]
async fn a_server_that_lost_its_keys_adds_an_authority_and_keeps_the_old_one() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let before = server.bundle().await;
    server.stop().await.unwrap();

    let server = world.start().await;
    let after = server.bundle().await;
    assert_eq!((after.x509_authorities.len(), after.jwt_authorities.len()), (2, 2));
    assert_eq!(after.x509_authorities[0], before.x509_authorities[0]);
    assert!(after.sequence_number > before.sequence_number);
    let mut agent = agent.moved_to(&server);
    agent.roots = support::roots_of(&after);
    agent.reconnect();
    agent.authorized().await.unwrap();
}

#[tokio::test]
async fn a_second_server_on_the_admin_socket_is_refused_and_the_first_goes_on() {
    let world = World::new();
    let server = world.start().await;
    let error = world.try_start(|_| {}).await.err().unwrap();
    assert_eq!(error.to_string(), "cannot listen on the admin socket");
    assert_eq!(server.entries().await, []);
    server.stop().await.unwrap();
    world.start().await;
}
