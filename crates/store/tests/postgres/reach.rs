//! Which databases are used, and what is said of those that cannot be.

use std::time::Duration;

use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Error, Store};
use vouchsafe_testkit::postgres::{Cluster, PASSWORD};
use vouchsafe_testkit::samples::agent;

use crate::{in_time, open, outcome, refused, settled, told};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn servers_that_start_at_once_on_an_empty_database_agree() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let stores: Vec<_> = (0..4).map(|_| open(&cluster, &database)).collect();
    let mut epochs = Vec::new();
    for store in &stores {
        epochs.push(settled(|| store.epoch()).await);
        settled(|| store.put_agent(agent("a"))).await;
    }
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0] && *epoch != 0), "{epochs:?}");
    assert_eq!(cluster.sql(&database, "SELECT count(*) FROM vouchsafe.feed"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_schema_that_is_foreign_or_newer_is_refused_and_left_alone() {
    let cluster = Cluster::shared();
    let foreign = cluster.fresh_database();
    cluster.sql(&foreign, "CREATE SCHEMA vouchsafe; CREATE TABLE vouchsafe.entries (x int)");
    refused(&Settings::new(cluster.connection_string(&foreign)), &["another program"]).await;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'vouchsafe'";
    assert_eq!(cluster.sql(&foreign, tables), "1");

    let newer = cluster.fresh_database();
    let store = open(&cluster, &newer);
    settled(|| store.put_agent(agent("a"))).await;
    drop(store);
    cluster.sql(&newer, "UPDATE vouchsafe.meta SET value = 99 WHERE name = 'schema_version'");
    let store = open(&cluster, &newer);
    let error = outcome(|| store.put_agent(agent("b"))).await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert!(told(&error).contains("schema has version 99"), "{}", told(&error));
    assert_eq!(cluster.sql(&newer, "SELECT count(*) FROM vouchsafe.agents"), "1");
    // Mended by somebody, it is used without a restart.
    cluster.sql(&newer, "UPDATE vouchsafe.meta SET value = 1 WHERE name = 'schema_version'");
    in_time("it is used", async {
        while store.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;

    let empty = cluster.fresh_database();
    let settings = Settings { disable_migration: true, ..Settings::new(cluster.connection_string(&empty)) };
    refused(&settings, &["disable_migration"]).await;
    assert_eq!(cluster.sql(&empty, tables), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_database_that_cannot_be_reached_is_explained_without_the_password() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let right = cluster.connection_string(&database);
    let port = format!("port={}", cluster.port());
    for (text, parts) in [
        (right.replace(PASSWORD, "hunter2"), ["password authentication failed", "check user and password"]),
        (right.replace("127.0.0.1", "db.invalid"), ["db.invalid", "check host"]),
        (right.replace(&database, "nowhere"), ["\"nowhere\" does not exist", "create the database"]),
        (right.replace(&port, "port=1"), ["onnection refused", "check host and port"]),
        (right.replace("sslmode=disable", ""), ["does not support TLS", "sslmode=disable"]),
    ] {
        refused(&Settings::new(text), &parts).await;
    }
}
