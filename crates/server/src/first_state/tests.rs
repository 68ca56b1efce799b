use super::*;
use vouchsafe_store::{Position, Record};
use vouchsafe_testkit::samples;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

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
    Restored { snapshot, journal: Some(journal("own")), confirmed_at: NOW - 60, set_back: false, mark: None }
}

fn database(epoch: u64, position: u64, entries: &[&str]) -> Read {
    Ok((snapshot(epoch, position, entries), vec![journal("theirs")]))
}

/// How many entries are served, whose journals are known, and why it is not the database's state.
fn check(read: Read, saved: Option<Restored>, expected: (usize, &[&str], Option<&str>)) {
    let (first, verdict, _) = decide(read, saved, NOW).unwrap();
    let keys: Vec<_> = first.journals.iter().map(|record| record.key.as_str()).collect();
    let stale = first.stale.as_deref();
    assert_eq!((first.snapshot.entries.len(), keys.as_slice()), (expected.0, expected.1));
    match expected.2 {
        None => assert_eq!((stale, first.confirmed_at, verdict), (None, NOW, Verdict::Taken)),
        Some(why) => {
            assert!(stale.unwrap().contains(why), "{stale:?}");
            assert_eq!(first.confirmed_at, NOW - 60);
        }
    }
}

#[test]
fn a_database_that_goes_on_wins() {
    check(database(1, 5, &["a"]), None, (1, &["theirs"], None));
    check(database(1, 5, &["a"]), Some(saved(1, 5)), (1, &["theirs", "own"], None));
    check(database(1, 6, &["a"]), Some(saved(1, 5)), (1, &["theirs", "own"], None));
}

#[test]
fn a_database_that_is_older_withdraws_nothing() {
    check(
        database(1, 4, &["a"]),
        Some(saved(1, 5)),
        (
            2,
            &["theirs", "own"],
            Some("older than what is held: it ends at position 4, and 5 is held; it lacks 1"),
        ),
    );
    let same = (2, ["theirs", "own"].as_slice(), Some("older than what is held"));
    check(database(1, 4, &["a", "b"]), Some(saved(1, 5)), same);
}

#[test]
fn a_database_that_was_set_back_is_not_believed_after_a_restart_either() {
    let set_back = || Some(Restored { set_back: true, ..saved(1, 5) });
    check(database(1, 9, &["a"]), set_back(), (2, &["theirs", "own"], Some("was set back")));
    check(database(1, 9, &["a", "b"]), set_back(), (2, &["theirs", "own"], None));
    let (_, verdict, past) = decide(Err(late()), set_back(), NOW).unwrap();
    assert!(
        matches!(verdict, Verdict::Behind(_)) && past.set_back,
        "it is remembered while the database is away"
    );
}

#[test]
fn another_database_withdraws_nothing_and_its_signing_keys_are_not_taken() {
    check(database(2, 9, &[]), Some(saved(1, 5)), (2, &["own"], Some("another one than before; it lacks 2")));
    check(database(2, 1, &["a", "b", "c"]), Some(saved(1, 5)), (3, &["theirs"], None));
}

#[test]
fn who_holds_nothing_starts_anew_with_any_database() {
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle.append([], [samples::jwt_authority("own", false)]);
    let nothing = || {
        let snapshot = Snapshot::collect(1, Position(5), [Record::Bundle(bundle.clone())].into_iter());
        Some(Restored { snapshot, ..saved(1, 5) })
    };
    check(database(2, 1, &[]), nothing(), (0, &["theirs"], None));
    check(database(1, 4, &[]), nothing(), (0, &["theirs", "own"], None));
}

#[test]
fn without_the_database_the_last_good_state_is_served_and_without_that_nothing() {
    check(Err(late()), Some(saved(1, 5)), (2, &["own"], Some("1970-01-12T13:45:40Z")));
    assert!(decide(Err(late()), None, NOW).is_err());
}
