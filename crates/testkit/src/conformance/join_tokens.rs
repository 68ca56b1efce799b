use tokio::task::JoinSet;
use vouchsafe_store::{Admission, Error, Kind, Snapshot};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;

use super::Bed;
use crate::samples::{agent, alias_entry, entry, join_token};

pub(super) async fn a_token_admits_one_agent_even_when_many_come_at_a_time(bed: Bed) {
    let store = bed.store();
    store.create_join_token(join_token("secret-1", 100), None).await.unwrap();
    store.create_join_token(join_token("secret-2", 100), None).await.unwrap();
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let store = bed.store();
        let agent = Agent { serial_number: number.to_string(), ..agent("secret-1") };
        callers.spawn(
            async move { (agent.clone(), store.admit_by_token("secret-1", 100, agent).await.unwrap()) },
        );
    }
    let mut admitted = Vec::new();
    for (agent, admission) in callers.join_all().await {
        match admission {
            Admission::Admitted(position) => admitted.push((agent, position)),
            other => assert_eq!(other, Admission::Unknown),
        }
    }
    let [(agent, position)] = <[_; 1]>::try_from(admitted).unwrap();
    assert_eq!(store.admit_by_token("x", 100, crate::samples::agent("x")).await.unwrap(), Admission::Unknown);
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.agents, all.position), (vec![agent], position));
    assert_eq!(all.join_tokens, [join_token("secret-2", 100)]);
}

pub(super) async fn an_expired_token_admits_nobody_and_is_gone(bed: Bed) {
    let store = bed.store();
    store.create_join_token(join_token("t", 99), None).await.unwrap();
    assert_eq!(store.admit_by_token("t", 100, agent("t")).await.unwrap(), Admission::Expired);
    assert_eq!(store.admit_by_token("t", 100, agent("t")).await.unwrap(), Admission::Unknown);
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.agents, all.join_tokens), (vec![], vec![]));
}

pub(super) async fn a_token_and_its_agent_change_together_or_not_at_all(bed: Bed) {
    let store = bed.store();
    let banned = Agent { serial_number: String::new(), ..agent("t") };
    store.put_agent(banned.clone()).await.unwrap();
    store.create_join_token(join_token("t", 100), None).await.unwrap();
    let before = Snapshot::load(&*store).await.unwrap();
    let error = store.admit_by_token("t", 100, agent("t")).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected(why) if why.reason() == "agent is banned"), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap(), before);
}

pub(super) async fn pruning_removes_what_expired(bed: Bed) {
    let store = bed.store();
    for (value, expires_at) in [("past", 99), ("now", 100), ("future", 101)] {
        store.create_join_token(join_token(value, expires_at), None).await.unwrap();
    }
    assert_eq!(store.prune_join_tokens(100).await.unwrap(), 1);
    assert_eq!(store.prune_join_tokens(100).await.unwrap(), 0);
    let left = Snapshot::load(&*store).await.unwrap().join_tokens;
    assert_eq!(left, [join_token("now", 100), join_token("future", 101)]);
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
