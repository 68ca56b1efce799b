//! A database, or a server, that stops in the middle of something.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Error, JournalRecord, Outcome, Snapshot, Store};
use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::samples::agent;

use crate::proxy::Proxy;
use crate::{open, open_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_server_that_stands_still_in_the_middle_of_writes_holds_up_no_other() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let b = open(&cluster, &database);
    b.ping().await.unwrap();
    for round in 0..12_u64 {
        let proxy = Proxy::to(cluster.port()).await;
        let a = open_with(&Settings::new(cluster.connection_string_by(proxy.port, &database)));
        a.ping().await.unwrap();
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let a = Arc::clone(&a);
            writers.spawn(async move { while a.put_agent(agent(&format!("a-{writer}"))).await.is_ok() {} });
        }
        tokio::time::sleep(Duration::from_millis(40 + round * 3)).await;
        proxy.hold.send_replace(true);
        for number in 0..5 {
            let began = Instant::now();
            b.put_agent(agent(&format!("b-{number}"))).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(2), "{:?} in round {round}", began.elapsed());
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
    timeout(Duration::from_secs(10), works).await.expect("it comes back by itself");

    // Connections stay open and nothing answers.
    cluster.freeze();
    let began = Instant::now();
    let error = store.put_agent(agent("b")).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(6), "a deadline ends it");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    timeout(Duration::from_secs(20), async {
        loop {
            let began = Instant::now();
            drop(store.put_agent(agent("b")).await.unwrap_err());
            if began.elapsed() < Duration::from_millis(100) {
                return;
            }
        }
    })
    .await
    .expect("calls fail at once when it is known");
    cluster.thaw();
    let works = async {
        while store.put_agent(agent("c")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), works).await.expect("it comes back by itself");

    // A crash: every kept connection is dead, and no call is lost for it.
    cluster.kill();
    cluster.start_again();
    let works = async {
        while store.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), works).await.unwrap();
    assert!(Snapshot::load(&*store).await.unwrap().agents.len() >= 2);
}

/// The database has committed and the connection ends: nobody may be told that nothing was written, and nothing may be
/// written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_commit_whose_answer_is_lost_is_of_unknown_outcome_and_not_done_again() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let other = open(&cluster, &database);
    other.ping().await.unwrap();
    let through = async || {
        let proxy = Proxy::swallowing_the_answer_to("COMMIT\0", cluster.port()).await;
        let store = open_with(&Settings::new(cluster.connection_string_by(proxy.port, &database)));
        store.ping().await.unwrap();
        (store, proxy)
    };
    let (store, _proxy) = through().await;
    let error = store.put_agent(agent("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::Unknown, .. }), "{error:?}");
    assert_eq!(Snapshot::load(&*other).await.unwrap().agents, [agent("a")]);
    assert_eq!(cluster.sql(&database, "SELECT count(*) FROM vouchsafe.changes"), "1");

    let (store, _proxy) = through().await;
    let error = store.save_journal("a", vec![1]).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { outcome: Outcome::Unknown, .. }),
        "a journal is no event: {error:?}"
    );
    assert_eq!(other.load_journals().await.unwrap(), [JournalRecord { key: "a".into(), data: vec![1] }]);
}
