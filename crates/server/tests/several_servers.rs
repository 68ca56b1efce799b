//! Several servers on one database: each with keys of its own, none in front of the others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::agent::{TestAgent, verify};
use support::messages::{assert_denied, entry, id_of, paths};
use support::x509pop::Pki;
use support::{TestServer, World, eventually};
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, DeleteAgentRequest};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::Position;
use vouchsafe_testkit::{Fault, Method, samples};
use vouchsafe_types::agent::Agent;

/// Two servers, `apart` seconds apart.
async fn two(world: &World, apart: i64) -> (TestServer, TestServer) {
    let first = world.start().await;
    let (clock, hands) = Clock::steerable(world.clock.now());
    hands.jump(apart);
    let second = world.start_beside(&first, "second", clock).await;
    eventually(async || (first.bundle().await.x509_authorities.len() == 2).then_some(())).await;
    (first, second)
}

/// The agent, facing `server`, with everything that it has by now.
async fn facing(agent: TestAgent, server: &TestServer) -> TestAgent {
    let mut agent = agent.moved_to(server);
    agent.roots = support::roots_of(&server.bundle().await);
    agent.reconnect();
    agent
}

#[tokio::test]
async fn each_has_its_own_authorities_and_every_server_serves_every_agent() {
    let world = World::with_disk_keys();
    let (first, second) = two(&world, 0).await;
    let agent = first.agent().await;
    let id = first.create(entry("/db", &agent.id)).await.id;
    let by_first = agent.x509(&id).await.unwrap().unwrap().svid;
    let agent = facing(agent, &second).await;
    eventually(async || (paths(&agent.authorized().await.ok()?) == ["/db"]).then_some(())).await;
    let by_second = agent.x509(&id).await.unwrap().unwrap().svid;
    let bundle = first.bundle().await;
    assert_eq!(bundle, second.bundle().await);
    for svid in [&by_first, &by_second] {
        assert_eq!(verify(&bundle, svid, &world.clock).unwrap().path(), "/db");
    }

    second.stop().await.unwrap();
    let second = world.start_beside(&first, "second", world.clock.clone()).await;
    assert_eq!(second.bundle().await, bundle, "it took up its own authorities, and made none");
    assert_eq!(first.store.load_journals().await.unwrap().len(), 2);
}

/// Servers that start at the same moment must not take each other's journal, nor lose each other's authority.
#[tokio::test]
async fn servers_that_start_together_publish_all_their_authorities() {
    let world = World::with_disk_keys();
    let first = world.start().await;
    let start = |name: &'static str| world.start_beside(&first, name, world.clock.clone());
    let (second, third, fourth) = tokio::join!(start("second"), start("third"), start("fourth"));
    let all = [&first, &second, &third, &fourth];
    for server in all {
        eventually(async || (server.bundle().await.x509_authorities.len() == 4).then_some(())).await;
        assert_eq!(server.bundle().await.jwt_authorities.len(), 4);
    }
    assert_eq!(first.store.load_journals().await.unwrap().len(), 4);
}

/// The second server's view of the database stands still while the first one renews.
#[tokio::test]
async fn an_agent_that_one_server_renewed_is_not_refused_by_another_that_does_not_know_yet() {
    let world = World::with_disk_keys();
    let (first, second) = two(&world, 0).await;
    let mut agent = first.agent().await;
    first.create(entry("/db", &agent.id)).await;
    agent = facing(agent, &second).await;
    eventually(async || agent.authorized().await.ok().filter(|entries| !entries.is_empty())).await;
    second.faults.set_all(&Fault::unavailable());
    for _ in 0..2 {
        agent = facing(agent, &first).await;
        // Lifetimes are told in seconds.
        world.hands.jump(2);
        let renewed = agent.renew().await.unwrap();
        let old = agent.adopt(renewed);
        agent.authorized().await.unwrap();
        agent = facing(agent, &second).await;
        assert_eq!(paths(&agent.authorized().await.unwrap()), ["/db"]);
        let renewed = agent.adopt(old);
        assert_denied(agent.authorized().await, Some(Reason::AgentNotActive));
        agent.adopt(renewed);
    }
    second.faults.clear();
    agent.authorized().await.unwrap();
    // What both wrote agrees.
    let serial = agent.identity.svid.serial.clone();
    for server in [&first, &second] {
        agent = facing(agent, server).await;
        eventually(async || (stored(server, &agent).await.serial_number == serial).then_some(())).await;
        agent.authorized().await.unwrap();
    }
}

