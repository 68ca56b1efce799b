//! What the product exists for: while the database is away, nobody who was attested notices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::agent::{TestAgent, attest, join_params, key_and_csr};
use support::messages::{
    assert_denied, assert_item_refused, assert_refused, entry, id_of, paths, retry_delay,
};
use support::x509pop::Pki;
use support::{HOUR, TestServer, World, eventually};
use tokio::time::timeout;
use tonic::Code;
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, ListAgentsRequest,
};
use vouchsafe_proto::spire::api::server::bundle::v1::GetFederatedBundleRequest;
use vouchsafe_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest;
use vouchsafe_store::{CreateOutcome, Record};
use vouchsafe_testkit::samples::{self, join_token};
use vouchsafe_testkit::{Fault, Method, Stopwatch};
use vouchsafe_types::agent::Agent;

/// Below every time after which the server would go on without the store (5 s and more).
const FAST: Duration = Duration::from_secs(3);

/// What comes of `calls`, which must not wait for the store. Those that would wait for ever end with the watchdog.
#[track_caller]
fn fast<T>(calls: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let began = Stopwatch::start();
        let outcome = calls.await;
        assert!(began.elapsed() < FAST, "{caller}: {:?}", began.elapsed());
        outcome
    }
}

/// Calls everything that an agent calls, and goes on with the SVID that it got by that.
async fn live(agent: &mut TestAgent, entry_id: &str) {
    let calls = async {
        let synced = agent.sync(vec![SyncAuthorizedEntriesRequest::default()]).await.unwrap();
        assert_eq!(paths(&synced[0].entries), ["/db"]);
        assert_eq!(paths(&agent.authorized().await.unwrap()), ["/db"]);
        assert_eq!(agent.x509(entry_id).await.unwrap().unwrap().svid.id.path(), "/db");
        agent.jwt(entry_id, &["a"]).await.unwrap();
        agent.post_status("1.2.3").await.unwrap();
        assert_eq!(agent.bundle().await.unwrap().x509_authorities.len(), 1);
        let request = GetFederatedBundleRequest { trust_domain: "other.org".into(), output_mask: None };
        let missing = agent.api.bundles().get_federated_bundle(request).await;
        assert_refused(missing, Code::NotFound, "bundle not found");
        let renewed = agent.renew().await.unwrap();
        agent.adopt(renewed);
        // The first use of the new SVID.
        agent.authorized().await.unwrap();
    };
    fast(calls).await;
}

/// A server with an agent that may have the identity `/db`, and the ID of that entry.
async fn with_agent(world: &World) -> (TestServer, TestAgent, String) {
    let server = world.start().await;
    let agent = server.agent().await;
    let entry_id = server.create(entry("/db", &agent.id)).await.id;
    (server, agent, entry_id)
}

/// The agent as the database has it.
async fn stored(server: &TestServer, agent: &TestAgent) -> Agent {
    find(server, agent).await.unwrap()
}

async fn find(server: &TestServer, agent: &TestAgent) -> Option<Agent> {
    let mut found = None;
    let mut look = |record| match record {
        Record::Agent(held) if held.id == agent.id => found = Some(held),
        _ => {}
    };
    server.store.load(&mut look).await.unwrap();
    found
}

#[tokio::test]
async fn an_attested_agent_is_served_whatever_the_store_does() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    for (methods, fault) in [
        (Method::READS, Fault::unavailable()),
        (Method::READS, Fault::Stall),
        (Method::WRITES, Fault::unavailable()),
        (Method::WRITES, Fault::Stall),
        (Method::WRITES, Fault::disk_full()),
        (Method::WRITES, Fault::LoseAnswer),
    ] {
        server.faults.set(methods, &fault);
        live(&mut agent, &entry_id).await;
        server.faults.clear();
    }
    server.faults.set_all(&Fault::unavailable());
    live(&mut agent, &entry_id).await;
    live(&mut agent, &entry_id).await;
    server.stop().await.unwrap();
}

/// The feed, which reads in the background, is kept in a read that stalls; so every other read counts.
#[tokio::test]
async fn no_call_of_an_agent_reads_the_store() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    server.faults.set_all(&Fault::Stall);
    server.store.create_join_token(join_token("wakes-the-feed", 1), None).await.unwrap();
    // A look that had begun before may end, and the one for the token after it does not.
    let mut seen = 0;
    eventually(async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = std::mem::replace(&mut seen, server.faults.calls(Method::ChangesAfter));
        (before == seen).then_some(())
    })
    .await;

    let reads = server.faults.reads();
    live(&mut agent, &entry_id).await;
    assert_eq!(server.faults.reads() - reads, 0);
}

