//! The metrics of a server and an agent after each of their features was used once, against a list of names, types and labels.
//!
//! A line of `golden/metrics_server.txt` and `golden/metrics_agent.txt` is `name type labels`, without the prefix and without
//! `host`. One that begins with `~` may be missing, because it depends on time; every other one must be there, and nothing
//! else may be. `UPDATE_GOLDEN=1` adds what is new and leaves `~` alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(dead_code, reason = "the support of the scenarios has more than is used here")]

#[path = "../scenarios/process.rs"]
mod process;
#[path = "../scenarios/programs.rs"]
mod programs;
#[path = "../scenarios/svids.rs"]
mod svids;
#[path = "../scenarios/world.rs"]
mod world;

mod exposition;
mod traffic;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use exposition::{Family, scrape};
use vouchsafe_testkit::free_port;
use world::{AgentSettings, ServerSettings, World};

#[test]
fn the_metrics_are_those_of_the_list_by_name_type_and_labels() {
    let world = World::new();
    let (server_port, agent_port) = (free_port(), free_port());
    let mut settings = ServerSettings {
        plugins: format!("}}\n{}\nplugins {{", prometheus(server_port)),
        ..ServerSettings::default()
    };
    settings.server = "audit_log_enabled = true".to_owned();
    let server = world.server("s", &settings);
    let delegate = server.id("workload");
    let settings = AgentSettings {
        agent: format!(
            "authorized_delegates = [\"{delegate}\"]\n experimental {{ ratelimit {{ fetch_jwt_svid = 1 }} }}\n}}\n{}\nagent {{",
            prometheus(agent_port)
        ),
        ..AgentSettings::default()
    };
    let agent = world.agent("a", &server, &settings);
    traffic::of_workloads(&server, &agent);
    traffic::above_the_limit(&agent);
    traffic::of_operators(&server);
    process::eventually("the agent acts on the tainted authorities", || {
        let seen = scrape(agent_port, "spire_agent");
        let processed = ["cache_manager_workload_process_tainted_x509_svids", "agent_svid_rotate"];
        processed.iter().all(|name| seen.contains_key(*name)).then_some(())
    });
    traffic::of_every_method(&server.socket, traffic::SERVER_METHODS);
    traffic::of_every_method(&agent.socket, traffic::AGENT_METHODS);
    traffic::of_every_method(&agent.admin_socket, traffic::AGENT_ADMIN_METHODS);
    check("metrics_agent.txt", || scrape(agent_port, "spire_agent"));
    traffic::end_of_the_agent(&server);
    check("metrics_server.txt", || scrape(server_port, "spire_server"));
}

fn prometheus(port: u16) -> String {
    format!("telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} }} }}")
}

/// Compares with the list until both agree: a call is counted when it ends, which its caller may notice first.
fn check(file: &str, scrape: impl Fn() -> BTreeMap<String, Family>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut listed = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (line, timing) = line.strip_prefix("~ ").map_or((line, false), |line| (line, true));
        let name = line.split(' ').next().unwrap().to_owned();
        listed.insert(name, (line.to_owned(), timing));
    }
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut seen = BTreeMap::new();
    let mut problems = Vec::new();
    process::within(Duration::from_secs(if update { 2 } else { 120 }), || {
        seen = scrape();
        problems = differences(&listed, &seen);
        problems.is_empty().then_some(())
    });
    if update {
        for (name, family) in &seen {
            let timing = listed.get(name).is_some_and(|(_, timing)| *timing);
            listed.insert(name.clone(), (family.line(name), timing));
        }
        let head: String =
            text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let lines =
            listed.values().map(|(line, timing)| format!("{}{line}\n", if *timing { "~ " } else { "" }));
        std::fs::write(&path, head + &lines.collect::<String>()).unwrap();
        return;
    }
    assert!(problems.is_empty(), "{file}:\n{}", problems.join("\n"));
}

/// What is seen and not listed, or listed and not seen.
fn differences(listed: &BTreeMap<String, (String, bool)>, seen: &BTreeMap<String, Family>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, family) in seen {
        let line = family.line(name);
        match listed.get(name) {
            None => problems.push(format!("not in the list: {line}")),
            Some((expected, _)) if *expected != line => {
                problems.push(format!("{line}, listed as {expected}"))
            }
            Some(_) => {}
        }
    }
    for (name, (_, timing)) in listed {
        if !timing && !seen.contains_key(name) {
            problems.push(format!("not there: {name}"));
        }
    }
    problems
}
