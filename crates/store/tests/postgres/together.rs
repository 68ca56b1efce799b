//! Servers that do the same thing at the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use vouchsafe_store::{Error, Outcome, Snapshot, Store};
use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::samples::{entry, entry_id};
use vouchsafe_types::entry::Entry;

use crate::{PAUSE, in_time, open, settled, told};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn servers_that_prune_at_once_remove_each_entry_once() {
    const EXPIRED: usize = 1_500;
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let (a, b) = (open(&cluster, &database), open(&cluster, &database));
    let records = (0..EXPIRED).map(|number| {
        let name = format!("e{number}");
        vouchsafe_store::Record::Entry(Entry { id: entry_id(&name), expires_at: 5, ..entry(&name) })
    });
    let contents = vouchsafe_store::Contents { records: records.collect(), ..Default::default() };
    a.restore(contents).await.unwrap();
    let (first, second) = tokio::join!(a.prune_entries(10), b.prune_entries(10));
    let mut pruned = [first.unwrap(), second.unwrap()].concat();
    let all = pruned.len();
    pruned.sort_unstable();
    pruned.dedup();
    assert_eq!((all, pruned.len()), (EXPIRED, EXPIRED));
    let events = "SELECT count(*) FROM vouchsafe.changes";
    assert_eq!(cluster.sql(&database, events), (2 * EXPIRED).to_string());
    let (first, second) = tokio::join!(a.prune_changes(i64::MAX), b.prune_changes(i64::MAX));
    assert_eq!(first.unwrap() + second.unwrap(), 2 * EXPIRED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn two_servers_that_add_to_one_bundle_at_once_lose_nothing() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let stores = [open(&cluster, &database), open(&cluster, &database)];
    let mut writers = JoinSet::new();
    for number in 0..20_usize {
        let store = Arc::clone(&stores[number % 2]);
        writers.spawn(async move {
            let ours = vouchsafe_testkit::samples::trust_domain("example.org");
            loop {
                let add = move |bundle: &mut vouchsafe_types::bundle::Bundle| {
                    let der = format!("root {number}");
                    bundle.append([vouchsafe_testkit::samples::x509_authority(der.as_bytes(), false)], []);
                    Ok(())
                };
                match store.update_bundle(&ours, Box::new(add)).await {
                    Ok(_) => return,
                    // They wait for each other, and this machine may be slow. Once the database counts as away, calls fail
                    // without waiting for anything: who asks again at once keeps the one who looks for it from running.
                    Err(Error::Unavailable { outcome: Outcome::NotWritten, .. }) => sleep(PAUSE).await,
                    Err(error) => panic!("{}", told(&error)),
                }
            }
        });
    }
    writers.join_all().await;
    let all = settled(|| Snapshot::load(&*stores[0])).await;
    assert_eq!((all.bundles[0].x509_authorities.len(), all.bundles[0].sequence_number), (20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn servers_of_one_database_see_that_they_are_not_alone() {
    let cluster = Cluster::shared();
    let (database, elsewhere) = (cluster.fresh_database(), cluster.fresh_database());
    let (a, other) = (open(&cluster, &database), open(&cluster, &elsewhere));
    settled(|| other.ping()).await;
    assert_eq!(settled(|| a.users()).await, 1);
    let b = open(&cluster, &database);
    assert_eq!(settled(|| b.users()).await, 2);
    drop(b);
    let alone = async {
        while settled(|| a.users()).await > 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("who leaves is seen to have left", alone).await;
}