/// Token and agent are one write: what fails before or in it leaves the token for the next try.
#[tokio::test]
async fn an_attestation_that_the_store_cannot_keep_costs_no_token() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let token = server.token().await;
    for fault in [Fault::unavailable(), Fault::disk_full()] {
        server.faults.set(Method::WRITES, &fault);
        TestAgent::attest(&server, &token).await.map(drop).unwrap_err();
        server.faults.clear();
    }
    assert_eq!(server.faults.calls(Method::AdmitByToken), 2);
    assert_eq!(server.faults.calls(Method::PutAgent), 0);
    TestAgent::attest(&server, &token).await.unwrap();
}

#[tokio::test]
async fn renewals_are_written_back_when_the_store_recovers() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    let first = agent.identity.svid.serial.clone();
    server.faults.set_all(&Fault::unavailable());
    live(&mut agent, &entry_id).await;
    let second = agent.identity.svid.serial.clone();
    let third = agent.renew().await.unwrap().svid.serial;
    assert_eq!(stored(&server, &agent).await.serial_number, first);

    server.faults.clear();
    let after = eventually(async || {
        let held = stored(&server, &agent).await;
        (held.serial_number == second && held.new_serial_number == third).then_some(held)
    });
    assert_eq!(after.await.agent_version, "1.2.3");
}

/// The database took the first of two renewals and could not say so.
#[tokio::test]
async fn an_agent_is_known_at_every_moment_while_the_store_catches_up() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    server.faults.set(Method::READS, &Fault::unavailable());
    server.faults.set(Method::WRITES, &Fault::LoseAnswer);
    for _ in 0..2 {
        live(&mut agent, &entry_id).await;
        let serial = agent.identity.svid.serial.clone();
        eventually(async || (stored(&server, &agent).await.serial_number == serial).then_some(())).await;
    }
    server.faults.set(Method::WRITES, &Fault::unavailable());
    live(&mut agent, &entry_id).await;

    server.faults.clear();
    let serial = agent.identity.svid.serial.clone();
    eventually(async || {
        agent.authorized().await.unwrap();
        (stored(&server, &agent).await.serial_number == serial).then_some(())
    })
    .await;
    agent.authorized().await.unwrap();
}

#[tokio::test]
async fn a_renewal_that_never_reached_the_store_survives_a_crash() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    server.faults.set_all(&Fault::unavailable());
    live(&mut agent, &entry_id).await;
    let renewed = agent.renew().await.unwrap();
    server.crash().await;

    let server = world.start().await;
    let mut agent = agent.moved_to(&server);
    // What it used last and what it was given last are both known.
    agent.authorized().await.unwrap();
    agent.adopt(renewed);
    live(&mut agent, &entry_id).await;

    // Once the database has it, the file is not needed any more.
    let serial = agent.identity.svid.serial.clone();
    eventually(async || (stored(&server, &agent).await.serial_number == serial).then_some(())).await;
    server.crash().await;
    std::fs::remove_file(world.journal()).unwrap();
    let server = world.start().await;
    agent.moved_to(&server).authorized().await.unwrap();
}

#[tokio::test]
async fn a_damaged_journal_is_refused_by_name_and_kept() {
    let world = World::with_disk_keys();
    let (server, agent, _) = with_agent(&world).await;
    server.faults.set_all(&Fault::unavailable());
    agent.renew().await.unwrap();
    server.crash().await;
    let mut bytes = std::fs::read(world.journal()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(world.journal(), &bytes).unwrap();

    let error = world.try_start(|_| {}).await.err().unwrap();
    assert_eq!(error.to_string(), "cannot take up agent renewals of an earlier run");
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        text.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(text.contains("agent-renewals.sealed"), "{text}");
    assert_eq!(std::fs::read(world.journal()).unwrap(), bytes);
}

#[tokio::test]
async fn what_an_operator_writes_fails_at_once_and_leaves_nothing_behind() {
    let world = World::new();
    let (server, agent, _) = with_agent(&world).await;
    let token = server.token().await;
    server.faults.set_all(&Fault::unavailable());
    let (status, created) = fast(server.try_create(entry("/new", &agent.id))).await;
    assert_item_refused(&status, Code::Unavailable, "failed to create entry: …");
    assert!(status.message.contains("try again in"), "{}", status.message);
    assert_eq!(created, None);
    assert_eq!(paths(&server.entries().await), ["/db"]);

    // A node that joins has to wait for the database, and its token with it.
    let (_, csr) = key_and_csr().await;
    let attested = fast(attest(&server.connect(None), join_params(&token, csr))).await;
    let refused = attested.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().starts_with("failed to create attested agent: "), "{refused}");
    assert!(retry_delay(&refused).is_some(), "{refused:?}");
    server.faults.clear();
    TestAgent::attest(&server, &token).await.unwrap();
    server.create(entry("/new", &agent.id)).await;
}

