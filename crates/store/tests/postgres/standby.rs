//! A standby that is read.

use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Snapshot, Store};
use vouchsafe_testkit::postgres::Cluster;
use vouchsafe_testkit::samples::agent;

use crate::open_with;

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
    let first = store.put_agent(agent("a")).await.unwrap();
    replica.wait_for(&cluster);
    assert_eq!(Snapshot::load(&*store).await.unwrap().position, first);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vouchsafe' AND datname <> 'postgres'";
    assert_ne!(replica.cluster().sql("postgres", sessions), "0", "the standby is used");

    replica.pause();
    let second = store.put_agent(agent("b")).await.unwrap();
    assert!(second > first);
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.position, all.agents.len()), (second, 2));
    assert_eq!(store.changes_after(first, 10).await.unwrap().changes.len(), 1);
    replica.resume();

    replica.cluster().stop();
    assert_eq!(Snapshot::load(&*store).await.unwrap().position, second);
    assert_eq!(store.changes_after(first, 10).await.unwrap().position, second);
}
