use tokio::task::JoinSet;
use vouchsafe_store::{Error, Kind, Snapshot};
use vouchsafe_types::entry::Entry;

use super::Bed;
use crate::samples::{alias_entry, entry, join_token};

pub(super) async fn a_token_is_taken_once_even_by_many_at_a_time(bed: Bed) {
    let store = bed.store();
    let token = join_token("secret-1", 100);
    store.create_join_token(token.clone(), None).await.unwrap();
    store.create_join_token(join_token("secret-2", 100), None).await.unwrap();
    let mut takers = JoinSet::new();
    for _ in 0..8 {
        let store = bed.store();
        takers.spawn(async move { store.take_join_token("secret-1").await.unwrap() });
    }
    let taken: Vec<_> = takers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken, [token]);
    assert_eq!(store.take_join_token("unknown").await.unwrap(), None);
    assert_eq!(Snapshot::load(&*store).await.unwrap().join_tokens, [join_token("secret-2", 100)]);
}

pub(super) async fn an_expired_token_can_be_taken(bed: Bed) {
    let store = bed.store();
    store.create_join_token(join_token("t", 1), None).await.unwrap();
    bed.at(1_000_000);
    assert_eq!(store.take_join_token("t").await.unwrap(), Some(join_token("t", 1)));
}

pub(super) async fn pruning_removes_what_expired(bed: Bed) {
    let store = bed.store();
    for (value, expires_at) in [("past", 99), ("now", 100), ("future", 101)] {
        store.create_join_token(join_token(value, expires_at), None).await.unwrap();
    }
    assert_eq!(store.prune_join_tokens(100).await.unwrap(), 1);
    assert_eq!(store.prune_join_tokens(100).await.unwrap(), 0);
    assert_eq!(store.take_join_token("past").await.unwrap(), None);
    assert!(store.take_join_token("now").await.unwrap().is_some());
}

pub(super) async fn a_token_and_its_alias_are_written_together_or_not_at_all(bed: Bed) {
    let store = bed.store();
    let position =
        store.create_join_token(join_token("a", 9), Some(alias_entry("alias", "a"))).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.position, all.join_tokens.len()), (position, 1));
    assert_eq!(all.entries, [Entry { created_at: all.entries[0].created_at, ..alias_entry("alias", "a") }]);

    let error =
        store.create_join_token(join_token("b", 9), Some(alias_entry("alias", "b"))).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { what: Kind::Entry, .. }), "{error:?}");
    let error = store.create_join_token(join_token("a", 9), Some(entry("other"))).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { what: Kind::JoinToken, .. }), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap(), all);
}

pub(super) async fn an_alias_that_exists_already_is_kept(bed: Bed) {
    let store = bed.store();
    store.create_entry(alias_entry("mine", "a")).await.unwrap();
    store.create_join_token(join_token("a", 9), Some(alias_entry("alias", "a"))).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.entries.len(), all.join_tokens.len()), (1, 1));
    assert_eq!(all.entries[0].id.as_str(), "mine");
}

pub(super) async fn no_error_shows_a_token(bed: Bed) {
    let store = bed.store();
    store.create_join_token(join_token("hunter2", 9), None).await.unwrap();
    let error = store.create_join_token(join_token("hunter2", 9), None).await.unwrap_err();
    let changes = store.changes_after(vouchsafe_store::Position::START, 10).await.unwrap();
    let shown = format!("{error} {error:?} {changes:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
