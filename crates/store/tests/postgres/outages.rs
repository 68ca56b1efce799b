//! A database, or a server, that stops in the middle of something.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Error, JournalRecord, Outcome, Snapshot, Store};
use vouchsafe_testkit::Stopwatch;
use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::samples::agent;

use crate::proxy::Proxy;
use crate::{in_time, open, open_with, outcome, settled};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_server_that_stands_still_in_the_middle_of_writes_holds_up_no_other() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let b = open(&cluster, &database);
    settled(|| b.ping()).await;
    for round in 0..12_u64 {
        let proxy = Proxy::to(cluster.port()).await;
        let a = open_with(&Settings::new(cluster.connection_string_by(proxy.port, &database)));
        settled(|| a.ping()).await;
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let a = Arc::clone(&a);
            writers.spawn(async move { while a.put_agent(agent(&format!("a-{writer}"))).await.is_ok() {} });
        }
        let mut beside_them = Duration::ZERO;
        for number in 0..5 {
            let began = Instant::now();
            settled(|| b.put_agent(agent(&format!("b-{number}")))).await;
            beside_them = beside_them.max(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(40 + round * 3)).await;
        proxy.hold.send_replace(true);
        for number in 0..5 {
            let began = Stopwatch::start();
            settled(|| b.put_agent(agent(&format!("b-{number}")))).await;
            // Shorter than the database lets anybody wait; a write beside others that go on shows how busy the machine is.
            let bound = Duration::from_secs(2).max(10 * beside_them);
            assert!(began.elapsed() < bound, "{:?} in round {round}, not {bound:?}", began.elapsed());
        }
        writers.abort_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn while_the_database_is_away_calls_fail_at_once_and_afterwards_they_work() {
    let cluster = Cluster::start();
    let database = cluster.fresh_database();
    cluster.stop();
    let store = open(&cluster, &database);
    let error = store.put_agent(agent("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::NotWritten, .. }), "{error:?}");
    assert!(error.retry_after().is_some());
    cluster.start_again();
    let works = async {
        while store.put_agent(agent("a")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("it comes back by itself", works).await;

    // Connections stay open and nothing answers.
    cluster.freeze();
    let began = Stopwatch::start();
    let error = store.put_agent(agent("b")).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(6), "a deadline ends it");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    in_time("calls fail at once when it is known", async {
        loop {
            let began = Stopwatch::start();
            drop(store.put_agent(agent("b")).await.unwrap_err());
            if began.elapsed() < Duration::from_millis(100) {
                return;
            }
        }
    })
    .await;
    cluster.thaw();
    let works = async {
        while store.put_agent(agent("c")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("it comes back by itself", works).await;

    // A crash: every kept connection is dead, and no call is lost for it.
    cluster.kill();
    cluster.start_again();
    let works = async {
        while store.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("it works again", works).await;
    assert!(settled(|| Snapshot::load(&*store)).await.agents.len() >= 2);
}

/// The database has committed and the connection ends: nobody may be told that nothing was written, and nothing may be
/// written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_commit_whose_answer_is_lost_is_of_unknown_outcome_and_not_done_again() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let other = open(&cluster, &database);
    settled(|| other.ping()).await;
    let through = async || {
        let proxy = Proxy::swallowing_the_answer_to("COMMIT\0", cluster.port()).await;
        let store = open_with(&Settings::new(cluster.connection_string_by(proxy.port, &database)));
        settled(|| store.ping()).await;
        (store, proxy)
    };
    let (store, _proxy) = through().await;
    let error = outcome(|| store.put_agent(agent("a"))).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::Unknown, .. }), "{error:?}");
    assert_eq!(settled(|| Snapshot::load(&*other)).await.agents, [agent("a")]);
    assert_eq!(cluster.sql(&database, "SELECT count(*) FROM vouchsafe.changes"), "1");

    let (store, _proxy) = through().await;
    let error = outcome(|| store.save_journal("a", vec![1])).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { outcome: Outcome::Unknown, .. }),
        "a journal is no event: {error:?}"
    );
    assert_eq!(settled(|| other.load_journals()).await, [JournalRecord { key: "a".into(), data: vec![1] }]);
}
