use super::*;
use vouchsafe_store::{Position, Record};
use vouchsafe_testkit::samples;

const NOW: i64 = 1_000_000;

fn snapshot(epoch: u64, position: u64, entries: &[&str]) -> Snapshot {
    let records = entries.iter().map(|name| Record::Entry(samples::entry(name)));
    Snapshot::collect(epoch, Position(position), records)
}

fn journal(key: &str) -> JournalRecord {
    JournalRecord { key: key.into(), data: Vec::new() }
}

fn saved(epoch: u64, position: u64) -> Restored {
    let snapshot = snapshot(epoch, position, &["a", "b"]);
    Restored { snapshot, journal: Some(journal("own")), confirmed_at: NOW - 60 }
}

fn database(epoch: u64, position: u64) -> Read {
    Ok((snapshot(epoch, position, &["a"]), vec![journal("theirs")]))
}

/// How many entries are served, whose journals are known, and why it is not the database's state.
fn check(read: Read, saved: Option<Restored>, expected: (usize, &[&str], Option<&str>)) {
    let first = decide(read, saved, None, NOW).unwrap();
    let keys: Vec<_> = first.journals.iter().map(|record| record.key.as_str()).collect();
    let stale = first.stale.as_deref();
    assert_eq!((first.snapshot.entries.len(), keys.as_slice()), (expected.0, expected.1));
    match expected.2 {
        None => assert_eq!((stale, first.confirmed_at), (None, NOW)),
        Some(why) => {
            assert!(stale.unwrap().contains(why), "{stale:?}");
            assert_eq!(first.confirmed_at, NOW - 60);
        }
    }
}

#[test]
fn a_database_that_is_not_older_wins() {
    check(database(1, 5), None, (1, &["theirs"], None));
    check(database(1, 5), Some(saved(1, 5)), (1, &["theirs", "own"], None));
    check(database(1, 6), Some(saved(1, 5)), (1, &["theirs", "own"], None));
}

#[test]
fn a_database_that_is_older_withdraws_nothing() {
    check(database(1, 4), Some(saved(1, 5)), (2, &["theirs", "own"], Some("older than what is held")));
}

#[test]
fn another_database_starts_anew() {
    check(database(2, 1), Some(saved(1, 5)), (1, &["theirs"], None));
}

#[test]
fn without_the_database_the_last_good_state_is_served_and_without_that_nothing() {
    check(Err(late()), Some(saved(1, 5)), (2, &["own"], Some("1970-01-12T13:45:40Z")));
    assert!(decide(Err(late()), None, None, NOW).is_err());
}
