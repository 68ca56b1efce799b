//! Suites `evict-agent`, `node-attestation` and `node-re-attestation`.

use crate::pki::Authority;
use crate::process::eventually;
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World, has_line};

/// A server that knows machines by their certificates, and an agent on such a machine.
fn with_certificates() -> (World, Server, Agent, String) {
    let world = World::new();
    let authority = Authority::root(world.path(), "machines", None);
    let machine = authority.machine(world.path(), "machine");
    let server = world.server(
        "s",
        &ServerSettings {
            server: "agent_ttl = \"60s\"".into(),
            plugins: format!(
                "NodeAttestor \"x509pop\" {{ plugin_data {{ ca_bundle_path = \"{}\" }} }}",
                authority.certificate.display()
            ),
            ..ServerSettings::default()
        },
    );
    let settings = AgentSettings {
        attestor: format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ private_key_path = \"{}\" certificate_path = \"{}\" }} }}",
            machine.key.display(),
            machine.certificate.display()
        ),
        ..AgentSettings::default()
    };
    let agent = world.agent_with("a", &server, &settings, &[]);
    agent.wait_until_healthy();
    let path = format!("spire/agent/x509pop/{}", machine.fingerprint);
    (world, server, agent, path)
}

#[test]
fn a_machine_is_known_by_its_certificate_and_attests_again_when_it_must() {
    let (_world, server, agent, path) = with_certificates();
    let selector = format!("unix:uid:{}", nix::unistd::geteuid());
    server.entry("workload", &path, &selector, &[]);
    agent.wait_for_svid("workload");
    let shown = server.json(&["agent", "show", "-spiffeID", &server.id(&path)]);
    let selectors = shown["selectors"].to_string();
    assert!(selectors.contains("subject:cn:machine") && selectors.contains("ca:fingerprint:"), "{selectors}");
    assert_eq!(shown["can_reattest"], true);

    // Evicted while it runs: it proves itself again and goes on.
    server.cli(&["agent", "evict", "-spiffeID", &server.id(&path)]).ok();
    eventually("the agent is back", || {
        (server.cli(&["agent", "show", "-spiffeID", &server.id(&path)]).code == 0).then_some(())
    });
    server.entry("second", &path, &selector, &[]);
    agent.wait_for_svid("second");
    assert!(agent.is_running());

    // And at half the life of its SVID: there is nothing else to renew with.
    let serial = |value: &serde_json::Value| value["x509svid_serial_number"].as_str().unwrap().to_owned();
    let before = serial(&server.json(&["agent", "show", "-spiffeID", &server.id(&path)]));
    eventually("a new agent SVID", || {
        (serial(&server.json(&["agent", "show", "-spiffeID", &server.id(&path)])) != before).then_some(())
    });
    agent.wait_for_svid("workload");
}

#[test]
fn a_banned_agent_ends_and_stays_out_until_it_is_evicted() {
    let (world, server, agent, path) = with_certificates();
    let id = server.id(&path);
    assert_eq!(server.cli(&["agent", "ban", "-spiffeID", &id]).ok(), "Agent banned successfully\n");
    server.wait_for_log(&["Agent banned"]);
    agent.wait_for_log(&["Agent is banned: removing SVID and shutting down"]);
    agent.wait_until_it_ends();

    let mark = agent.start_again(&[]);
    eventually("the agent is refused", || {
        has_line(&agent.log()[mark..], &["failed to attest: agent is banned"]).then_some(())
    });
    agent.kill();

    assert_eq!(server.cli(&["agent", "evict", "-spiffeID", &id]).ok(), "Agent evicted successfully\n");
    server.wait_for_log(&["Agent deleted"]);
    let mark = agent.start_again(&[]);
    eventually("the agent attests", || {
        has_line(&agent.log()[mark..], &["SVID is not found. Starting node attestation"]).then_some(())
    });
    agent.wait_until_healthy();
    assert!(has_line(&agent.log()[mark..], &["Node attestation was successful"]));
    drop(world);
}

#[test]
fn an_evicted_agent_without_a_way_to_prove_itself_ends() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let listed = server.json(&["agent", "list"]);
    let path = listed["agents"][0]["id"]["path"].as_str().unwrap();
    server.cli(&["agent", "evict", "-spiffeID", &server.id(&path[1..])]).ok();
    agent.wait_until_it_ends();
    let agents = server.json(&["agent", "count"]);
    assert_eq!(agents["count"], 0);
}
