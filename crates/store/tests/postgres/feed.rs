//! What one server writes the others read, in order, each once, whatever happens to connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vouchsafe_store::{Change, Error, Outcome, Position, Postgres, Snapshot, Store};
use vouchsafe_testkit::Stopwatch;
use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::samples::agent;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::{in_time, open, outcome, settled, told};

/// Follows the agents of a store until `end`.
async fn follow(
    store: Arc<Postgres>,
    mut end: watch::Receiver<Option<Position>>,
) -> BTreeMap<SpiffeId, Agent> {
    let mut held = BTreeMap::new();
    let mut position = Position::START;
    let mut newest = store.watch();
    loop {
        match store.changes_after(position, 16).await {
            Ok(read) => {
                assert!(read.position >= position, "the feed went back");
                position = read.position;
                for change in read.changes {
                    match change {
                        Change::Agent(id, Some(now)) => drop(held.insert(id, now)),
                        Change::Agent(id, None) => drop(held.remove(&id)),
                        other => panic!("{other:?}"),
                    }
                }
                if read.complete && end.borrow().is_some_and(|end| position >= end) {
                    return held;
                }
                if !read.complete {
                    continue;
                }
            }
            Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{}", told(&error)),
        }
        tokio::select! {
            _ = newest.wait_for(|newest| *newest > position) => {}
            _ = end.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

/// Writes from two stores while `harm` is done to them; readers of both must end with what is there.
async fn writers_and_followers(cluster: &Arc<Cluster>, harm: impl Fn(&Cluster, &str) + Send + 'static) {
    const ROUNDS: usize = 60;
    const BETWEEN_HARMS: usize = 3;
    let database = cluster.fresh_database();
    let stores = [open(cluster, &database), open(cluster, &database)];
    let (end, ended) = watch::channel(None);
    let mut followers = JoinSet::new();
    stores.iter().for_each(|store| drop(followers.spawn(follow(Arc::clone(store), ended.clone()))));
    let (done, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut harming = JoinSet::new();
    let (harmed, name) = (Arc::clone(cluster), database.clone());
    let (stop, progress) = (Arc::clone(&done), Arc::clone(&written));
    harming.spawn_blocking(move || {
        while !stop.load(Ordering::Relaxed) {
            let before = progress.load(Ordering::Relaxed);
            harm(&harmed, &name);
            // On a machine that is slow nobody would get anywhere between one harm and the next.
            while progress.load(Ordering::Relaxed) < before + BETWEEN_HARMS && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let mut writers = JoinSet::new();
    for writer in 0..6_usize {
        let (store, written) = (Arc::clone(&stores[writer % 2]), Arc::clone(&written));
        writers.spawn(async move {
            let mut unknown = 0;
            for round in 0..ROUNDS {
                // Some objects are everybody's.
                let id = if round % 4 == 0 { "shared".to_owned() } else { format!("{writer}-{}", round % 7) };
                let version = format!("{writer}.{round}");
                loop {
                    match store.put_agent(Agent { agent_version: version.clone(), ..agent(&id) }).await {
                        Ok(position) => {
                            assert!(*store.watch().borrow() >= position, "a write is seen before it returns");
                            written.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                        Err(Error::Unavailable { outcome, .. }) => {
                            unknown += usize::from(outcome == Outcome::Unknown);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(error) => panic!("{}", told(&error)),
                    }
                }
            }
            unknown
        });
    }
    let unknown: usize = writers.join_all().await.into_iter().sum();
    done.store(true, Ordering::Relaxed);
    harming.join_all().await;
    let last = loop {
        match stores[0].put_agent(agent("last")).await {
            Ok(position) => break position,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    end.send_replace(Some(last));
    let held = loop {
        match Snapshot::load(&*stores[1]).await {
            Ok(held) => break held.agents,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let held: BTreeMap<_, _> = held.into_iter().map(|agent| (agent.id.clone(), agent)).collect();
    for followed in followers.join_all().await {
        assert_eq!(followed, held);
    }
    // No hole: as many events as positions.
    let counted = cluster.sql(&database, "SELECT count(*), max(position) FROM vouchsafe.changes");
    assert_eq!(counted, format!("{0}|{0}", last.0), "{unknown} of unknown outcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn two_servers_see_each_others_changes_in_order_and_none_missed() {
    writers_and_followers(&Cluster::shared(), |_, _| std::thread::sleep(Duration::from_millis(20))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn connections_killed_in_the_middle_of_transactions_lose_and_repeat_nothing() {
    writers_and_followers(&Cluster::shared(), |cluster, database| {
        cluster.sql(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
             AND pid <> pg_backend_pid() AND random() < 0.3",
        );
        std::thread::sleep(Duration::from_millis(60));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_change_of_one_server_reaches_the_other_within_milliseconds() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let (a, b) = (open(&cluster, &database), open(&cluster, &database));
    settled(|| a.ping()).await;
    settled(|| b.ping()).await;
    let mut newest = b.watch();
    let (mut took, mut writes) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let began = Instant::now();
        let position = settled(|| a.put_agent(agent(&format!("{number}")))).await;
        writes.push(began.elapsed());
        let wrote = Stopwatch::start();
        newest.wait_for(|newest| *newest >= position).await.unwrap();
        took.push(wrote.elapsed());
    }
    took.sort_unstable();
    writes.sort_unstable();
    println!("propagation p50 {:?} max {:?}, writes p50 {:?}", took[20], took[39], writes[20]);
    // A write is a measure of how busy the machine is.
    let milliseconds = Duration::from_millis(100).max(10 * writes[20]);
    assert!(took[20] < milliseconds, "{took:?}, writes: {writes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_lost_notice_is_made_up_for_by_asking() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let store = open(&cluster, &database);
    settled(|| store.ping()).await;
    // As a database does that cannot notify.
    cluster.sql(
        &database,
        "INSERT INTO vouchsafe.changes VALUES (1, 0, 2, 'spiffe://example.org/x', 7);
         UPDATE vouchsafe.feed SET position = 1",
    );
    let mut newest = store.watch();
    let seen = newest.wait_for(|newest| *newest == Position(1));
    in_time("the feed is asked from time to time", seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_database_that_lost_its_last_changes_sends_readers_to_load_again() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let store = open(&cluster, &database);
    for name in ["a", "b", "c"] {
        settled(|| store.put_agent(agent(name))).await;
    }
    let read = settled(|| store.changes_after(Position::START, 10)).await;
    assert_eq!(read.position, Position(3));
    // As after a failover to a standby that had not got the third: another change has its position.
    cluster.sql(&database, "UPDATE vouchsafe.changes SET tag = tag + 1 WHERE position = 3");
    settled(|| store.put_agent(agent("d"))).await;
    let error = outcome(|| store.changes_after(read.position, 10)).await.unwrap_err();
    assert!(matches!(error, Error::Rewound { .. }) && error.needs_reload(), "{error:?}");
    let position = settled(|| Snapshot::load(&*store)).await.position;
    assert_eq!(settled(|| store.changes_after(position, 10)).await.changes.len(), 0);
    // A server that is started again knows it by what it has kept.
    let mark = store.mark(position).unwrap();
    for (kept, differs) in [(mark, false), (mark + 1, true)] {
        let again = open(&cluster, &database);
        again.recall(position, kept);
        let read = outcome(|| again.changes_after(position, 10)).await;
        assert_eq!(matches!(read, Err(Error::Rewound { .. })), differs, "{read:?}");
    }
    // And while nobody wrote since: the watch goes back, so that readers look.
    cluster.sql(
        &database,
        "DELETE FROM vouchsafe.changes WHERE position > 1; UPDATE vouchsafe.feed SET position = 1",
    );
    let mut newest = store.watch();
    in_time("the feed goes back", newest.wait_for(|newest| *newest == Position(1))).await.unwrap();
    assert!(outcome(|| store.changes_after(position, 10)).await.unwrap_err().needs_reload());
}
