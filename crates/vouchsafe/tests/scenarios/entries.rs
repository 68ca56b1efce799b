//! Suites `entries`, `sync-authorized-entries`, `fetch-x509-svids` and `fetch-jwt-svids`.

use std::collections::BTreeSet;

use serde_json::json;

use crate::process::eventually;
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

#[test]
fn entries_reach_the_agent_that_they_are_for_and_leave_it_again() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let token = server.join_token(Some("other"));
    let agent = world.agent("a", &server, &AgentSettings::default());
    let other = world.agent_with("b", &server, &AgentSettings::default(), &["-joinToken", &token]);
    other.wait_until_healthy();

    let entry = server.entry_for_this_user("workload", &["-dns", "one.test"]);
    let first = agent.wait_for_svid("workload");
    let denied = other.fetch_x509().err().expect("the other agent serves nobody");
    assert!(denied.stderr.contains("no identity issued"), "{denied:?}");

    let selector = format!("unix:uid:{}", nix::unistd::geteuid());
    let id = server.id("renamed");
    let parent = server.id("node");
    let update = [
        "entry",
        "update",
        "-entryID",
        &entry,
        "-spiffeID",
        &id,
        "-parentID",
        &parent,
        "-selector",
        &selector,
    ];
    server.cli(&update).ok();
    let renamed = agent.wait_for_svid("renamed");
    assert_ne!(renamed.svid.serial, first.svid.serial);

    server.cli(&["entry", "delete", "-entryID", &entry]).ok();
    eventually("the identity is gone", || agent.fetch_x509().err());
    assert!(server.cli(&["entry", "delete", "-entryID", &entry]).err().contains("not found"));
}

#[test]
fn three_entries_arrive_and_so_do_six_hundred() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent(
        "a",
        &server,
        &AgentSettings { agent: "x509_svid_cache_max_size = 10".into(), ..AgentSettings::default() },
    );
    for n in 0..3 {
        server.entry_for_this_user(&format!("few/{n}"), &[]);
    }
    eventually("three identities", || (identities(&agent)?.len() == 3).then_some(()));
    // More than a page of the synchronization, none of them for this user.
    create_many(&server, 600, "unix:uid:4294967294");
    server.entry_for_this_user("last", &[]);
    eventually("the identity after the many", || identities(&agent)?.contains("/last").then_some(()));
    let count = server.json(&["entry", "count"])["count"].as_i64().unwrap();
    assert!(count >= 604, "{count}");
}

#[test]
fn a_small_cache_serves_more_workloads_than_it_holds() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let settings = AgentSettings { agent: "x509_svid_cache_max_size = 8".into(), ..AgentSettings::default() };
    let agent = world.agent("a", &server, &settings);
    let wanted: BTreeSet<String> = (0..20).map(|n| format!("/workload/{n}")).collect();
    for path in &wanted {
        server.entry_for_this_user(&path[1..], &[]);
    }
    eventually("all identities of one workload", || (identities(&agent)? == wanted).then_some(()));
}

#[test]
fn jwt_svids_are_cached_and_can_be_switched_off() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    let first = agent.fetch_jwt("db");
    assert_eq!(first.token, agent.fetch_jwt("db").token);
    assert_ne!(first.token, agent.fetch_jwt("other").token);
    assert_eq!(first.bundle, std::slice::from_ref(&first.key_id));
    let valid = agent.cli(&["api", "validate", "jwt", "-audience", "db", "-svid", &first.token]).ok();
    assert!(valid.contains("SVID is valid."), "{valid}");
    let wrong = agent.cli(&["api", "validate", "jwt", "-audience", "else", "-svid", &first.token]).err();
    assert!(wrong.contains("SVID is not valid"), "{wrong}");

    let without = ServerSettings { server: "disable_jwt_svids = true".into(), ..ServerSettings::default() };
    let server = world.server("t", &without);
    let agent = world.agent("b", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    let refused = agent.cli(&["api", "fetch", "jwt", "-audience", "db"]).err();
    assert!(refused.contains("JWT functionality is disabled"), "{refused}");
}

/// The paths of this user's identities.
fn identities(agent: &Agent) -> Option<BTreeSet<String>> {
    let fetched = agent.fetch_x509().ok()?;
    Some(fetched.iter().map(|fetched| fetched.svid.id.path().to_owned()).collect())
}

/// Creates entries from a file, as `entry create -data` does.
fn create_many(server: &Server, count: usize, selector: &str) {
    let (kind, value) = selector.split_once(':').unwrap();
    let entries: Vec<_> = (0..count)
        .map(|n| {
            json!({
                "selectors": [{"type": kind, "value": value}],
                "spiffe_id": server.id(&format!("many/{n}")),
                "parent_id": server.id("node"),
                "x509_svid_ttl": 3600,
            })
        })
        .collect();
    let file = server.folder.join("many.json");
    std::fs::write(&file, json!({ "entries": entries }).to_string()).unwrap();
    server.cli(&["entry", "create", "-data", file.to_str().unwrap()]).ok();
}
