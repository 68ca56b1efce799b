use vouchsafe_runtime::class::Class;
use vouchsafe_store::{BundleWrite, Change, DeleteMode, Error, Position, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;

use super::Bed;
use super::replica::Replica;
use crate::samples::{
    agent, alias_entry, entry, entry_id, join_token, relationship, trust_domain, x509_authority,
};

pub(super) async fn a_write_is_seen_on_the_watch_before_it_returns(bed: Bed) {
    let store = bed.store();
    let mut watch = store.watch();
    watch.mark_unchanged();
    let position = store.put_agent(agent("a")).await.unwrap();
    assert!(watch.has_changed().unwrap());
    assert!(*watch.borrow() >= position);
    assert!(*store.watch().borrow() >= position, "a later subscriber starts at the newest position");
}

/// One write of every kind, after each of which a follower must hold what a loader loads.
pub(super) async fn every_kind_of_write_is_in_the_feed(bed: Bed) {
    let store = bed.store();
    let mut follower = Replica::load(&*store).await;
    for step in 0..STEPS {
        write(&*store, step).await;
        let seen = follower.follow(&*store, 100).await.unwrap();
        assert!(seen > 0, "step {step} is not in the feed");
        assert_eq!(follower, Replica::load(&*store).await, "after step {step}");
        assert_eq!(*store.watch().borrow(), follower.position, "after step {step}");
    }
}

pub(super) async fn small_readings_add_up_to_the_whole(bed: Bed) {
    let store = bed.store();
    let start = Replica::load(&*store).await;
    for step in 0..STEPS {
        write(&*store, step).await;
    }
    let wanted = Replica::load(&*store).await;
    for limit in [0, 1, 2, 3, 7, usize::MAX] {
        let mut follower = start.clone();
        follower.follow(&*store, limit).await.unwrap();
        assert_eq!(follower, wanted, "limit {limit}");
    }
}

pub(super) async fn an_object_that_changed_twice_is_reported_once_as_it_is_now(bed: Bed) {
    let store = bed.store();
    store.create_entry(entry("a")).await.unwrap();
    store.create_entry(entry("b")).await.unwrap();
    let (newest, _) = store.update_entry(&entry_id("a"), Box::new(|_| Ok(()))).await.unwrap();
    let (_, last) = store.delete_entry(&entry_id("b")).await.unwrap();
    let read = store.changes_after(Position::START, 100).await.unwrap();
    assert_eq!(
        read.changes,
        [Change::Entry(entry_id("a"), Some(newest)), Change::Entry(entry_id("b"), None),]
    );
    assert_eq!((read.position, read.complete), (last, true));
    let read = store.changes_after(last, 100).await.unwrap();
    assert_eq!((read.changes.len(), read.position, read.complete), (0, last, true));
}

pub(super) async fn what_was_pruned_sends_readers_behind_it_to_load_again(bed: Bed) {
    let store = bed.store();
    bed.at(100);
    let first = store.put_agent(agent("a")).await.unwrap();
    bed.at(200);
    let second = store.put_agent(agent("b")).await.unwrap();
    assert_eq!(store.prune_changes(100).await.unwrap(), 0);
    assert_eq!(store.prune_changes(200).await.unwrap(), 1);

    let error = store.changes_after(Position::START, 10).await.unwrap_err();
    assert!(matches!(error, Error::Pruned { .. }), "{error:?}");
    assert!(error.needs_reload());
    assert_eq!(error.class(), Class::Transient);
    let read = store.changes_after(first, 10).await.unwrap();
    assert_eq!((read.changes.len(), read.position), (1, second));
}

pub(super) async fn pruning_never_leaves_a_hole_when_the_clock_jumped(bed: Bed) {
    let store = bed.store();
    let start = Replica::load(&*store).await;
    bed.at(300_000);
    store.put_agent(agent("future")).await.unwrap();
    bed.at(100);
    store.put_agent(agent("past")).await.unwrap();
    // The second event looks old; the first, which is older, does not.
    store.prune_changes(1_000).await.unwrap();
    let mut follower = start;
    match follower.follow(&*store, 10).await {
        Ok(_) => assert_eq!(follower, Replica::load(&*store).await),
        Err(error) => assert!(error.needs_reload(), "{error:?}"),
    }
}

pub(super) async fn a_position_from_the_future_is_refused(bed: Bed) {
    let store = bed.store();
    let Position(last) = store.put_agent(agent("a")).await.unwrap();
    let error = store.changes_after(Position(last + 1_000_000), 10).await.unwrap_err();
    assert!(matches!(error, Error::Rewound { .. }), "{error:?}");
    assert!(error.needs_reload());
}

pub(super) async fn a_position_past_the_newest_event_stays_readable_after_pruning(bed: Bed) {
    let store = bed.store();
    bed.at(100);
    let last = store.put_agent(agent("a")).await.unwrap();
    assert_eq!(store.prune_changes(101).await.unwrap(), 1);
    assert_eq!(store.changes_after(last, 10).await.unwrap().position, last);
    assert_eq!(Replica::load(&*store).await.position, last, "positions do not start over");
    let next = store.put_agent(agent("b")).await.unwrap();
    assert!(next > last);
    assert_eq!(store.changes_after(last, 10).await.unwrap().changes.len(), 1);
}

/// Steps that [`write`] knows.
const STEPS: usize = 20;

async fn write(store: &dyn Store, step: usize) {
    let ours = trust_domain("example.org");
    match step {
        0 => drop(store.create_entry(entry("a")).await.unwrap()),
        1 => drop(store.update_entry(&entry_id("a"), Box::new(|_| Ok(()))).await.unwrap()),
        2 => drop(store.create_entry(Entry { expires_at: 1, ..entry("b") }).await.unwrap()),
        3 => assert_eq!(store.prune_entries(2).await.unwrap().len(), 1),
        4 => drop(store.create_join_token(join_token("t", 1), Some(alias_entry("c", "t"))).await.unwrap()),
        5 => drop(store.admit_by_token("t", 1, agent("t")).await.unwrap()),
        6 => drop(store.put_agent(Agent { expires_at: 7, ..agent("t") }).await.unwrap()),
        7 => {
            let renew = |agent: &mut Agent| {
                agent.new_serial_number = "5".into();
                Ok(())
            };
            drop(store.update_agent(&agent("t").id, Box::new(renew)).await.unwrap());
        }
        8 => drop(store.delete_agent(&agent("t").id).await.unwrap()),
        9 => drop(store.create_join_token(join_token("u", 1), None).await.unwrap()),
        10 => assert_eq!(store.prune_join_tokens(2).await.unwrap(), 1),
        11 => drop(store.update_bundle(&ours, Box::new(|_| Ok(()))).await.unwrap()),
        12 => {
            let root = Box::new(|bundle: &mut vouchsafe_types::bundle::Bundle| {
                bundle.append([x509_authority(b"root", false)], []);
                Ok(())
            });
            drop(store.update_bundle(&ours, root).await.unwrap());
        }
        13 => drop(store.delete_bundle(&ours, DeleteMode::Restrict).await.unwrap()),
        14 => drop(store.delete_entry(&entry_id("a")).await.unwrap()),
        15 => drop(store.put_bundle(&ours, BundleWrite::Create, Box::new(|_| Ok(()))).await.unwrap()),
        16 => drop(store.create_federation(relationship("b.example"), None).await.unwrap()),
        17 => {
            let (domain, nothing) = (trust_domain("b.example"), Box::new(|_: &mut _| Ok(())));
            drop(store.update_federation(&domain, nothing, None).await.unwrap());
        }
        18 => drop(store.delete_federation(&trust_domain("b.example")).await.unwrap()),
        _ => drop(store.put_agent(agent("last")).await.unwrap()),
    }
}
