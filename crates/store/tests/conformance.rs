//! The suite that every engine must pass, run by SQLite, by PostgreSQL, and by the fault store around it.

use std::sync::Arc;

use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::{FaultStore, Scratch, store_conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_passes() {
    store_conformance(Scratch::sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faultless_fault_store_passes() {
    store_conformance(|clock| async {
        Scratch::sqlite(clock).await.wrapped(|store| Arc::new(FaultStore::new(store).0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_passes() {
    let cluster = Cluster::shared();
    store_conformance(|clock| {
        let scratch = Scratch::postgres(&cluster, clock);
        async { scratch }
    })
    .await;
}