/// Every store call takes this long, as with a database that is overloaded or far away.
const SLOW: Duration = Duration::from_secs(5);

async fn with_nodes(world: &World, pki: &Pki) -> TestServer {
    let settings = pki.settings();
    world.try_start(|config| config.admission.x509pop = Some(settings)).await.unwrap()
}

#[tokio::test]
async fn writes_fail_at_once_after_one_that_hung_and_work_when_the_database_is_back() {
    let world = World::new();
    let (server, agent, _) = with_agent(&world).await;
    let hang = Duration::from_secs(1);
    server.faults.set_all(&Fault::FailAfter(hang));
    server.try_create(entry("/first", &agent.id)).await;
    for _ in 0..5 {
        let began = Stopwatch::start();
        let (status, _) = server.try_create(entry("/next", &agent.id)).await;
        assert_item_refused(&status, Code::Unavailable, "failed to create entry: …");
        assert!(began.elapsed() < hang / 2, "{:?}", began.elapsed());
    }
    let delete = DeleteAgentRequest { id: id_of(&agent.id) };
    let refused = server.admin.agents().delete_agent(delete).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let delay = retry_delay(&refused).unwrap();
    assert!((Duration::from_millis(1)..Duration::from_secs(10)).contains(&delay), "{delay:?}");

    server.faults.clear();
    let began = Stopwatch::start();
    eventually(async || (server.try_create(entry("/new", &agent.id)).await.0.code == 0).then_some(())).await;
    assert!(began.elapsed() < FAST, "{:?}", began.elapsed());
}

#[tokio::test]
async fn it_stays_ready_and_says_since_when_the_database_is_away() {
    let world = World::new();
    let (server, ..) = with_agent(&world).await;
    let part = || {
        let report = server.readiness.report();
        let part = report.parts.iter().find(|part| part.name == "catalog.datastore").unwrap().clone();
        (report.ready && report.live, part)
    };
    assert_eq!(part().1.state.as_str(), "ready");
    server.faults.set_all(&Fault::unavailable());
    server.store.create_join_token(join_token("wakes-the-feed", 1), None).await.unwrap();
    let (up, away) = eventually(async || Some(part()).filter(|it| it.1.state.as_str() == "degraded")).await;
    assert!(up, "ready and live");
    assert!(away.reason.starts_with("the database is away, answering from what was known at 20"), "{away:?}");
    world.hands.jump(60);
    assert_eq!(part().1.since, away.since);
    server.faults.clear();
    eventually(async || (part().1.state.as_str() == "ready").then_some(())).await;
}

/// All calls that an agent makes, many times, and no percentile that knows of the database.
#[tokio::test]
async fn signatures_take_milliseconds_while_every_store_call_takes_seconds_or_fails() {
    let (world, pki) = (World::with_disk_keys(), Pki::new());
    let server = with_nodes(&world, &pki).await;
    let (agent, node) = (server.agent().await, pki.node());
    let entry_id = server.create(entry("/db", &agent.id)).await.id;
    node.join(&server).await.authorized().await.unwrap();
    for fault in [Fault::Delay(SLOW), Fault::unavailable(), Fault::FailAfter(SLOW)] {
        server.faults.set_all(&fault);
        let (reads, mut took) = (server.faults.reads(), Vec::new());
        for _ in 0..20 {
            let began = Stopwatch::start();
            agent.x509(&entry_id).await.unwrap().unwrap();
            agent.jwt(&entry_id, &["a"]).await.unwrap();
            took.push(began.elapsed());
        }
        took.sort_unstable();
        assert!(took[18] < Duration::from_millis(250), "{fault:?}: {took:?}");
        let began = Stopwatch::start();
        node.join(&server).await.authorized().await.unwrap();
        pki.node().join(&server).await.authorized().await.unwrap();
        agent.renew().await.unwrap();
        assert!(began.elapsed() < FAST, "{fault:?}: {:?}", began.elapsed());
        // The feed alone has read meanwhile.
        assert!(server.faults.reads() - reads < 60, "{fault:?}");
        server.faults.clear();
    }
}

