//! Agents: what an operator sees of them and does with them, and how they renew their SVIDs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::agent::TestAgent;
use support::messages::{assert_denied, assert_refused, id, id_of};
use support::{HOUR, TestServer, World};
use tonic::Code;
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest,
    ListAgentsRequest, PostStatusRequest, RenewAgentRequest, count_agents_request, list_agents_request,
};
use vouchsafe_proto::spire::api::types;

async fn list(server: &TestServer, filter: list_agents_request::Filter) -> Vec<types::Agent> {
    let request = ListAgentsRequest { filter: Some(filter), ..ListAgentsRequest::default() };
    server.admin.agents().list_agents(request).await.unwrap().into_inner().agents
}

#[tokio::test]
async fn a_banned_agent_is_told_so_until_it_is_evicted() {
    let world = World::new();
    let server = world.start().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    server.admin.agents().ban_agent(BanAgentRequest { id: id_of(&agent.id) }).await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentBanned));
    assert_denied(agent.renew().await.map(drop), Some(Reason::AgentBanned));
    assert_denied(agent.jwt("x", &["a"]).await, Some(Reason::AgentBanned));
    server.admin.agents().delete_agent(DeleteAgentRequest { id: id_of(&agent.id) }).await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentNotAttested));
    assert_denied(agent.post_status("1").await, Some(Reason::AgentNotAttested));
    other.authorized().await.unwrap();
    assert_eq!(list(&server, Default::default()).await.len(), 1);
}

#[tokio::test]
async fn an_operator_is_told_about_agents_that_are_none() {
    let world = World::new();
    let server = world.start().await;
    let gone = id("/spire/agent/join_token/gone");
    let workload = "invalid agent ID: \"spiffe://example.org/db\" is not an agent in trust domain \"example.org\"; \
                    path is not in the agent namespace";
    let missing = "invalid agent ID: request must specify SPIFFE ID";
    for (id, code, text) in [
        (gone, Code::NotFound, "agent not found"),
        (id("/db"), Code::InvalidArgument, workload),
        (None, Code::InvalidArgument, missing),
    ] {
        let mut agents = server.admin.agents();
        let request = GetAgentRequest { id: id.clone(), output_mask: None };
        assert_refused(agents.get_agent(request).await, code, text);
        assert_refused(agents.ban_agent(BanAgentRequest { id: id.clone() }).await, code, text);
        assert_refused(agents.delete_agent(DeleteAgentRequest { id }).await, code, text);
    }
}

#[tokio::test]
async fn agents_are_filtered_counted_masked_and_paged() {
    let world = World::new();
    let server = world.start().await;
    let (first, second) = (server.agent().await, server.agent().await);
    world.hands.jump(HOUR / 2);
    let third = server.agent().await;
    server.admin.agents().ban_agent(BanAgentRequest { id: id_of(&second.id) }).await.unwrap();
    first.post_status("1.2.3").await.unwrap();

    type Filter = list_agents_request::Filter;
    let check = async |filter: Filter, expected: &[&TestAgent]| {
        let mut expected: Vec<_> = expected.iter().map(|agent| agent.id.clone()).collect();
        expected.sort();
        let expected: Vec<_> = expected.iter().map(id_of).collect();
        let found: Vec<_> = list(&server, filter.clone()).await.into_iter().map(|agent| agent.id).collect();
        assert_eq!(found, expected);
        let filter = count_agents_request::Filter {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        };
        let request = CountAgentsRequest { filter: Some(filter) };
        let count = server.admin.agents().count_agents(request).await.unwrap().into_inner().count;
        assert_eq!(usize::try_from(count).unwrap(), expected.len());
    };
    check(Filter::default(), &[&first, &second, &third]).await;
    check(Filter { by_banned: Some(true), ..Filter::default() }, &[&second]).await;
    check(Filter { by_banned: Some(false), ..Filter::default() }, &[&first, &third]).await;
    check(Filter { by_can_reattest: Some(true), ..Filter::default() }, &[]).await;
    check(Filter { by_attestation_type: "x509pop".into(), ..Filter::default() }, &[]).await;
    // The clock began at 2030-03-17 17:46:40 UTC.
    let by_expires_before = "2030-03-17 19:00:00 +0000 +00".to_owned();
    check(Filter { by_expires_before, ..Filter::default() }, &[&first, &second]).await;

    let mut page = ListAgentsRequest { page_size: 2, ..ListAgentsRequest::default() };
    page.output_mask = Some(types::AgentMask { agent_version: true, ..types::AgentMask::default() });
    let mut seen = Vec::new();
    for size in [2, 1] {
        let answer = server.admin.agents().list_agents(page.clone()).await.unwrap().into_inner();
        assert_eq!(answer.agents.len(), size);
        page.page_token = answer.next_page_token;
        seen.extend(answer.agents);
    }
    assert_eq!(page.page_token, "");
    let known = types::Agent { id: id_of(&first.id), agent_version: "1.2.3".into(), ..Default::default() };
    assert!(seen.contains(&known), "{seen:?}");
}

#[tokio::test]
async fn a_renewed_svid_replaces_the_old_one_at_its_first_use() {
    let world = World::new();
    let server = world.start().await;
    let mut agent = server.agent().await;
    let unused = agent.renew().await.unwrap();
    let renewed = agent.renew().await.unwrap();
    // Until then the old one is good.
    agent.authorized().await.unwrap();
    let old = agent.adopt(renewed);
    agent.authorized().await.unwrap();
    for superseded in [old, unused] {
        let current = agent.adopt(superseded);
        assert_denied(agent.authorized().await, Some(Reason::AgentNotActive));
        assert_denied(agent.renew().await.map(drop), Some(Reason::AgentNotActive));
        agent.adopt(current);
        agent.authorized().await.unwrap();
    }
}

#[tokio::test]
async fn a_renewal_that_cannot_be_is_refused_with_its_mistake() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let check = async |params: Option<AgentX509svidParams>, text| {
        let renewed = agent.api.agents().renew_agent(RenewAgentRequest { params }).await;
        assert_refused(renewed, Code::InvalidArgument, text);
    };
    check(None, "params cannot be nil").await;
    check(Some(AgentX509svidParams::default()), "missing CSR").await;
    check(Some(AgentX509svidParams { csr: "x".into() }), "failed to parse CSR: …").await;
    let request = PostStatusRequest { agent_version: "v".repeat(256), ..Default::default() };
    let text = "agent version is too long (max 255 characters)";
    assert_refused(agent.api.agents().post_status(request).await, Code::InvalidArgument, text);
    agent.authorized().await.unwrap();
}
