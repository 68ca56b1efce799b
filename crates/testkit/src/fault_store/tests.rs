use tokio::task::JoinSet;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::Snapshot;

use super::*;
use crate::samples::agent;
use crate::scratch::Scratch;

async fn faulty() -> (Arc<FaultStore>, Faults, Scratch) {
    let scratch = Scratch::sqlite(Clock::system()).await;
    let (store, faults) = FaultStore::new(scratch.store());
    (Arc::new(store), faults, scratch)
}

#[tokio::test]
async fn a_failing_method_does_nothing_and_others_work() {
    let (store, faults, _scratch) = faulty().await;
    faults.set(Method::WRITES, &Fault::disk_full());
    assert!(matches!(store.put_agent(agent("a")).await, Err(Error::DiskFull { .. })));
    assert!(Snapshot::load(&*store).await.unwrap().agents.is_empty());
    faults.set_all(&Fault::unavailable());
    assert_eq!(store.ping().await.unwrap_err().class(), Class::Transient);
    faults.clear();
    store.put_agent(agent("a")).await.unwrap();
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents.len(), 1);
}

#[tokio::test]
async fn a_counted_fault_ends_by_itself() {
    let (store, faults, _scratch) = faulty().await;
    faults.set(&[Method::Ping], &Fault::FailTimes(2));
    let outcomes = [store.ping().await.is_ok(), store.ping().await.is_ok(), store.ping().await.is_ok()];
    assert_eq!(outcomes, [false, false, true]);
}

#[tokio::test]
async fn a_stalled_call_goes_on_when_the_fault_is_cleared() {
    let (store, faults, _scratch) = faulty().await;
    faults.set(&[Method::PutAgent], &Fault::Stall);
    let mut call = JoinSet::new();
    let stalled = Arc::clone(&store);
    call.spawn(async move { stalled.put_agent(agent("a")).await });
    while faults.calls(Method::PutAgent) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(Snapshot::load(&*store).await.unwrap().agents.is_empty());
    assert!(call.try_join_next().is_none());
    faults.clear();
    call.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_answer_hides_a_write_that_happened() {
    let (store, faults, _scratch) = faulty().await;
    faults.set(&[Method::PutAgent], &Fault::LoseAnswer);
    let error = store.put_agent(agent("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::Unknown, .. }), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents.len(), 1);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_by_kind() {
    let (store, faults, _scratch) = faulty().await;
    faults.set(&[Method::PutAgent], &Fault::unavailable());
    drop(store.put_agent(agent("a")).await);
    store.ping().await.unwrap();
    store.ping().await.unwrap();
    assert_eq!((faults.calls(Method::Ping), faults.reads(), faults.writes()), (2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_takes_that_long() {
    let (store, faults, _scratch) = faulty().await;
    faults.set_all(&Fault::Delay(Duration::from_secs(5)));
    let started = tokio::time::Instant::now();
    store.ping().await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 5);
}
