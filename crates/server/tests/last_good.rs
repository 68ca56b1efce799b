//! A server that starts while the database is away, or set back, goes on from its last good state.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::agent::TestAgent;
use support::messages::{assert_item_refused, entry, paths};
use support::{TestServer, World, eventually};
use tonic::Code;
use vouchsafe_server::acceptance;
use vouchsafe_store::Store;
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_testkit::{Fault, Faults, Stopwatch, samples};
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
        let began = Stopwatch::start();
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
    is_refused(&server, "the database is older than what is held").await;
    // It goes on there, by whoever may write to it, until it has more changes than are held.
    for name in 0..20 {
        server.store.create_entry(samples::entry(&name.to_string())).await.unwrap();
    }
    server.stop().await.unwrap();
    let server = world.start().await;
    let agent = agent.moved_to(&server);
    serves(&agent, &first, &["/first", "/second"]).await;
    is_refused(&server, "the database was set back").await;

    acceptance::accept(world.path()).unwrap();
    server.stop().await.unwrap();
    let server = world.start().await;
    let agent = agent.moved_to(&server);
    serves(&agent, &first, &["/first"]).await;
    assert_eq!(datastore(&server).0, "ready");
    server.create(entry("/third", &agent.id)).await;
    server.stop().await.unwrap();
    let server = world.start().await;
    serves(&agent.moved_to(&server), &first, &["/first", "/third"]).await;
    assert!(world.path().join("read-model.sealed.before").exists(), "should it have been a mistake");
}

/// What is held is served, the reason says what happened and what to do, and nothing is written.
async fn is_refused(server: &TestServer, why: &str) {
    let (state, reason) =
        eventually(async || Some(datastore(server)).filter(|it| it.1.starts_with(why))).await;
    assert_eq!(state, "degraded");
    assert!(reason.contains("; it lacks "), "{reason}");
    assert!(
        reason.ends_with("run `vouchsafe server datastore accept` on each server and restart it"),
        "{reason}"
    );
    let writes = server.faults.writes();
    let (status, _) = server.try_create(entry("/lost", &samples::spiffe_id("/node"))).await;
    assert_item_refused(&status, Code::Unavailable, "failed to create entry: …");
    assert!(status.message.contains(why), "{}", status.message);
    assert_eq!(server.faults.writes(), writes);
}

#[tokio::test]
async fn a_database_that_was_made_anew_withdraws_nobody_until_the_operator_accepts_it() {
    let world = World::with_disk_keys();
    let (agent, entry_id) = stopped(&world).await;
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(world.path().join(format!("registry.db{suffix}"))));
    }
    let server = world.start().await;
    let agent = agent.moved_to(&server);
    serves(&agent, &entry_id, &["/db"]).await;
    is_refused(&server, "the database is another one than before").await;
    server.stop().await.unwrap();
    acceptance::accept(world.path()).unwrap();
    // Given while the database is away, it counts when it is back.
    let server = world.start_with(|_| {}, gone).await.unwrap();
    serves(&agent.moved_to(&server), &entry_id, &["/db"]).await;
    server.stop().await.unwrap();
    let server = world.start().await;
    assert_eq!((server.entries().await, datastore(&server).0.as_str()), (Vec::new(), "ready"));
    server.agent().await.authorized().await.unwrap();
}

/// As when a name leads to another machine, or somebody drops the schema: the server that runs is told by nobody.
#[tokio::test]
async fn a_database_that_is_exchanged_under_a_running_server_withdraws_nobody() {
    let world = World::with_disk_keys();
    let server = world.start().await;
    let agent = server.agent().await;
    let entry_id = server.create(entry("/db", &agent.id)).await.id;
    let other = Sqlite::open(world.path().join("other.db"), world.clock.clone()).await.unwrap();
    server.faults.lead_to(Arc::new(other));
    let wake = || server.store.create_join_token(samples::join_token("wakes-the-feed", 1), None);
    wake().await.unwrap();
    is_refused(&server, "the database is another one than before").await;
    serves(&agent, &entry_id, &["/db"]).await;

    server.faults.lead_to(server.store.clone());
    eventually(async || (datastore(&server).0 == "ready").then_some(())).await;
    server.create(entry("/new", &agent.id)).await;
    assert_eq!(paths(&agent.authorized().await.unwrap()), ["/db", "/new"]);
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

/// The same, and the store can tell (PostgreSQL can).
#[tokio::test]
async fn a_database_that_is_known_to_have_gone_another_way_withdraws_nobody() {
    for away_at_start in [false, true] {
        let world = World::with_disk_keys();
        let server = world.start_with(|_| {}, |faults| faults.history(1)).await.unwrap();
        let agent = server.agent().await;
        let first = server.create(entry("/first", &agent.id)).await.id;
        server.stop().await.unwrap();
        let server = world.start_with(|_| {}, |faults| faults.history(1)).await.unwrap();
        let agent = agent.moved_to(&server);
        serves(&agent, &first, &["/first"]).await;
        server.store.delete_entry(&EntryId::parse(&first).unwrap()).await.unwrap();
        eventually(async || agent.authorized().await.unwrap().is_empty().then_some(())).await;
        let first = server.create(entry("/second", &agent.id)).await.id;
        server.stop().await.unwrap();

        let standby = Sqlite::open(world.path().join("registry.db"), world.clock.clone()).await.unwrap();
        standby.delete_entry(&EntryId::parse(&first).unwrap()).await.unwrap();
        drop(standby);
        let prepare = |faults: &Faults| {
            faults.history(2);
            if away_at_start {
                gone(faults);
            }
        };
        let server = world.start_with(|_| {}, prepare).await.unwrap();
        let agent = agent.moved_to(&server);
        serves(&agent, &first, &["/second"]).await;
        server.faults.clear();
        is_refused(&server, "the database was set back").await;
        serves(&agent, &first, &["/second"]).await;
    }
}

/// A copy of the database, such as another environment's: it has the same number, and is not remembered against the right one.
#[tokio::test]
async fn a_database_that_is_back_on_its_way_is_believed_again() {
    for restarts in [false, true] {
        let world = World::with_disk_keys();
        let server = world.start_with(|_| {}, |faults| faults.history(1)).await.unwrap();
        let agent = server.agent().await;
        let first = server.create(entry("/first", &agent.id)).await.id;
        server.stop().await.unwrap();
        let (database, copied) = (world.path().join("registry.db"), world.path().join("copy.db"));
        copy(&database, &copied);
        let server = world.start_with(|_| {}, |faults| faults.history(1)).await.unwrap();
        let agent = agent.moved_to(&server);
        server.create(entry("/second", &agent.id)).await;
        let wrong = Sqlite::open(&copied, world.clock.clone()).await.unwrap();
        server.faults.lead_to(Arc::new(wrong));
        let wake = || server.store.create_join_token(samples::join_token("wakes-the-feed", 1), None);
        wake().await.unwrap();
        is_refused(&server, "the database is older than what is held").await;
        server.store.delete_entry(&EntryId::parse(&first).unwrap()).await.unwrap();
        if restarts {
            server.stop().await.unwrap();
            let server = world.start_with(|_| {}, |faults| faults.history(1)).await.unwrap();
            assert_eq!(datastore(&server).0, "ready");
            assert_eq!(paths(&agent.moved_to(&server).authorized().await.unwrap()), ["/second"]);
        } else {
            server.faults.lead_to(server.store.clone());
            eventually(async || (datastore(&server).0 == "ready").then_some(())).await;
            assert_eq!(paths(&agent.authorized().await.unwrap()), ["/second"]);
        }
    }
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
