//! PostgreSQL with several servers, and when it is away, slow, foreign or half there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Change, Error, Outcome, Position, Postgres, Snapshot, Store};
use vouchsafe_testkit::postgres::{Cluster, PASSWORD, USER};
use vouchsafe_testkit::samples::{agent, entry, entry_id};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::spiffe_id::SpiffeId;

fn open_with(settings: &Settings) -> Arc<Postgres> {
    Arc::new(Postgres::open(settings, Clock::system(), Entropy::from_seed(7)).unwrap())
}

fn open(cluster: &Cluster, database: &str) -> Arc<Postgres> {
    open_with(&Settings::new(cluster.connection_string(database)))
}

/// Every cause of an error, as an operator reads it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(deeper) = source {
        text = format!("{text}: {deeper}");
        source = deeper.source();
    }
    text
}

async fn refusal(settings: &Settings) -> String {
    let error = open_with(settings).ping().await.unwrap_err();
    let text = format!("{} {error:?}", told(&error));
    assert!(!text.contains(PASSWORD) && !text.contains("hunter2"), "{text}");
    told(&error)
}

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
    let database = cluster.fresh_database();
    let stores = [open(cluster, &database), open(cluster, &database)];
    let (end, ended) = watch::channel(None);
    let mut followers = JoinSet::new();
    stores.iter().for_each(|store| drop(followers.spawn(follow(Arc::clone(store), ended.clone()))));
    let done = Arc::new(AtomicBool::new(false));
    let mut harming = JoinSet::new();
    let (harmed, name, stop) = (Arc::clone(cluster), database.clone(), Arc::clone(&done));
    harming.spawn_blocking(move || {
        while !stop.load(Ordering::Relaxed) {
            harm(&harmed, &name);
        }
    });
    let mut writers = JoinSet::new();
    for writer in 0..6_usize {
        let store = Arc::clone(&stores[writer % 2]);
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
    a.ping().await.unwrap();
    b.ping().await.unwrap();
    let mut newest = b.watch();
    let mut took = Vec::new();
    for number in 0..40 {
        let position = a.put_agent(agent(&format!("{number}"))).await.unwrap();
        let wrote = Instant::now();
        newest.wait_for(|newest| *newest >= position).await.unwrap();
        took.push(wrote.elapsed());
    }
    took.sort_unstable();
    println!("propagation p50 {:?} max {:?}", took[20], took[39]);
    assert!(took[20] < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_lost_notice_is_made_up_for_by_asking() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let store = open(&cluster, &database);
    store.ping().await.unwrap();
    // As a database does that cannot notify.
    cluster.sql(
        &database,
        "INSERT INTO vouchsafe.changes VALUES (1, 0, 2, 'spiffe://example.org/x', 7);
         UPDATE vouchsafe.feed SET position = 1",
    );
    let mut newest = store.watch();
    let seen = timeout(Duration::from_secs(15), newest.wait_for(|newest| *newest == Position(1))).await;
    seen.expect("the feed is asked from time to time").unwrap();
}

/// Passes bytes on until it is told to hold them back, for ever.
struct Proxy {
    port: u16,
    hold: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Proxy {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (hold, held) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut held = held.clone();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => return,
                        () = async { drop(held.wait_for(|held| *held).await) } => {}
                    }
                    // The server's end stays open, as when the machine of the client stands still.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { port: own, hold, _task: task }
    }
}

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
async fn servers_that_start_at_once_on_an_empty_database_agree() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let stores: Vec<_> = (0..4).map(|_| open(&cluster, &database)).collect();
    let mut epochs = Vec::new();
    for store in &stores {
        epochs.push(store.epoch().await.unwrap());
        store.put_agent(agent("a")).await.unwrap();
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
    let text = refusal(&Settings::new(cluster.connection_string(&foreign))).await;
    assert!(text.contains("another program"), "{text}");
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'vouchsafe'";
    assert_eq!(cluster.sql(&foreign, tables), "1");

    let newer = cluster.fresh_database();
    let store = open(&cluster, &newer);
    store.put_agent(agent("a")).await.unwrap();
    drop(store);
    cluster.sql(&newer, "UPDATE vouchsafe.meta SET value = 99 WHERE name = 'schema_version'");
    let store = open(&cluster, &newer);
    let error = store.put_agent(agent("b")).await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert!(told(&error).contains("schema has version 99"), "{}", told(&error));
    assert_eq!(cluster.sql(&newer, "SELECT count(*) FROM vouchsafe.agents"), "1");
    // Mended by somebody, it is used without a restart.
    cluster.sql(&newer, "UPDATE vouchsafe.meta SET value = 1 WHERE name = 'schema_version'");
    timeout(Duration::from_secs(20), async {
        while store.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();

    let empty = cluster.fresh_database();
    let settings = Settings { disable_migration: true, ..Settings::new(cluster.connection_string(&empty)) };
    let text = refusal(&settings).await;
    assert!(text.contains("disable_migration"), "{text}");
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
        let told = refusal(&Settings::new(text)).await;
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn tls_is_as_strict_as_sslmode_says() {
    let issue = |names: Vec<String>,
                 ca: Option<&(rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>)>| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
        let name = if ca.is_some() { USER } else { names[0].as_str() };
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        if ca.is_none() {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let certificate = match ca {
            Some((_, issuer)) => params.signed_by(&key, issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        (certificate, key, params)
    };
    let (certificate, key, params) = issue(vec!["ca".into()], None);
    let ca = (certificate, rcgen::Issuer::new(params, key));
    let (server, server_key, _) = issue(vec!["db.example".into()], Some(&ca));
    let (client, client_key, _) = issue(vec!["client".into()], Some(&ca));
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let roots = file("ca.pem", ca.0.pem());
    let (client, client_key) = (file("c.pem", client.pem()), file("c.key", client_key.serialize_pem()));
    let (other, _, _) = issue(vec!["other".into()], None);
    let others = file("other.pem", other.pem());

    let mut cluster = Cluster::start();
    cluster.use_tls(&server.pem(), &server_key.serialize_pem(), Some(&ca.0.pem()));
    cluster.restart();
    let with = |mode: &str, roots: Option<&std::path::Path>| Settings {
        root_ca_path: roots.map(Into::into),
        ..Settings::new(cluster.connection_string("postgres").replace("disable", mode))
    };
    for good in [
        with("require", None),
        with("prefer", None),
        with("require", Some(&roots)),
        with("verify-ca", Some(&roots)),
    ] {
        open_with(&good).ping().await.unwrap_or_else(|error| panic!("{good:?}: {}", told(&error)));
    }
    for (bad, part) in [
        (with("verify-ca", Some(&others)), "root_ca_path"),
        (with("require", Some(&others)), "root_ca_path"),
        (with("verify-full", None), "root_ca_path"),
        (with("verify-full", Some(&roots)), "name"),
    ] {
        let text = refusal(&bad).await;
        assert!(text.contains(part), "{text}");
    }
    // Only clients with a certificate, and no others.
    cluster.use_hba("hostssl all all 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 scram-sha-256\n");
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    let settings = Settings {
        client_cert_path: Some(client),
        client_key_path: Some(client_key),
        ..with("verify-ca", Some(&roots))
    };
    open_with(&settings).ping().await.unwrap();
    let text = refusal(&with("verify-ca", Some(&roots))).await;
    assert!(text.contains("certificate"), "{text}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn a_database_that_lost_its_last_changes_sends_readers_to_load_again() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let store = open(&cluster, &database);
    for name in ["a", "b", "c"] {
        store.put_agent(agent(name)).await.unwrap();
    }
    let read = store.changes_after(Position::START, 10).await.unwrap();
    assert_eq!(read.position, Position(3));
    // As after a failover to a standby that had not got the third: another change has its position.
    cluster.sql(&database, "UPDATE vouchsafe.changes SET tag = tag + 1 WHERE position = 3");
    store.put_agent(agent("d")).await.unwrap();
    let error = store.changes_after(read.position, 10).await.unwrap_err();
    assert!(matches!(error, Error::Rewound { .. }) && error.needs_reload(), "{error:?}");
    let position = Snapshot::load(&*store).await.unwrap().position;
    assert_eq!(store.changes_after(position, 10).await.unwrap().changes.len(), 0);
    // And while nobody wrote since: the watch goes back, so that readers look.
    cluster.sql(
        &database,
        "DELETE FROM vouchsafe.changes WHERE position > 1; UPDATE vouchsafe.feed SET position = 1",
    );
    let mut newest = store.watch();
    timeout(Duration::from_secs(15), newest.wait_for(|newest| *newest == Position(1)))
        .await
        .unwrap()
        .unwrap();
    assert!(store.changes_after(position, 10).await.unwrap_err().needs_reload());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn servers_that_prune_at_once_remove_each_entry_once() {
    const EXPIRED: usize = 1_500;
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let (a, b) = (open(&cluster, &database), open(&cluster, &database));
    let records = (0..EXPIRED).map(|number| {
        let name = format!("e{number}");
        vouchsafe_store::Record::Entry(Entry { id: entry_id(&name), expires_at: 5, ..entry(&name) })
    });
    let contents = vouchsafe_store::Contents { records: records.collect(), ..Default::default() };
    a.restore(contents).await.unwrap();
    let (first, second) = tokio::join!(a.prune_entries(10), b.prune_entries(10));
    let mut pruned = [first.unwrap(), second.unwrap()].concat();
    let all = pruned.len();
    pruned.sort_unstable();
    pruned.dedup();
    assert_eq!((all, pruned.len()), (EXPIRED, EXPIRED));
    let events = "SELECT count(*) FROM vouchsafe.changes";
    assert_eq!(cluster.sql(&database, events), (2 * EXPIRED).to_string());
    let (first, second) = tokio::join!(a.prune_changes(i64::MAX), b.prune_changes(i64::MAX));
    assert_eq!(first.unwrap() + second.unwrap(), 2 * EXPIRED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn two_servers_that_add_to_one_bundle_at_once_lose_nothing() {
    let cluster = Cluster::shared();
    let database = cluster.fresh_database();
    let stores = [open(&cluster, &database), open(&cluster, &database)];
    let mut writers = JoinSet::new();
    for number in 0..20_usize {
        let store = Arc::clone(&stores[number % 2]);
        writers.spawn(async move {
            let ours = vouchsafe_testkit::samples::trust_domain("example.org");
            loop {
                let add = move |bundle: &mut vouchsafe_types::bundle::Bundle| {
                    let der = format!("root {number}");
                    bundle.append([vouchsafe_testkit::samples::x509_authority(der.as_bytes(), false)], []);
                    Ok(())
                };
                match store.update_bundle(&ours, Box::new(add)).await {
                    Ok(_) => return,
                    // They wait for each other, and this machine may be slow.
                    Err(Error::Unavailable { outcome: Outcome::NotWritten, .. }) => {}
                    Err(error) => panic!("{}", told(&error)),
                }
            }
        });
    }
    writers.join_all().await;
    let all = Snapshot::load(&*stores[0]).await.unwrap();
    assert_eq!((all.bundles[0].x509_authorities.len(), all.bundles[0].sequence_number), (20, 20));
}
