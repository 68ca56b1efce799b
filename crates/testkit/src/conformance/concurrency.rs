use std::time::Duration;

use tokio::task::JoinSet;
use vouchsafe_store::{CreateOutcome, Error, Outcome, Snapshot};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;

use super::Bed;
use super::replica::Replica;
use crate::samples::{agent, entry, entry_id};

/// What comes of a write that is made again while the database says that it is too busy for it.
async fn settled<T, W: Future<Output = Result<T, Error>>>(mut write: impl FnMut() -> W) -> T {
    loop {
        match write().await {
            Err(Error::Unavailable { outcome: Outcome::NotWritten, .. }) => tokio::time::sleep(PAUSE).await,
            outcome => return outcome.unwrap(),
        }
    }
}

const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn concurrent_updates_lose_nothing(bed: Bed) {
    const WRITERS: i64 = 40;
    let store = bed.store();
    store.create_entry(entry("a")).await.unwrap();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = bed.store();
        writers.spawn(async move {
            let count = |entry: &mut Entry| {
                entry.x509_svid_ttl += 1;
                Ok(())
            };
            let id = entry_id("a");
            settled(|| store.update_entry(&id, Box::new(count))).await.0.revision_number
        });
    }
    let mut revisions = writers.join_all().await;
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(1..=WRITERS), "two updates got the same revision");
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!(i64::from(all.entries[0].x509_svid_ttl), WRITERS);
}

pub(super) async fn concurrent_creates_of_similar_entries_make_one(bed: Bed) {
    let store = bed.store();
    let mut writers = JoinSet::new();
    for number in 0..20 {
        let store = bed.store();
        let twin = Entry { id: entry_id(&format!("id-{number}")), ..entry("same") };
        writers.spawn(async move { settled(|| store.create_entry(twin.clone())).await });
    }
    let outcomes = writers.join_all().await;
    let created = outcomes.iter().filter(|outcome| matches!(outcome, CreateOutcome::Created(..))).count();
    assert_eq!(created, 1);
    assert_eq!(Snapshot::load(&*store).await.unwrap().entries.len(), 1);
}

pub(super) async fn following_the_feed_beside_writers_ends_at_the_same_state(bed: Bed) {
    let store = bed.store();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = bed.store();
        writers.spawn(async move {
            for round in 0..25 {
                let id = format!("{writer}-{}", round % 5);
                store.put_agent(Agent { agent_version: format!("{round}"), ..agent(&id) }).await.unwrap();
                if round % 3 == 0 {
                    store.delete_agent(&agent(&id).id).await.unwrap();
                } else if round % 5 == 1 {
                    drop(store.create_entry(entry(&id)).await.unwrap());
                }
            }
        });
    }
    let mut follower = Replica::load(&*store).await;
    while !writers.is_empty() {
        while writers.try_join_next().is_some() {}
        follower.follow(&*store, 7).await.unwrap();
    }
    follower.follow(&*store, 7).await.unwrap();
    assert_eq!(follower, Replica::load(&*store).await);
}

pub(super) async fn a_dropped_write_happens_wholly_or_not_at_all(bed: Bed) {
    let store = bed.store();
    let mut follower = Replica::load(&*store).await;
    for number in 0..40 {
        let id = format!("e{number}");
        let write = store.create_entry(entry(&id));
        // Some are dropped before they begin, some while they run, some after they ended.
        drop(tokio::time::timeout(Duration::from_micros(number * 50), write).await);
    }
    let last = store.put_agent(agent("last")).await.unwrap();
    follower.follow(&*store, 100).await.unwrap();
    assert!(follower.position >= last);
    assert_eq!(follower, Replica::load(&*store).await);
    for number in 0..40 {
        let id = entry_id(&format!("e{number}"));
        let outcome = store.create_entry(entry(id.as_str())).await.unwrap();
        let (CreateOutcome::Created(held, _) | CreateOutcome::Similar(held)) = outcome;
        assert_eq!(held.id, id);
    }
}
