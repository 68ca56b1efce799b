//! What the product exists for: while the database is away, nobody who was attested notices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::agent::{TestAgent, attest, join_params, key_and_csr};
use support::messages::{assert_item_refused, assert_refused, entry, paths};
use support::{HOUR, TestServer, World, eventually};
use tokio::time::timeout;
use tonic::Code;
use vouchsafe_proto::spire::api::server::bundle::v1::GetFederatedBundleRequest;
use vouchsafe_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest;
use vouchsafe_store::{CreateOutcome, Record};
use vouchsafe_testkit::samples::{self, join_token};
use vouchsafe_testkit::{Fault, Method};
use vouchsafe_types::agent::Agent;

/// Below every time after which the server would go on without the store (5 s and more).
const FAST: Duration = Duration::from_secs(3);

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
    timeout(FAST, calls).await.expect("agents wait for the store");
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
    let mut found = None;
    let mut look = |record| match record {
        Record::Agent(held) if held.id == agent.id => found = Some(held),
        _ => {}
    };
    server.store.load(&mut look).await.unwrap();
    found.unwrap()
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
    let (status, created) = timeout(FAST, server.try_create(entry("/new", &agent.id))).await.unwrap();
    assert_item_refused(&status, Code::Unavailable, "failed to create entry: …");
    assert!(status.message.contains("try again in"), "{}", status.message);
    assert_eq!(created, None);
    assert_eq!(paths(&server.entries().await), ["/db"]);

    // A node that joins has to wait for the database, and its token with it.
    let (_, csr) = key_and_csr().await;
    let attested = timeout(FAST, attest(&server.connect(None), join_params(&token, csr))).await.unwrap();
    assert_refused(attested, Code::Unavailable, "failed to create attested agent: …");
    server.faults.clear();
    TestAgent::attest(&server, &token).await.unwrap();
    server.create(entry("/new", &agent.id)).await;
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
    timeout(FAST, server.stop()).await.expect("stopping waits for the store").unwrap();
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
