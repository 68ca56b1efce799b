//! Suite `upgrade`: a running SPIRE server is replaced by ours under its agents, and put back.
//!
//! Needs a stock `spire-server`; `interop/run upgrade` names it.

use crate::process::{eventually, run};
use crate::programs::Programs;
use crate::world::{AgentSettings, ServerSettings, World, has_line};
use std::process::Command;
use vouchsafe_testkit::postgres::Cluster;

#[test]
#[ignore = "needs a stock spire-server: run by interop/run upgrade"]
fn agents_notice_nothing_when_their_server_is_replaced_and_put_back() {
    replaced_and_put_back(
        "",
        ["datastore.sqlite3.spire", "an earlier import", "datastore.sqlite3.vouchsafe"],
    );
}

#[test]
#[ignore = "needs a stock spire-server: run by interop/run upgrade"]
fn agents_notice_nothing_when_their_server_on_postgresql_is_replaced_and_put_back() {
    let cluster = Cluster::shared();
    let connection = cluster.connection_string(&cluster.fresh_database());
    let datastore = format!("database_type = \"postgres\"\n connection_string = \"{connection}\"");
    // Both are in one database, so nothing is moved away.
    replaced_and_put_back(&datastore, ["Imported 2", "is not empty", "Exported 3"]);
}

/// `told`: by the first import, by a second one, and by the export.
fn replaced_and_put_back(datastore: &str, told: [&str; 3]) {
    let world = World::new();
    assert!(!world.kind.our_server, "SCENARIO_SERVER names the stock server");
    let settings = ServerSettings {
        server: "agent_ttl = \"40s\"\n default_x509_svid_ttl = \"20s\"".into(),
        datastore: datastore.into(),
        ..ServerSettings::default()
    };
    let server = world.server("s", &settings);
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("before", &["-dns", "before.test", "-hint", "h"]);
    agent.wait_for_svid("before");
    let token = agent.fetch_jwt("db");
    let (authorities, agents, mark) = (server.bundle_pem(), agents(&server), agent.log().len());

    // There.
    let ours = Programs::ours();
    let config = server.folder.join("server.conf");
    let command = |name: &str, flags: &[&str]| {
        run(Command::new(&ours).args(["server", name, "-config"]).arg(&config).args(flags))
    };
    assert!(command("import", &[]).err().contains("a server is running"));
    server.stop();
    assert!(
        command("import", &["-dryRun"]).ok().starts_with("Would import 2 registration entries, 1 agents")
    );
    let imported = command("import", &[]).ok();
    assert!(imported.contains(told[0]), "{imported}");
    let twice = command("import", &[]).err();
    assert!(twice.contains(told[1]), "{twice}");
    let spire = server.run_as(world.our_server());
    assert_eq!(server.bundle_pem(), authorities, "the same keys sign");
    let shown = server.cli(&["entry", "show", "-spiffeID", &server.id("before")]).ok();
    assert!(shown.contains("before.test") && shown.contains("Found 1 entry"), "{shown}");
    assert_eq!(self::agents(&server), agents);
    server.entry_for_this_user("during", &[]);
    agent.wait_for_svid("during");
    let checked = agent.cli(&["api", "validate", "jwt", "-audience", "db", "-svid", &token.token]);
    assert_eq!(checked.code, 0, "a token of before is still good: {checked:?}");
    // The agent renews its own SVID with the new server.
    eventually("the agent renewed", || (serial(&server) != serial_of(&agents)).then_some(()));

    // And back.
    let serial_with_ours = serial(&server);
    assert!(command("export", &[]).err().contains("a server is running"));
    server.stop();
    let exported = command("export", &[]).ok();
    assert!(exported.contains(told[2]), "{exported}");
    server.run_as(spire);
    assert_eq!(server.bundle_pem(), authorities);
    server.entry_for_this_user("after", &[]);
    for path in ["after", "during", "before"] {
        agent.wait_for_svid(path);
    }
    eventually("the agent renewed", || (serial(&server) != serial_with_ours).then_some(()));
    assert!(agent.is_running() && !has_line(&agent.log()[mark..], &["Starting node attestation"]));
}

/// The agents with everything that is known of them.
fn agents(server: &crate::world::Server) -> serde_json::Value {
    server.json(&["agent", "list"])["agents"].clone()
}

fn serial(server: &crate::world::Server) -> String {
    serial_of(&agents(server))
}

fn serial_of(agents: &serde_json::Value) -> String {
    agents[0]["x509svid_serial_number"].as_str().unwrap().to_owned()
}