async fn stored(server: &TestServer, agent: &TestAgent) -> Agent {
    let mut found = None;
    let mut look = |record| match record {
        vouchsafe_store::Record::Agent(held) if held.id == agent.id => found = Some(held),
        _ => {}
    };
    server.store.load(&mut look).await.unwrap();
    found.unwrap()
}

#[tokio::test]
async fn a_ban_or_an_eviction_at_one_server_reaches_the_others_before_anything_newer_helps() {
    let (world, pki) = (World::with_disk_keys(), Pki::new());
    let settings = pki.settings();
    let first = world.try_start(|config| config.admission.x509pop = Some(settings.clone())).await.unwrap();
    let (clock, _hands) = Clock::steerable(world.clock.now());
    let second = world
        .start_beside_with(&first, "second", clock, |config| config.admission.x509pop = Some(settings))
        .await;
    let node = pki.node();
    let (banned, evicted) = (pki.node().join(&first).await, node.join(&first).await);
    eventually(async || (second.running.counts().1 == 2).then_some(())).await;
    first.admin.agents().ban_agent(BanAgentRequest { id: id_of(&banned.id) }).await.unwrap();
    first.admin.agents().delete_agent(DeleteAgentRequest { id: id_of(&evicted.id) }).await.unwrap();
    let (banned, evicted) = (facing(banned, &second).await, facing(evicted, &second).await);
    eventually(async || banned.authorized().await.err()).await;
    assert_denied(banned.authorized().await, Some(Reason::AgentBanned));
    eventually(async || evicted.authorized().await.err()).await;
    assert_denied(evicted.authorized().await, Some(Reason::AgentNotAttested));

    // It comes back at once, and whoever has the SVID that it had before does not come back with it.
    let again = facing(node.join(&first).await, &second).await;
    eventually(async || again.authorized().await.ok()).await;
    assert_denied(evicted.authorized().await, Some(Reason::AgentNotActive));
    again.authorized().await.unwrap();
}

#[tokio::test]
async fn clocks_that_differ_by_half_a_minute_keep_nobody_out() {
    for apart in [30, -30] {
        let world = World::with_disk_keys();
        let (first, second) = two(&world, apart).await;
        // Attested by the one, served by the other, and renewed there, in both directions.
        for (from, to) in [(&first, &second), (&second, &first)] {
            let mut agent = TestAgent::attest(from, &from.token().await).await.unwrap();
            let id = from.create(entry(&format!("/db{}", agent.identity.svid.serial), &agent.id)).await.id;
            agent = facing(agent, to).await;
            eventually(async || agent.authorized().await.ok().filter(|entries| !entries.is_empty())).await;
            let renewed = agent.renew().await.unwrap();
            agent.adopt(renewed);
            let svid = agent.x509(&id).await.unwrap().unwrap().svid;
            // A workload whose clock is right, or as wrong as the other server's, believes it at once.
            for clock in [&first.clock, &second.clock] {
                verify(&to.bundle().await, &svid, clock).unwrap();
            }
            agent = facing(agent, from).await;
            eventually(async || agent.authorized().await.ok()).await;
        }
    }
}

#[tokio::test]
async fn what_two_servers_tidy_up_is_one_change() {
    let world = World::new();
    let (first, second) = two(&world, 0).await;
    let mut expired = samples::entry("expired");
    expired.expires_at = 1;
    first.store.create_entry(expired).await.unwrap();
    let before = *first.store.watch().borrow();
    let now = world.clock.unix_now();
    let (one, two) = tokio::join!(first.store.prune_entries(now), second.store.prune_entries(now));
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    let changes = first.store.changes_after(before, 100).await.unwrap();
    assert_eq!((changes.changes.len(), changes.complete), (1, true));
    assert!(changes.position > Position::START);
}

/// Writes that could not be made do not stop the other server from making its own.
#[tokio::test]
async fn a_server_that_cannot_write_holds_up_no_other() {
    let world = World::with_disk_keys();
    let (first, second) = two(&world, 0).await;
    second.faults.set(Method::WRITES, &Fault::FailAfter(Duration::from_secs(1)));
    world.hands.jump(13 * support::HOUR);
    // Both are due for new authorities; one of them can publish its own.
    eventually(async || (first.bundle().await.x509_authorities.len() >= 3).then_some(())).await;
    second.faults.clear();
}
