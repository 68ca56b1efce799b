//! A clock that jumps by three days in either direction: everything is valid again within a minute, without help.
//!
//! The agents here keep only what they had before the jump: the old bundle and an SVID that is not valid now.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::agent::{Identity, TestAgent, verify};
use support::messages::{assert_denied, entry, id_of};
use support::{HOUR, TestServer, World, eventually, received, roots_of};
use tokio::time::timeout;
use tonic::Code;
use vouchsafe_ca::jwt;
use vouchsafe_proto::denial::{self, Reason};
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, DeleteAgentRequest};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_testkit::{Fault, Method};
use vouchsafe_types::jwt_svid::JwtSvid;

const THREE_DAYS: i64 = 72 * HOUR;
/// The issue allows 60 s, on a machine that is not busy.
const SOON: Duration = Duration::from_secs(60);

/// Renews over new connections until one succeeds.
async fn renewed(agent: &mut TestAgent) -> Identity {
    let renewing = eventually(async || {
        agent.reconnect();
        agent.renew().await.ok()
    });
    timeout(SOON, renewing).await.expect("an agent recovers")
}

/// Shows that `agent` can do everything again, beginning with what it had before the jump.
async fn recovers(server: &TestServer, agent: &mut TestAgent, entry_id: &str) {
    let clock = &server.clock;
    let identity = renewed(agent).await;
    let bundle = agent.bundle().await.unwrap();
    assert_denied(agent.authorized().await, Some(Reason::AgentExpired));
    assert_denied(agent.post_status("1").await, Some(Reason::AgentExpired));
    assert_denied(agent.jwt(entry_id, &["a"]).await, Some(Reason::AgentExpired));

    assert!((identity.svid.not_before..identity.svid.not_after).contains(&clock.unix_now()));
    agent.adopt(identity);
    agent.roots = roots_of(&bundle);
    agent.reconnect();
    assert_eq!(agent.authorized().await.unwrap().len(), 1);
    let svid = agent.x509(entry_id).await.unwrap().unwrap().svid;
    assert!((svid.not_before..svid.not_after).contains(&clock.unix_now()));
    // Authorities are replaced one after the other, published before they sign.
    let bundle = agent.bundle().await.unwrap();
    assert_eq!(verify(&bundle, &svid, clock).unwrap().path(), "/db");
    let token = agent.jwt(entry_id, &["a"]).await.unwrap().token;
    let token = JwtSvid::parse_unverified(&token).unwrap();
    token.check_times(clock.unix_now(), Duration::ZERO).unwrap();
    let bundle = agent.bundle().await.unwrap();
    jwt::verify(&token, received(&bundle).jwt_authority(&token.key_id).unwrap()).unwrap();
}

async fn with_agent(world: &World) -> (TestServer, TestAgent, String) {
    let server = world.start().await;
    let agent = server.agent().await;
    let entry_id = server.create(entry("/db", &agent.id)).await.id;
    (server, agent, entry_id)
}

#[tokio::test]
async fn an_agent_recovers_by_itself_when_the_clock_jumps_three_days_ahead() {
    let world = World::new();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    world.hands.jump(THREE_DAYS);
    recovers(&server, &mut agent, &entry_id).await;
}

#[tokio::test]
async fn an_agent_recovers_by_itself_when_the_clock_jumps_three_days_back() {
    let world = World::new();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    world.hands.jump(-THREE_DAYS);
    recovers(&server, &mut agent, &entry_id).await;
}

#[tokio::test]
async fn there_and_back_again_leaves_everything_valid() {
    let world = World::new();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    for (jump, authorities) in [(THREE_DAYS, 2), (-THREE_DAYS, 3), (THREE_DAYS, 4)] {
        world.hands.jump(jump);
        let identity = renewed(&mut agent).await;
        // As an agent that polls does.
        let replaced = eventually(async || {
            Some(agent.bundle().await.ok()?).filter(|bundle| bundle.x509_authorities.len() == authorities)
        });
        agent.roots = roots_of(&timeout(SOON, replaced).await.expect("a valid authority"));
        agent.adopt(identity);
        agent.x509(&entry_id).await.unwrap().unwrap();
    }
    server.stop().await.unwrap();
}

/// A clock that was set wrong and right again before the agent, which polls, has seen what became of it.
#[tokio::test]
async fn an_agent_recovers_that_has_missed_a_jump_there_and_back() {
    let world = World::new();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    for (jump, authorities) in [(THREE_DAYS, 2), (-THREE_DAYS, 3)] {
        world.hands.jump(jump);
        let replaced = async || (server.bundle().await.x509_authorities.len() == authorities).then_some(());
        timeout(SOON, eventually(replaced)).await.expect("a valid authority");
    }
    // Its SVID is good again, and its bundle has none of the authorities that were made meanwhile.
    let identity = renewed(&mut agent).await;
    agent.adopt(identity);
    agent.x509(&entry_id).await.unwrap().unwrap();
}

/// A laptop that was shut down on Friday, or one whose clock was wrong until it was started again.
#[tokio::test]
async fn an_agent_recovers_when_the_clock_changed_by_three_days_while_the_server_was_off() {
    for jump in [THREE_DAYS, -THREE_DAYS] {
        let world = World::with_disk_keys();
        let (server, mut agent, entry_id) = with_agent(&world).await;
        server.faults.set(Method::WRITES, &Fault::unavailable());
        let journalled = agent.renew().await.unwrap();
        server.stop().await.unwrap();
        world.hands.jump(jump);
        let server = world.start().await;
        agent.adopt(journalled);
        recovers(&server, &mut agent.moved_to(&server), &entry_id).await;
    }
}

#[tokio::test]
async fn an_agent_that_was_banned_or_evicted_stays_out_after_a_jump() {
    let world = World::new();
    let server = world.start().await;
    let (mut banned, mut evicted, mut good) =
        (server.agent().await, server.agent().await, server.agent().await);
    server.admin.agents().ban_agent(BanAgentRequest { id: id_of(&banned.id) }).await.unwrap();
    server.admin.agents().delete_agent(DeleteAgentRequest { id: id_of(&evicted.id) }).await.unwrap();
    world.hands.jump(THREE_DAYS);
    renewed(&mut good).await;
    for (agent, reason) in [(&mut banned, Reason::AgentBanned), (&mut evicted, Reason::AgentNotAttested)] {
        agent.reconnect();
        assert_denied(agent.renew().await.map(drop), Some(reason));
    }
}

#[tokio::test]
async fn an_svid_beyond_the_grace_of_four_days_opens_no_connection() {
    let world = World::new();
    let (server, mut agent, _) = with_agent(&world).await;
    let anonymous = server.connect(None);
    world.hands.jump(98 * HOUR);
    let bundle = eventually(async || anonymous.bundles().get_bundle(GetBundleRequest::default()).await.ok());
    timeout(SOON, bundle).await.expect("the server itself is well again");
    agent.reconnect();
    let refused = agent.renew().await.map(drop).unwrap_err();
    assert_eq!(denial::reason(&refused), None, "{refused:?}");
    assert_ne!(refused.code(), Code::PermissionDenied, "{refused:?}");
}
