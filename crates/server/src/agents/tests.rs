use super::write_back::Progress;
use super::*;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use vouchsafe_lastgood::SealKey;
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_store::{Position, Record, Store};
use vouchsafe_types::selector::SelectorSet;

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

    assert!(agents.model.replace(Snapshot::read(&store).await.unwrap()), "another epoch: as if accepted");
    assert_eq!(agents.write_all(&store).await.unwrap(), Progress::Done);
    assert_eq!((agents.backlog(), serial_of(&agents).as_deref()), (0, Some("1")));
}
