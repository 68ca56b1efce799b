//! How agents join: a token makes one agent, once, and a request that cannot succeed costs nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use bytes::Bytes;
use support::agent::{TestAgent, attest, join_params, key_and_csr};
use support::messages::{assert_refused, entry, id, id_of, paths};
use support::{TestServer, World};
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_request::Params;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, CreateJoinTokenRequest, DeleteAgentRequest, ListAgentsRequest,
};
use vouchsafe_proto::spire::api::types;

const USED: &str = "failed to attest: join token does not exist or has already been used";

async fn list(server: &TestServer) -> Vec<types::Agent> {
    let answer = server.admin.agents().list_agents(ListAgentsRequest::default()).await;
    answer.unwrap().into_inner().agents
}

async fn create_token(
    server: &TestServer,
    request: CreateJoinTokenRequest,
) -> Result<types::JoinToken, Status> {
    server.admin.agents().create_join_token(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_join_token_makes_one_agent_once() {
    let world = World::new();
    let server = world.start().await;
    let token =
        create_token(&server, CreateJoinTokenRequest { ttl: 60, ..Default::default() }).await.unwrap();
    assert!((50..=60).contains(&(token.expires_at - world.clock.unix_now())), "{}", token.expires_at);
    let agent = TestAgent::attest(&server, &token.value).await.unwrap();
    assert_eq!(agent.id.path(), format!("/spire/agent/join_token/{}", token.value));
    assert_refused(TestAgent::attest(&server, &token.value).await.map(drop), Code::InvalidArgument, USED);
    assert_refused(TestAgent::attest(&server, "guessed").await.map(drop), Code::InvalidArgument, USED);

    let [listed] = <[_; 1]>::try_from(list(&server).await).unwrap();
    assert_eq!(
        listed,
        types::Agent {
            id: id_of(&agent.id),
            attestation_type: "join_token".into(),
            x509svid_serial_number: agent.identity.svid.serial.clone(),
            x509svid_expires_at: agent.identity.svid.not_after,
            ..types::Agent::default()
        }
    );
}

#[tokio::test]
async fn one_of_many_that_come_with_the_same_token_joins() {
    let world = World::new();
    let server = world.start().await;
    let token = server.token().await;
    let outcomes = futures_util::future::join_all((0..8).map(|_| TestAgent::attest(&server, &token))).await;
    let (joined, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((joined.len(), refused.len()), (1, 7));
    for outcome in joined {
        outcome.unwrap().authorized().await.unwrap();
    }
}

#[tokio::test]
async fn an_expired_join_token_is_refused() {
    let world = World::new();
    let server = world.start().await;
    let token = server.token().await;
    world.hands.jump(601);
    assert_refused(
        TestAgent::attest(&server, &token).await.map(drop),
        Code::InvalidArgument,
        "join token expired",
    );
    assert_refused(TestAgent::attest(&server, &token).await.map(drop), Code::InvalidArgument, USED);
    assert_eq!(server.running.counts(), (0, 0));
}

#[tokio::test]
async fn an_incomplete_attestation_is_told_what_is_missing_and_costs_no_token() {
    let world = World::new();
    let server = world.start().await;
    let token = server.token().await;
    let anonymous = server.connect(None);
    let good = join_params(&token, key_and_csr().await.1);
    let check = async |change: fn(&mut Params), code, text| {
        let mut params = good.clone();
        change(&mut params);
        assert_refused(attest(&anonymous, params).await, code, text);
    };
    let invalid = Code::InvalidArgument;
    check(|p| p.data = None, invalid, "malformed param: missing attestation data").await;
    check(|p| p.params = None, invalid, "malformed param: missing X509-SVID parameters").await;
    check(|p| p.params = Some(AgentX509svidParams::default()), invalid, "malformed param: missing CSR").await;
    let text = "malformed param: missing attestation data type";
    check(|p| p.data.as_mut().unwrap().r#type.clear(), invalid, text).await;
    let text = "malformed param: missing attestation data payload";
    check(|p| p.data.as_mut().unwrap().payload.clear(), invalid, text).await;
    let text = "error getting node attestor: could not find node attestor type \"x\"";
    check(|p| p.data.as_mut().unwrap().r#type = "x".into(), Code::FailedPrecondition, text).await;
    check(|p| p.params.as_mut().unwrap().csr = "x".into(), invalid, "failed to parse CSR: …").await;
    check(|p| p.data.as_mut().unwrap().payload = Bytes::from_static(b"\xff"), invalid, USED).await;
    let nothing = anonymous.agents().attest_agent(futures_util::stream::iter([Default::default()])).await;
    let nothing = nothing.unwrap().into_inner().message().await;
    assert_refused(nothing, invalid, "malformed param: missing params");
    assert_eq!(list(&server).await, []);
    attest(&anonymous, good).await.unwrap();
}

#[tokio::test]
async fn a_join_token_that_cannot_be_is_refused_with_its_mistake() {
    let world = World::new();
    let server = world.start().await;
    let check = async |request, code, text| assert_refused(create_token(&server, request).await, code, text);
    let good = || CreateJoinTokenRequest { ttl: 60, token: "t".into(), agent_id: id("/host") };
    let text = "ttl is required, you must provide one";
    check(CreateJoinTokenRequest { ttl: 0, ..good() }, Code::InvalidArgument, text).await;
    let foreign = types::Spiffeid { trust_domain: "other.org".into(), path: "/host".into() };
    let text =
        "invalid agent ID: \"spiffe://other.org/host\" is not a member of trust domain \"example.org\"";
    check(CreateJoinTokenRequest { agent_id: Some(foreign), ..good() }, Code::InvalidArgument, text).await;
    let text = "token cannot be part of a SPIFFE ID: …";
    check(CreateJoinTokenRequest { token: "a b".into(), ..good() }, Code::InvalidArgument, text).await;
    assert_eq!(server.entries().await, []);
    create_token(&server, good()).await.unwrap();
    check(good(), Code::AlreadyExists, "failed to create token: …").await;
    assert_eq!(server.entries().await.len(), 1);
}

#[tokio::test]
async fn the_alias_of_a_join_token_gives_authority_over_its_children_and_goes_with_the_agent() {
    let world = World::new();
    let server = world.start().await;
    let request = CreateJoinTokenRequest { ttl: 60, agent_id: id("/host"), ..Default::default() };
    let token = create_token(&server, request).await.unwrap().value;
    let host = vouchsafe_testkit::samples::spiffe_id("/host");
    let child = server.create(entry("/db", &host)).await;
    let other = server.agent().await;
    let agent = TestAgent::attest(&server, &token).await.unwrap();
    assert_eq!(paths(&agent.authorized().await.unwrap()), ["/db", "/host"]);
    assert_eq!(agent.x509(&child.id).await.unwrap().unwrap().svid.id.path(), "/db");
    assert_eq!(other.authorized().await.unwrap(), []);

    let request = DeleteAgentRequest { id: id_of(&agent.id) };
    server.admin.agents().delete_agent(request).await.unwrap();
    assert_eq!(paths(&server.entries().await), ["/db"], "the operator's own entry stays");
}
