use vouchsafe_runtime::class::Class;
use vouchsafe_store::store::MAX_JOURNAL_BYTES;
use vouchsafe_store::{JournalRecord, Position};

use super::Bed;

fn record(key: &str, data: &[u8]) -> JournalRecord {
    JournalRecord { key: key.to_owned(), data: data.to_vec() }
}

pub(super) async fn a_journal_is_replaced_by_key(bed: Bed) {
    let store = bed.store();
    assert!(store.load_journals().await.unwrap().is_empty());
    store.save_journal("b", b"one".to_vec()).await.unwrap();
    store.save_journal("a", vec![0, 255]).await.unwrap();
    store.save_journal("b", Vec::new()).await.unwrap();
    assert_eq!(store.load_journals().await.unwrap(), [record("a", &[0, 255]), record("b", b"")]);
}

pub(super) async fn journals_are_not_in_the_feed(bed: Bed) {
    let store = bed.store();
    store.save_journal("a", b"x".to_vec()).await.unwrap();
    assert!(store.changes_after(Position::START, 10).await.unwrap().changes.is_empty());
}

pub(super) async fn a_journal_beyond_the_bound_is_refused(bed: Bed) {
    let store = bed.store();
    store.save_journal("a", vec![1; MAX_JOURNAL_BYTES]).await.unwrap();
    let error = store.save_journal("a", vec![2; MAX_JOURNAL_BYTES + 1]).await.unwrap_err();
    assert_eq!(error.class(), Class::Caller);
    assert_eq!(store.load_journals().await.unwrap()[0].data[0], 1);
}

pub(super) async fn a_journal_is_deleted_as_it_was_and_not_as_it_became(bed: Bed) {
    let store = bed.store();
    store.save_journal("a", vec![1]).await.unwrap();
    store.save_journal("b", vec![1]).await.unwrap();
    assert!(!store.delete_journal(&record("a", &[2])).await.unwrap());
    assert!(store.delete_journal(&record("a", &[1])).await.unwrap());
    assert!(!store.delete_journal(&record("a", &[1])).await.unwrap(), "by one of several servers");
    assert_eq!(store.load_journals().await.unwrap(), [record("b", &[1])]);
}
