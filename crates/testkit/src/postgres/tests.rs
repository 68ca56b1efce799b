use super::*;

#[test]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
fn a_server_starts_stops_freezes_and_comes_back_with_its_data() {
    let cluster = Cluster::start();
    let name = cluster.fresh_database();
    cluster.sql(&name, "CREATE TABLE t (x int); INSERT INTO t VALUES (7)");
    cluster.stop();
    assert!(!cluster.answers());
    cluster.start_again();
    cluster.kill();
    assert!(!cluster.answers());
    cluster.start_again();
    assert_eq!(cluster.sql(&name, "SELECT x FROM t"), "7");
    let pid = cluster.pid();
    drop(cluster);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the server outlived its value");
}

#[test]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
fn a_replica_follows_and_stands_still_when_told() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE TABLE t (x int)");
    let replica = cluster.replica();
    cluster.sql("postgres", "INSERT INTO t VALUES (1)");
    replica.wait_for(&cluster);
    replica.pause();
    cluster.sql("postgres", "INSERT INTO t VALUES (2)");
    assert_eq!(replica.cluster().sql("postgres", "SELECT count(*) FROM t"), "1");
    replica.resume();
    replica.wait_for(&cluster);
    assert_eq!(replica.cluster().sql("postgres", "SELECT count(*) FROM t"), "2");
}
