use super::write_back::Progress;
use super::*;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use vouchsafe_lastgood::SealKey;
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_store::store::MAX_AGENT_WRITES;
use vouchsafe_store::{Position, Record, Store};
use vouchsafe_testkit::{Fault, FaultStore, Faults, Method};
use vouchsafe_types::selector::SelectorSet;

use crate::history::Verdict;
use crate::model::Snapshot;

fn agent(serial: &str) -> Agent {
    Agent {
        id: SpiffeId::parse("spiffe://example.org/spire/agent/x509pop/1").unwrap(),
        attestation_type: "x509pop".into(),
        serial_number: serial.into(),
        expires_at: 1_900_003_600,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: true,
        selectors: SelectorSet::default(),
        agent_version: String::new(),
    }
}

fn clock() -> Clock {
    Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000))
}

/// Agents as after a start on this folder, with `stored` in the read model at `position`.
fn start(folder: &Path, position: u64, stored: &[Agent]) -> Agents {
    let records = stored.iter().cloned().map(Record::Agent);
    let snapshot = Snapshot::collect(7, Position(position), records);
    let file = SealedFile::open(folder.join("journal"), SealKey::new([7; 32]), 1 << 20, "agent-renewals");
    Agents::new(Arc::new(ReadModel::new(snapshot)), clock(), Vec::new(), Some(file)).unwrap()
}

fn serial_of(agents: &Agents) -> Option<String> {
    agents.agent(&agent("").id).map(|agent| agent.serial_number)
}

/// Nothing can be renamed to a folder with something in it.
fn block_journal(folder: &TempDir) {
    let journal = folder.path().join("journal");
    drop(std::fs::remove_file(&journal));
    std::fs::create_dir_all(journal.join("in the way")).unwrap();
}

#[tokio::test]
async fn an_agent_that_was_evicted_does_not_come_back_with_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let agents = start(folder.path(), 1, &[]);
    agents.attested(agent("1")).await.unwrap();
    assert_eq!(serial_of(&start(folder.path(), 1, &[])).as_deref(), Some("1"), "a crash loses nothing");
    agents.forget(&agent("1").id).await;
    assert_eq!(serial_of(&start(folder.path(), 1, &[])), None);
}

#[tokio::test]
async fn an_agent_whose_attestation_cannot_be_kept_keeps_the_svid_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let agents = start(folder.path(), 1, &[agent("1")]);
    block_journal(&folder);
    let refused = agents.attested(agent("2")).await;
    assert!(matches!(refused, Err(NotAdmitted::Journal(_))), "{refused:?}");
    agents.renewed(&agent("1").id, "3".into(), 1_900_007_200).await.unwrap_err();
    assert_eq!(agents.agent(&agent("1").id), Some(agent("1")));
    assert_eq!(agents.backlog(), 0);

    std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
    agents.attested(agent("2")).await.unwrap();
    assert_eq!(serial_of(&agents).as_deref(), Some("2"));
    assert_eq!(serial_of(&start(folder.path(), 1, &[agent("1")])).as_deref(), Some("2"));
}

/// What is written to a database that was set back is not in what is served until the database is read again.
#[tokio::test]
async fn what_was_written_to_a_database_that_is_behind_is_kept_until_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("registry.db"), clock()).await.unwrap();
    let agents = start(folder.path(), 1_000, &[]);
    agents.attested(agent("1")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(agents.write_all(&store).await.unwrap(), Progress::Behind);
        assert_eq!(serial_of(&agents).as_deref(), Some("1"));
    }
    let mut found = Vec::new();
    let position = store.load(&mut |record| found.push(record)).await.unwrap();
    assert_eq!(found, [Record::Agent(agent("1"))]);
    assert_eq!(position, Position(1), "written once");

    let taken = agents.model.replace(Snapshot::read(&store).await.unwrap(), clock().unix_now());
    assert_eq!(taken, Verdict::Taken, "nothing that is held is lost");
    assert_eq!(agents.write_all(&store).await.unwrap(), Progress::Done);
    assert_eq!((agents.backlog(), serial_of(&agents).as_deref()), (0, Some("1")));
}

fn numbered(number: usize) -> Agent {
    let id = SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x509pop/{number}")).unwrap();
    Agent { id, ..agent("1") }
}

/// A store with `count` agents that have all renewed while it was away.
async fn renewed(folder: &Path, count: usize) -> (FaultStore, Faults, Agents) {
    let store = Sqlite::open(folder.join("registry.db"), clock()).await.unwrap();
    let all: Vec<_> = (0..count).map(numbered).collect();
    let mut position = Position::START;
    for each in &all {
        position = store.put_agent(each.clone()).await.unwrap();
    }
    let agents = start(folder, 0, &[]);
    let read = Snapshot::read(&store).await.unwrap();
    assert_eq!((agents.model.replace(read, 0), agents.model.load().position()), (Verdict::Taken, position));
    for each in &all {
        agents.change(&each.id, |agent| agent.new_serial_number = "2".into());
    }
    let (store, faults) = FaultStore::new(Arc::new(store));
    (store, faults, agents)
}

/// Writes all, and lets the read model follow meanwhile as the feed does.
async fn write_all(agents: &Agents, store: &FaultStore) -> Progress {
    let follow = async {
        loop {
            let held = agents.model.load().position();
            let read = store.changes_after(held, 10_000).await.unwrap();
            agents.model.apply(read.changes, read.position);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        progress = agents.write_all(store) => progress.unwrap(),
        () = follow => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn after_an_outage_updates_are_written_many_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (store, faults, agents) = renewed(folder.path(), MAX_AGENT_WRITES + 1).await;
    assert_eq!((write_all(&agents, &store).await, agents.backlog()), (Progress::Done, 0));
    assert_eq!((faults.calls(Method::UpdateAgents), faults.writes()), (2, 2));
    let held = Snapshot::read(&store).await.unwrap().agents;
    assert!(held.values().all(|agent| agent.new_serial_number == "2"));
}

#[tokio::test]
async fn an_update_that_the_database_does_not_take_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (store, faults, agents) = renewed(folder.path(), 20).await;
    faults.choke_on(numbered(7).id);
    for _ in 0..2 {
        assert_eq!((write_all(&agents, &store).await, agents.backlog()), (Progress::Stuck, 1));
    }
    let stored = Snapshot::read(&store).await.unwrap().agents;
    let missing = stored.values().filter(|agent| agent.new_serial_number.is_empty());
    assert_eq!(missing.map(|agent| agent.id.clone()).collect::<Vec<_>>(), [numbered(7).id]);
    assert_eq!(agents.agent(&numbered(7).id).unwrap().new_serial_number, "2", "it counts all the same");
    faults.clear();
    assert_eq!((write_all(&agents, &store).await, agents.backlog()), (Progress::Done, 0));
}

#[tokio::test]
async fn a_database_that_takes_nothing_is_not_asked_for_each_agent() {
    let folder = tempfile::tempdir().unwrap();
    let (store, faults, agents) = renewed(folder.path(), 100).await;
    faults.set_all(&Fault::disk_full());
    agents.write_all(&store).await.unwrap_err();
    assert!(faults.writes() < 12, "{}", faults.writes());
    assert_eq!(agents.backlog(), 100);
}
