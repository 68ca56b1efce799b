//! What only this engine does: full disks, stuck writes, panics, bounds. The rest is in the conformance suite.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use tempfile::TempDir;
use tokio::task::JoinSet;
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::change::Snapshot;
use crate::error::Outcome;
use vouchsafe_runtime::class::Class;

/// Short enough for a test, long enough for a busy machine to commit in.
const QUICK: Deadlines = Deadlines {
    write: Duration::from_secs(2),
    read: Duration::from_secs(2),
    busy: Duration::from_millis(200),
};

async fn store() -> (Arc<Sqlite>, TempDir) {
    store_with(Deadlines::default()).await
}

async fn store_with(deadlines: Deadlines) -> (Arc<Sqlite>, TempDir) {
    let directory = vouchsafe_testkit::folder("vouchsafe-store-");
    let path = directory.path().join("registry.db");
    let store = Sqlite::open_with(path, Clock::system(), deadlines).await.unwrap();
    (Arc::new(store), directory)
}

/// Limits the file to its present size and `pages` more; `None` lifts the limit.
async fn limit_pages(store: &Sqlite, pages: Option<i64>) {
    let set = move |tx: &feed::Tx<'_>| {
        let used: i64 = tx.conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
        let most = pages.map_or(1_000_000, |pages| used + pages);
        tx.conn.pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))?;
        Ok(())
    };
    store.writer.write("limit", set).await.unwrap();
}

fn agent(name: &str) -> Agent {
    Agent {
        id: SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x509pop/{name}")).unwrap(),
        attestation_type: "x509pop".into(),
        serial_number: "1".into(),
        expires_at: 0,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: true,
        selectors: Default::default(),
        agent_version: String::new(),
    }
}

/// A write that runs until the returned sender sends or goes.
async fn stuck_write(store: &Arc<Sqlite>) -> (mpsc::Sender<()>, JoinSet<Result<BundleUpdate, Error>>) {
    let (release, released) = mpsc::channel();
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let released = Mutex::new(released);
    let change: BundleChange = Box::new(move |bundle| {
        began.send(()).unwrap();
        released.lock().unwrap().recv().ok();
        bundle.refresh_hint = 77;
        Ok(())
    });
    let mut task = JoinSet::new();
    let store = Arc::clone(store);
    task.spawn(async move { store.update_bundle(&ours(), change).await });
    begun.recv().await.unwrap();
    (release, task)
}

fn ours() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

#[track_caller]
fn assert_unavailable(error: &Error, wanted: Outcome) {
    let Error::Unavailable { outcome, retry_after, .. } = error else { panic!("{error:?}") };
    assert_eq!((*outcome, *retry_after), (wanted, RETRY_AFTER));
}

#[tokio::test]
async fn a_full_disk_fails_the_write_keeps_what_was_there_and_recovers() {
    let (store, _directory) = store().await;
    store.put_agent(agent("before")).await.unwrap();
    store.save_journal("server", vec![1; 100]).await.unwrap();
    limit_pages(&store, Some(4)).await;
    let before = Snapshot::load(&*store).await.unwrap();

    let error = store.save_journal("server", vec![2; 500_000]).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Permanent);
    assert!(error.to_string().contains("registry.db"), "{error}");
    let mut written = 0;
    let error = loop {
        match store.put_agent(agent(&format!("a{written}"))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    let after = Snapshot::load(&*store).await.unwrap();
    assert_eq!(after.agents.len(), before.agents.len() + written, "half a write stayed");
    let events = store.changes_after(before.position, 10_000).await.unwrap();
    assert_eq!(events.changes.len(), written, "an event without its change stayed");
    assert_eq!(store.load_journals().await.unwrap()[0].data, vec![1; 100]);

    limit_pages(&store, None).await;
    store.save_journal("server", vec![2; 500_000]).await.unwrap();
    store.put_agent(agent("after")).await.unwrap();
}

#[tokio::test]
async fn a_write_that_fails_halfway_undoes_itself_alone() {
    let (store, _directory) = store().await;
    let (release, mut first) = stuck_write(&store).await;
    let halfway = |tx: &feed::Tx<'_>| -> Result<(), fail::Fail> {
        agents::put(tx, &agent("half"))?;
        Err(Rejected::new("no").into())
    };
    let mut writes = JoinSet::new();
    for work in 0..3 {
        let store = Arc::clone(&store);
        writes.spawn(async move {
            match work {
                1 => store.writer.write("fail halfway", halfway).await.is_err(),
                whole => store.put_agent(agent(&format!("{whole}"))).await.is_ok(),
            }
        });
    }
    while store.writer.queued() < 3 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    first.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(writes.join_all().await, [true, true, true]);
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents, [agent("0"), agent("2")]);
    let events = store.changes_after(Position::START, 10).await.unwrap();
    assert_eq!(events.changes.len(), 3, "the undone write left an event: {events:?}");
}

#[tokio::test]
async fn one_write_too_large_does_not_fail_the_small_ones_committed_with_it() {
    let (store, _directory) = store().await;
    limit_pages(&store, Some(30)).await;
    let (release, mut first) = stuck_write(&store).await;
    let (mut small, mut large) = (JoinSet::new(), JoinSet::new());
    for number in 0..20 {
        let one = Arc::clone(&store);
        small.spawn(async move { one.put_agent(agent(&format!("{number}"))).await });
        if number == 10 {
            let one = Arc::clone(&store);
            large.spawn(async move { one.save_journal("large", vec![0; 900_000]).await });
        }
    }
    // All of them wait for the first, so that they form one group.
    while store.writer.queued() < 21 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    first.join_next().await.unwrap().unwrap().unwrap();
    assert!(matches!(large.join_next().await.unwrap().unwrap(), Err(Error::DiskFull { .. })));
    for outcome in small.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents.len(), 20);
}

