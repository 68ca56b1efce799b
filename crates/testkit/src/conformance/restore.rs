use vouchsafe_runtime::class::Class;
use vouchsafe_store::{Contents, Error, JournalRecord, Position, Record, Snapshot};
use vouchsafe_types::bundle::Bundle;

use super::Bed;
use crate::samples::{agent, entry, full_entry, join_token, relationship, trust_domain};

fn contents() -> Contents {
    let mut bundle = Bundle::new(trust_domain("example.org"));
    bundle.sequence_number = 41;
    let entry = vouchsafe_types::entry::Entry { revision_number: 7, created_at: 99, ..full_entry("e") };
    Contents {
        records: vec![
            Record::Entry(entry),
            Record::Agent(agent("t")),
            Record::Bundle(bundle),
            Record::JoinToken(join_token("token", 5)),
            Record::Federation(relationship("other.org")),
        ],
        journals: vec![JournalRecord { key: "j".to_owned(), data: vec![1, 2] }],
    }
}

pub(super) async fn an_empty_store_takes_over_everything_with_its_history(bed: Bed) {
    let store = bed.store();
    bed.at(1_000);
    let position = store.restore(contents()).await.unwrap();
    let held = Snapshot::load(&*store).await.unwrap();
    assert_eq!((held.entries[0].revision_number, held.entries[0].created_at), (7, 99));
    assert_eq!(held.bundles[0].sequence_number, 41);
    assert_eq!(held.agents, [agent("t")]);
    assert_eq!((held.join_tokens.len(), held.federation.len()), (1, 1));
    assert_eq!(store.load_journals().await.unwrap(), contents().journals);
    // A server that was already reading hears of it.
    let changes = store.changes_after(Position::START, 100).await.unwrap();
    assert_eq!((changes.changes.len(), changes.position), (5, position));
}

pub(super) async fn a_store_with_anything_in_it_is_left_alone(bed: Bed) {
    let store = bed.store();
    store.save_journal("own", vec![9]).await.unwrap();
    let refused = store.restore(contents()).await.unwrap_err();
    assert_eq!(refused.class(), Class::Caller);
    assert!(Snapshot::load(&*store).await.unwrap().entries.is_empty());
}

pub(super) async fn nothing_is_taken_over_when_something_comes_twice(bed: Bed) {
    let store = bed.store();
    let mut twice = contents();
    twice.records.push(Record::Entry(entry("e")));
    assert!(matches!(store.restore(twice).await, Err(Error::AlreadyExists { .. })));
    let held = Snapshot::load(&*store).await.unwrap();
    assert!(held.entries.is_empty() && held.bundles.is_empty() && held.agents.is_empty());
    assert!(store.load_journals().await.unwrap().is_empty());
}