#[tokio::test]
async fn nodes_that_can_prove_themselves_attest_without_the_database_and_are_written_back() {
    let (world, pki) = (World::with_disk_keys(), Pki::new());
    let server = with_nodes(&world, &pki).await;
    let (known, new) = (pki.node(), pki.node());
    let before = known.join(&server).await;
    eventually(async || find(&server, &before).await).await;
    server.faults.set_all(&Fault::unavailable());
    let known = known.join(&server).await;
    let new = new.join(&server).await;
    known.authorized().await.unwrap();
    assert_denied(before.authorized().await, Some(Reason::AgentNotActive));
    let listed = server.admin.agents().list_agents(ListAgentsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.agents.len(), 2);
    let count = server.admin.agents().count_agents(CountAgentsRequest::default()).await.unwrap();
    assert_eq!(count.into_inner().count, 2);
    server.crash().await;

    let settings = pki.settings();
    let gone = |faults: &vouchsafe_testkit::Faults| faults.set_all(&Fault::unavailable());
    let server = world.start_with(|config| config.admission.x509pop = Some(settings), gone).await.unwrap();
    let (known, new) = (known.moved_to(&server), new.moved_to(&server));
    known.authorized().await.unwrap();
    new.authorized().await.unwrap();
    server.faults.clear();
    for agent in [&known, &new] {
        let serial = &agent.identity.svid.serial;
        eventually(async || (find(&server, agent).await?.serial_number == *serial).then_some(())).await;
        assert_eq!(stored(&server, agent).await.selectors.len(), 4);
    }
    known.authorized().await.unwrap();
    new.authorized().await.unwrap();
}

/// What another server wrote while this one could not read it.
#[tokio::test]
async fn an_attestation_during_an_outage_undoes_no_ban_and_no_eviction() {
    let (world, pki) = (World::with_disk_keys(), Pki::new());
    let server = with_nodes(&world, &pki).await;
    let (banned, evicted) = (pki.node(), pki.node());
    for node in [&banned, &evicted] {
        let agent = node.join(&server).await;
        eventually(async || find(&server, &agent).await).await;
    }
    server.faults.set_all(&Fault::unavailable());
    let (banned, evicted) = (banned.join(&server).await, evicted.join(&server).await);
    let ban = |agent: &mut Agent| {
        agent.serial_number.clear();
        Ok(())
    };
    server.store.update_agent(&banned.id, Box::new(ban)).await.unwrap();
    server.store.delete_agent(&evicted.id).await.unwrap();
    // It cannot know yet.
    banned.authorized().await.unwrap();
    evicted.authorized().await.unwrap();

    server.faults.clear();
    eventually(async || banned.authorized().await.err()).await;
    assert_denied(banned.authorized().await, Some(Reason::AgentBanned));
    eventually(async || evicted.authorized().await.err()).await;
    assert_denied(evicted.authorized().await, Some(Reason::AgentNotAttested));
    assert!(stored(&server, &banned).await.is_banned());
    assert_eq!(find(&server, &evicted).await, None);
}

#[tokio::test]
async fn an_agent_that_attested_a_moment_ago_can_be_banned() {
    let (world, pki) = (World::new(), Pki::new());
    let server = with_nodes(&world, &pki).await;
    for _ in 0..10 {
        let node = pki.node();
        let agent = node.join(&server).await;
        server.admin.agents().ban_agent(BanAgentRequest { id: id_of(&agent.id) }).await.unwrap();
        assert_denied(agent.authorized().await, Some(Reason::AgentBanned));
        assert_denied(node.attest(&server).await, Some(Reason::AgentBanned));
    }
}

#[tokio::test]
async fn what_changed_while_the_feed_could_not_be_read_is_seen_after() {
    let world = World::new();
    let (server, agent, _) = with_agent(&world).await;
    server.faults.set(Method::READS, &Fault::unavailable());
    let mut added = samples::entry("added");
    added.parent_id = agent.id.clone();
    let outcome = server.store.create_entry(added).await.unwrap();
    assert!(matches!(outcome, CreateOutcome::Created(..)));
    assert_eq!(paths(&agent.authorized().await.unwrap()), ["/db"]);
    server.faults.clear();
    eventually(async || {
        (paths(&agent.authorized().await.unwrap()) == ["/db", "/workload/added"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_store_hangs_stops_all_the_same() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    server.faults.set_all(&Fault::Stall);
    server.store.create_join_token(join_token("wakes-the-feed", 1), None).await.unwrap();
    live(&mut agent, &entry_id).await;
    drop(agent);
    fast(server.stop()).await.unwrap();
}

/// Half a day on, the next authority is due, which cannot be published; the one that signs is still good.
#[tokio::test]
async fn the_server_renews_its_own_svid_while_the_store_hangs() {
    let world = World::with_disk_keys();
    let (server, mut agent, entry_id) = with_agent(&world).await;
    server.faults.set_all(&Fault::Stall);
    world.hands.jump(13 * HOUR);
    let renewed = eventually(async || {
        agent.reconnect();
        agent.renew().await.ok()
    });
    let renewed = timeout(Duration::from_secs(10), renewed).await.expect("agents can connect");
    agent.adopt(renewed);
    live(&mut agent, &entry_id).await;
    assert!(server.faults.calls(Method::UpdateBundle) > 0, "a rotation waits");

    server.faults.clear();
    let both = async || (server.bundle().await.x509_authorities.len() == 2).then_some(());
    eventually(both).await;
}
