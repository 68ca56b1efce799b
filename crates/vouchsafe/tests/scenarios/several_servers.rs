//! Several of our servers on one PostgreSQL, each with keys of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_testkit::postgres::Cluster;

use crate::process::{eventually, within};
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World, has_line};

/// A wait that shows nothing, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database, and what a server's file says of it.
struct Shared {
    cluster: Arc<Cluster>,
    database: String,
}

impl Shared {
    fn new() -> Self {
        let cluster = Cluster::shared();
        let database = cluster.fresh_database();
        Self { cluster, database }
    }

    fn settings(&self, server: &str) -> ServerSettings {
        let connection = self.cluster.connection_string(&self.database);
        ServerSettings {
            server: server.into(),
            datastore: format!("database_type = \"postgres\"\n connection_string = \"{connection}\""),
            ..ServerSettings::default()
        }
    }

    fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.database, sql)
    }
}

/// An agent that knows all of `servers`.
fn agent_of(world: &World, name: &str, servers: &[&Server]) -> Agent {
    let addresses: Vec<_> = servers.iter().map(|server| format!("\"127.0.0.1:{}\"", server.port)).collect();
    let settings = AgentSettings {
        agent: format!(
            "server_addresses = [{}]\n experimental {{ sync_interval = \"1s\" }}",
            addresses.join(", ")
        ),
        ..AgentSettings::default()
    };
    world.agent(name, servers[0], &settings)
}

fn certificates(server: &Server) -> usize {
    String::from_utf8(server.bundle_pem()).unwrap().matches("BEGIN CERTIFICATE").count()
}

fn ours(world: &World) -> bool {
    world.kind.our_server && world.kind.our_agent
}

#[test]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
fn what_one_server_is_told_the_others_serve_at_once() {
    let (world, shared) = (World::new(), Shared::new());
    if !world.kind.our_server {
        return;
    }
    let servers = ["a", "b", "c"].map(|name| world.server(name, &shared.settings("")));
    eventually("each bundle has the authorities of all", || {
        servers.iter().all(|server| certificates(server) == 3).then_some(())
    });
    // As it is written by one and read by another: the command itself takes longer than what it shows.
    let mut delays: Vec<Duration> = (0..5)
        .map(|number| {
            let began = Instant::now();
            let id = servers[0].entry_for_this_user(&format!("w{number}"), &[]);
            let (created, began) = (began.elapsed(), Instant::now());
            let shown = within(PATIENCE, || {
                let shown = servers[1].cli(&["entry", "show", "-entryID", &id]);
                (shown.code == 0 && shown.ok().contains("Found 1 entry")).then(|| began.elapsed())
            });
            // Another command is a measure of how busy the machine is.
            shown.expect("the entry is shown by the other server").saturating_sub(3 * created)
        })
        .collect();
    delays.sort_unstable();
    assert!(delays[2] < Duration::from_millis(500), "{delays:?}");
    servers[2].entry_for_this_user("from-c", &[]);
    let count = |server: &Server| server.json(&["entry", "show"])["entries"].as_array().unwrap().len();
    eventually("all have six entries", || servers.iter().all(|server| count(server) == 6).then_some(()));
}

#[test]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
fn an_agent_goes_on_with_another_server_through_a_rolling_restart() {
    let (world, shared) = (World::new(), Shared::new());
    if !ours(&world) {
        return;
    }
    let settings = shared.settings("agent_ttl = \"60s\"\n default_x509_svid_ttl = \"30s\"");
    let servers = ["a", "b"].map(|name| world.server(name, &settings));
    eventually("each bundle has the authorities of all", || {
        servers.iter().all(|server| certificates(server) == 2).then_some(())
    });
    let agent = agent_of(&world, "agent", &[&servers[0], &servers[1]]);
    servers[0].entry_for_this_user("before", &[]);
    agent.wait_for_svid("before");
    let mark = agent.log().len();
    let (stop, fetched) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // A workload that never stops asking.
        let (socket, program, stop, fetched) = (&agent.socket, agent.program(), &stop, &fetched);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut command = std::process::Command::new(program);
                command.args(["api", "fetch", "x509", "-timeout", "25s", "-socketPath"]).arg(socket);
                let outcome = crate::process::run(&mut command);
                assert_eq!(outcome.code, 0, "a workload was not served: {outcome:?}");
                fetched.fetch_add(1, Ordering::Relaxed);
            }
        });
        for (turn, server) in servers.iter().enumerate() {
            server.stop();
            let other = &servers[1 - turn];
            other.entry_for_this_user(&format!("while-{turn}"), &[]);
            agent.wait_for_svid(&format!("while-{turn}"));
            server.start_again();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(fetched.load(Ordering::Relaxed) > 5);
    assert!(agent.is_running() && !has_line(&agent.log()[mark..], &["Starting node attestation"]));
    // Whoever renews it, it is the same agent to all.
    for server in &servers {
        assert_eq!(server.json(&["agent", "list"])["agents"].as_array().unwrap().len(), 1);
    }
}

#[test]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
fn authorities_that_rotate_on_two_servers_at_once_are_all_in_the_bundle() {
    let (world, shared) = (World::new(), Shared::new());
    if !world.kind.our_server {
        return;
    }
    let servers = ["a", "b"].map(|name| world.server(name, &shared.settings("")));
    eventually("two authorities", || (certificates(&servers[0]) == 2).then_some(()));
    let program = servers[0].program();
    std::thread::scope(|scope| {
        for server in &servers {
            let (socket, program) = (&server.socket, &program);
            scope.spawn(move || {
                for kind in ["x509", "jwt"] {
                    let command = |arguments: &[&str]| {
                        let mut command = std::process::Command::new(program);
                        command.args(["localauthority", kind]).args(arguments).args(["-output", "json"]);
                        crate::process::run(command.arg("-socketPath").arg(socket)).json()
                    };
                    let prepared = command(&["prepare"]);
                    let id = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
                    command(&["activate", "-authorityID", &id]);
                }
            });
        }
    });
    for server in &servers {
        eventually("four authorities", || (certificates(server) == 4).then_some(()));
    }
    assert_eq!(shared.sql("SELECT count(*) FROM vouchsafe.jwt_authorities"), "4");
    assert_eq!(shared.sql("SELECT count(*) FROM vouchsafe.journals"), "2");
}

#[test]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
fn servers_and_agents_live_through_a_restart_of_the_database() {
    let world = World::new();
    if !ours(&world) {
        return;
    }
    let shared = Shared { cluster: Arc::new(Cluster::start()), database: "postgres".into() };
    let server = world.server("a", &shared.settings(""));
    let agent = agent_of(&world, "agent", &[&server]);
    server.entry_for_this_user("before", &[]);
    agent.wait_for_svid("before");
    shared.cluster.kill();
    let refused = server.cli(&[
        "entry",
        "create",
        "-spiffeID",
        &server.id("x"),
        "-parentID",
        &server.id("node"),
        "-selector",
        "unix:uid:1",
    ]);
    assert!(refused.code != 0, "{refused:?}");
    assert!(!format!("{refused:?} {}", server.log()).contains(vouchsafe_testkit::postgres::PASSWORD));
    agent.wait_for_svid("before");
    shared.cluster.start_again();
    eventually("the database is back", || {
        let (id, node) = (server.id("after"), server.id("node"));
        let selector = format!("unix:uid:{}", nix::unistd::geteuid());
        let made =
            server.cli(&["entry", "create", "-spiffeID", &id, "-parentID", &node, "-selector", &selector]);
        (made.code == 0).then_some(())
    });
    agent.wait_for_svid("after");
}