/// Counts the frames in the write-ahead log that end a transaction.
fn commits(directory: &TempDir) -> usize {
    let log = std::fs::read(directory.path().join("registry.db-wal")).unwrap();
    log.get(32..).unwrap_or(&[]).chunks_exact(24 + 4096).filter(|frame| frame[4..8] != [0; 4]).count()
}

#[tokio::test]
async fn writes_that_wait_together_are_committed_together() {
    let (store, directory) = store().await;
    let (release, mut first) = stuck_write(&store).await;
    let before = commits(&directory);
    let mut waiting = JoinSet::new();
    for number in 0..100 {
        let store = Arc::clone(&store);
        waiting.spawn(async move { store.put_agent(agent(&format!("{number}"))).await.unwrap() });
    }
    while store.writer.queued() < 100 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    let mut positions = waiting.join_all().await;
    first.join_next().await.unwrap().unwrap().unwrap();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), 100, "each write has a position of its own");
    assert_eq!(commits(&directory) - before, 2);
}

#[tokio::test]
async fn a_stuck_write_gives_up_waiting_and_ends_by_itself_and_those_behind_it_never_run() {
    let (store, _directory) = store_with(QUICK).await;
    let (release, mut first) = stuck_write(&store).await;
    let behind = store.put_agent(agent("behind")).await.unwrap_err();
    assert_unavailable(&behind, Outcome::NotWritten);
    let stuck = first.join_next().await.unwrap().unwrap().unwrap_err();
    assert_unavailable(&stuck, Outcome::Unknown);
    assert_eq!(stuck.class(), Class::Transient);
    assert!(Snapshot::load(&*store).await.unwrap().bundles.is_empty(), "reads go on beside a stuck write");

    release.send(()).unwrap();
    store.put_agent(agent("next")).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!(all.bundles[0].refresh_hint, 77);
    assert_eq!(all.agents, [agent("next")]);
}

#[tokio::test]
async fn a_lock_held_by_another_program_makes_writes_unavailable_and_reads_go_on() {
    let (store, directory) = store_with(QUICK).await;
    let other = rusqlite::Connection::open(directory.path().join("registry.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.put_agent(agent("a")).await.unwrap_err();
    assert_unavailable(&error, Outcome::NotWritten);
    store.ping().await.unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    store.put_agent(agent("a")).await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_dropped_before_it_begins_never_runs() {
    let (store, _directory) = store().await;
    let (release, mut first) = stuck_write(&store).await;
    let dropped = store.put_agent(agent("dropped"));
    tokio::time::timeout(Duration::from_millis(20), dropped).await.unwrap_err();
    release.send(()).unwrap();
    first.join_next().await.unwrap().unwrap().unwrap();
    store.ping().await.unwrap();
    store.put_agent(agent("last")).await.unwrap();
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents, [agent("last")]);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let (store, _directory) = store().await;
    let (release, _first) = stuck_write(&store).await;
    let mut waiting = JoinSet::new();
    for number in 0..MAX_QUEUED_WRITES {
        let store = Arc::clone(&store);
        waiting.spawn(async move { store.put_agent(agent(&format!("{number}"))).await });
    }
    while store.writer.queued() < MAX_QUEUED_WRITES {
        tokio::task::yield_now().await;
    }
    let started = vouchsafe_testkit::Stopwatch::start();
    let error = store.put_agent(agent("one-too-many")).await.unwrap_err();
    assert_unavailable(&error, Outcome::NotWritten);
    assert!(started.elapsed() < WRITE_DEADLINE / 2);
    waiting.abort_all();
    drop(release);
}

#[tokio::test]
async fn a_change_that_panics_fails_alone_and_writes_nothing() {
    let (store, _directory) = store().await;
    let change: BundleChange = Box::new(|_| panic!("a mistake in a caller"));
    let error = store.update_bundle(&ours(), change).await.unwrap_err();
    assert_eq!(error.class(), Class::Bug);
    store.put_agent(agent("a")).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.bundles.len(), all.agents.len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_fires_no_deadline() {
    let (store, _directory) = store().await;
    for number in 0..50 {
        store.put_agent(agent(&format!("{number}"))).await.unwrap();
        store.changes_after(Position::START, 10).await.unwrap();
    }
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents.len(), 50);
}

#[tokio::test]
async fn a_load_that_nobody_finishes_frees_its_connection() {
    let (store, _directory) = store().await;
    let fill = |tx: &feed::Tx<'_>| {
        (0..3000).try_for_each(|number| agents::put(tx, &agent(&format!("{number}"))).map(drop))
    };
    store.writer.write("fill", fill).await.unwrap();
    for _ in 0..2 * READERS {
        let seen = AtomicU32::new(0);
        let mut sink = |_| {
            seen.fetch_add(1, Ordering::Relaxed);
        };
        drop(tokio::time::timeout(Duration::from_micros(300), store.load(&mut sink)).await);
    }
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents.len(), 3000);
}
