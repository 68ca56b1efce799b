use vouchsafe_runtime::class::Class;
use vouchsafe_store::{CreateOutcome, Error, Kind, Position, Rejected, Snapshot};
use vouchsafe_types::entry::Entry;

use super::Bed;
use crate::samples::{entry, entry_id, full_entry, selectors};

pub(super) async fn a_new_store_is_empty(bed: Bed) {
    let store = bed.store();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!(all, Snapshot::default());
    assert_eq!(*store.watch().borrow(), Position::START);
    store.ping().await.unwrap();
}

pub(super) async fn an_entry_reads_back_whole_with_revision_zero_and_its_time(bed: Bed) {
    let store = bed.store();
    bed.at(1_700_000_000);
    let wanted = Entry { revision_number: 7, created_at: 7, ..full_entry("a") };
    let CreateOutcome::Created(stored, position) = store.create_entry(wanted.clone()).await.unwrap() else {
        panic!("not created");
    };
    assert_eq!(stored, Entry { revision_number: 0, created_at: 1_700_000_000, ..wanted });
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!(all.entries, [stored]);
    assert_eq!(all.position, position);
}

pub(super) async fn entries_load_in_order_of_creation(bed: Bed) {
    let store = bed.store();
    for id in ["c", "a", "b"] {
        store.create_entry(entry(id)).await.unwrap();
    }
    store.update_entry(&entry_id("c"), Box::new(|_| Ok(()))).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    let ids: Vec<_> = all.entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["c", "a", "b"]);
}

pub(super) async fn a_similar_entry_is_returned_and_nothing_is_written(bed: Bed) {
    let store = bed.store();
    let first = Entry { selectors: selectors(&["unix:uid:1", "unix:gid:2"]), ..entry("a") };
    store.create_entry(first.clone()).await.unwrap();
    let before = Snapshot::load(&*store).await.unwrap();
    for id in ["a", "b"] {
        let twin = Entry {
            id: entry_id(id),
            selectors: selectors(&["unix:gid:2", "unix:uid:1"]),
            hint: "x".into(),
            ..first.clone()
        };
        let outcome = store.create_entry(twin).await.unwrap();
        assert_eq!(outcome, CreateOutcome::Similar(before.entries[0].clone()));
    }
    assert_eq!(Snapshot::load(&*store).await.unwrap(), before);
}

pub(super) async fn an_entry_that_differs_in_one_selector_is_not_similar(bed: Bed) {
    let store = bed.store();
    let sets: [&[&str]; 4] = [&["a:1"], &["a:2"], &["a:1", "a:2"], &["a:1,a:2"]];
    for (id, set) in ["a", "b", "c", "d"].into_iter().zip(sets) {
        let one = Entry { id: entry_id(id), selectors: selectors(set), ..entry("same") };
        let outcome = store.create_entry(one).await.unwrap();
        assert!(matches!(outcome, CreateOutcome::Created(..)), "{set:?} is taken for another");
    }
    assert_eq!(Snapshot::load(&*store).await.unwrap().entries.len(), 4);
}

pub(super) async fn a_taken_id_is_refused_and_the_entry_stays(bed: Bed) {
    let store = bed.store();
    store.create_entry(entry("a")).await.unwrap();
    let before = Snapshot::load(&*store).await.unwrap();
    let error = store.create_entry(full_entry("a")).await.unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists { what: Kind::Entry, key } if key == "a"), "{error:?}");
    assert_eq!(error.class(), Class::Caller);
    assert_eq!(Snapshot::load(&*store).await.unwrap(), before);
}

pub(super) async fn an_update_raises_the_revision_and_keeps_id_and_creation_time(bed: Bed) {
    let store = bed.store();
    bed.at(100);
    store.create_entry(entry("a")).await.unwrap();
    bed.at(200);
    let id = entry_id("a");
    let change = |entry: &mut Entry| {
        *entry = Entry { revision_number: 50, created_at: 50, ..full_entry("b") };
        Ok(())
    };
    let (updated, position) = store.update_entry(&id, Box::new(change)).await.unwrap();
    assert_eq!(updated, Entry { id: id.clone(), revision_number: 1, created_at: 100, ..full_entry("b") });
    let (again, later) = store.update_entry(&id, Box::new(|_| Ok(()))).await.unwrap();
    assert_eq!(again, Entry { revision_number: 2, ..updated });
    assert!(later > position, "an update without a difference is an update too");
    assert_eq!(Snapshot::load(&*store).await.unwrap().entries, [again]);
}

pub(super) async fn a_rejected_update_changes_nothing(bed: Bed) {
    let store = bed.store();
    store.create_entry(entry("a")).await.unwrap();
    let before = Snapshot::load(&*store).await.unwrap();
    let change = |entry: &mut Entry| {
        entry.hint = "half".into();
        Err(Rejected::new("not like this"))
    };
    let error = store.update_entry(&entry_id("a"), Box::new(change)).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected(why) if why.reason() == "not like this"), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap(), before);
}

pub(super) async fn updating_or_deleting_what_is_missing_is_not_found(bed: Bed) {
    let store = bed.store();
    let id = entry_id("a");
    let update = store.update_entry(&id, Box::new(|_| Ok(()))).await.unwrap_err();
    let delete = store.delete_entry(&id).await.unwrap_err();
    for error in [update, delete] {
        assert!(matches!(&error, Error::NotFound { what: Kind::Entry, key } if key == "a"), "{error:?}");
    }
    assert_eq!(Snapshot::load(&*store).await.unwrap(), Snapshot::default());
}

pub(super) async fn a_successor_under_the_same_id_has_a_time_of_its_own(bed: Bed) {
    let store = bed.store();
    bed.at(100);
    store.create_entry(entry("a")).await.unwrap();
    let (gone, _) = store.delete_entry(&entry_id("a")).await.unwrap();
    assert_eq!((gone.id.as_str(), gone.created_at), ("a", 100));
    assert!(Snapshot::load(&*store).await.unwrap().entries.is_empty());
    bed.at(200);
    store.create_entry(entry("a")).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.entries[0].created_at, all.entries[0].revision_number), (200, 0));
}

pub(super) async fn pruning_removes_what_expired_and_names_it(bed: Bed) {
    let store = bed.store();
    for (id, expires_at) in [("never", 0), ("past", 99), ("now", 100), ("future", 101), ("old", 1)] {
        store.create_entry(Entry { expires_at, ..entry(id) }).await.unwrap();
    }
    let pruned = store.prune_entries(100).await.unwrap();
    assert_eq!(pruned, [entry_id("past"), entry_id("old")]);
    assert!(store.prune_entries(100).await.unwrap().is_empty());
    assert_eq!(Snapshot::load(&*store).await.unwrap().entries.len(), 3);
}
