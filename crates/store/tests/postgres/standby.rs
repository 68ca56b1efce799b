//! A standby that is read.

use std::time::Duration;

use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Snapshot, Store};
use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::samples::agent;

use crate::{in_time, open_with, settled};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_standby_is_read_while_it_is_current_and_never_takes_a_reader_back() {
    let cluster = Cluster::start();
    let database = cluster.fresh_database();
    let replica = cluster.replica();
    let settings = Settings {
        ro_connection_string: Some(replica.cluster().connection_string(&database).into()),
        ..Settings::new(cluster.connection_string(&database))
    };
    let store = open_with(&settings);
    let first = settled(|| store.put_agent(agent("a"))).await;
    replica.wait_for(&cluster);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vouchsafe' AND datname <> 'postgres'";
    // One that does not answer within a second is not asked for some more.
    in_time("the standby is used", async {
        loop {
            assert_eq!(settled(|| Snapshot::load(&*store)).await.position, first);
            if replica.cluster().sql("postgres", sessions) != "0" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;

    replica.pause();
    let second = settled(|| store.put_agent(agent("b"))).await;
    assert!(second > first);
    let all = settled(|| Snapshot::load(&*store)).await;
    assert_eq!((all.position, all.agents.len()), (second, 2));
    assert_eq!(settled(|| store.changes_after(first, 10)).await.changes.len(), 1);
    replica.resume();

    replica.cluster().stop();
    assert_eq!(settled(|| Snapshot::load(&*store)).await.position, second);
    assert_eq!(settled(|| store.changes_after(first, 10)).await.position, second);
}
