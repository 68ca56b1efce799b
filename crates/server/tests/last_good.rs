//! A server that starts while the database is away, or set back, goes on from its last good state.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::path::Path;
use std::time::Duration;

use support::agent::TestAgent;
use support::messages::{entry, paths};
use support::{TestServer, World, eventually};
use tokio::time::Instant;
use vouchsafe_store::Store;
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_testkit::{Fault, Faults, samples};
use vouchsafe_types::entry::EntryId;

/// Longer than the database has to answer at start, shorter than anybody would notice.
const SOON: Duration = Duration::from_secs(8);

fn gone(faults: &Faults) {
    faults.set_all(&Fault::unavailable());
}

fn datastore(server: &TestServer) -> (String, String) {
    let report = server.readiness.report();
    assert!(report.live);
    let part = report.parts.iter().find(|part| part.name == "catalog.datastore").unwrap();
    (part.state.to_string(), part.reason.clone())
}

async fn serves(agent: &TestAgent, entry_id: &str, expected: &[&str]) {
    assert_eq!(paths(&agent.authorized().await.unwrap()), expected);
    agent.x509(entry_id).await.unwrap().unwrap();
    agent.jwt(entry_id, &["a"]).await.unwrap();
    assert_eq!(agent.bundle().await.unwrap().x509_authorities.len(), 1);
}

/// A server with an agent that may have the identity `/db`, stopped.
async fn stopped(world: &World) -> (TestAgent, String) {
    let server = world.start().await;
    let agent = server.agent().await;
    let entry_id = server.create(entry("/db", &agent.id)).await.id;
    server.stop().await.unwrap();
    (agent, entry_id)
}

#[tokio::test]
async fn without_the_database_agents_are_served_as_before_and_what_changed_is_seen_after() {
    let world = World::with_disk_keys();
    let (mut agent, entry_id) = stopped(&world).await;
    for fault in [Fault::unavailable(), Fault::Stall] {
        let began = Instant::now();
        let server = world.start_with(|_| {}, |faults| faults.set_all(&fault)).await.unwrap();
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        agent = agent.moved_to(&server);
        serves(&agent, &entry_id, &["/db"]).await;
        let (state, reason) = datastore(&server);
        assert_eq!(state, "degraded");
        assert!(reason.starts_with("the database is away, answering from what was known at 20"), "{reason}");
        server.faults.clear();
        eventually(async || (datastore(&server).0 == "ready").then_some(())).await;
        server.create(entry("/new", &agent.id)).await;
        assert_eq!(paths(&agent.authorized().await.unwrap()), ["/db", "/new"]);
        let mut admin = server.admin.entries();
        let all = server.entries().await.into_iter().filter(|each| each.id != entry_id).map(|each| each.id);
        let request =
            vouchsafe_proto::spire::api::server::entry::v1::BatchDeleteEntryRequest { ids: all.collect() };
        admin.batch_delete_entry(request).await.unwrap();
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_crash_loses_what_changed_in_the_last_seconds_and_nothing_else() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let agent = server.agent().await;
    let entry_id = server.create(entry("/db", &agent.id)).await.id;
    // Written soon after a change, while the server runs.
    let file = world.path().join("read-model.sealed");
    let first = std::fs::metadata(&file).map(|file| file.len()).unwrap_or_default();
    eventually(async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::fs::metadata(&file).is_ok_and(|file| file.len() > first).then_some(())
    })
    .await;
    server.crash().await;
    let server = world.start_with(|_| {}, gone).await.unwrap();
    serves(&agent.moved_to(&server), &entry_id, &["/db"]).await;
}

fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (format!("{}{suffix}", from.display()), format!("{}{suffix}", to.display()));
        match std::fs::copy(from, &to) {
            Ok(_) => {}
            Err(_) => drop(std::fs::remove_file(to)),
        }
    }
}

#[tokio::test]
async fn a_database_that_was_set_back_withdraws_nobody_until_the_operator_accepts_it() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let agent = server.agent().await;
    let first = server.create(entry("/first", &agent.id)).await.id;
    server.stop().await.unwrap();
    let (database, backup) = (world.path().join("registry.db"), world.path().join("backup.db"));
    copy(&database, &backup);
    let server = world.start().await;
    let agent = agent.moved_to(&server);
    server.create(entry("/second", &agent.id)).await;
    server.stop().await.unwrap();
    copy(&backup, &database);

    let server = world.start().await;
    let agent = agent.moved_to(&server);
    serves(&agent, &first, &["/first", "/second"]).await;
    let (state, reason) = datastore(&server);
    assert_eq!(state, "degraded");
    assert!(reason.starts_with("the database is older than what is held"), "{reason}");
    server.stop().await.unwrap();

    std::fs::remove_file(world.path().join("read-model.sealed")).unwrap();
    let server = world.start().await;
    let agent = agent.moved_to(&server);
    serves(&agent, &first, &["/first"]).await;
    assert_eq!(datastore(&server).0, "ready");
}

/// A standby that took over without the last transactions, and went on further than they did.
#[tokio::test]
async fn a_database_that_went_another_way_before_a_start_without_it_is_read_whole() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let agent = server.agent().await;
    let first = server.create(entry("/first", &agent.id)).await.id;
    server.stop().await.unwrap();
    let (database, backup) = (world.path().join("registry.db"), world.path().join("backup.db"));
    copy(&database, &backup);
    let server = world.start().await;
    server.create(entry("/second", &agent.id)).await;
    server.stop().await.unwrap();
    copy(&backup, &database);
    let standby = Sqlite::open(&database, world.clock.clone()).await.unwrap();
    standby.delete_entry(&EntryId::parse(&first).unwrap()).await.unwrap();
    for name in 0..20 {
        standby.create_entry(samples::entry(&name.to_string())).await.unwrap();
    }
    drop(standby);

    let server = world.start_with(|_| {}, gone).await.unwrap();
    let agent = agent.moved_to(&server);
    serves(&agent, &first, &["/first", "/second"]).await;
    server.faults.clear();
    eventually(async || (datastore(&server).0 == "ready").then_some(())).await;
    assert_eq!(agent.authorized().await.unwrap(), []);
}

#[tokio::test]
async fn a_file_that_is_damaged_is_not_used_and_written_anew() {
    let world = World::with_disk_keys();
    let (agent, entry_id) = stopped(&world).await;
    let file = world.path().join("read-model.sealed");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let server = world.start().await;
    serves(&agent.moved_to(&server), &entry_id, &["/db"]).await;
    server.stop().await.unwrap();
    assert_ne!(std::fs::read(&file).unwrap(), bytes);
}

/// Nothing of a state that is sealed may be lost because keys are in memory; nothing is written either.
#[tokio::test]
async fn without_keys_on_disk_nothing_is_saved() {
    let world = World::new();
    stopped(&world).await;
    assert!(!world.path().join("read-model.sealed").exists());
}
