//! Faults of agents and of how they stand to their servers.

use std::path::Path;

use vouchsafe_testkit::free_port;

use crate::ask::{Workload, ask, expect, outcome, stop_and_edit};
use crate::process::eventually;
use crate::world::{AgentSettings, Server, ServerSettings, World};

fn flag(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn entries_that_the_server_has_and_the_agent_lacks() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let workload = Workload::start();
    let pid = workload.pid();
    let asked = ["-pid", &pid, "-serverSocketPath", flag(&server.socket)];
    server.entry_for_this_user("mine", &[]);
    agent.wait_for_svid("mine");
    server.entry("other", "another-node", "unix:uid:77", &[]);
    let other = server.id("other");
    let about = ["-spiffeID", &other, "-serverSocketPath", flag(&server.socket)];
    expect(
        &agent.socket,
        &about,
        "entry-of-another-agent",
        1,
        &["vouchsafe server entry update", "-parentID"],
    );
    expect(&agent.socket, &["-spiffeID", &other], "no-entry", 1, &["vouchsafe server entry show"]);

    // The agent's way to its server is cut; the operator still reaches both.
    stop_and_edit(
        &agent,
        &format!("server_port = \"{}\"", server.port),
        &format!("server_port = \"{}\"", free_port()),
    );
    agent.start_again(&[]);
    agent.wait_until_healthy();
    expect(&agent.socket, &asked, "identity-held", 0, &[]);
    server.entry("new", "node", "unix:uid:78", &[]);
    let new = server.id("new");
    let about = ["-spiffeID", &new, "-serverSocketPath", flag(&server.socket)];
    let answer = expect(&agent.socket, &about, "entry-not-synced", 1, &["ask again"]);
    assert!(answer.has("server-unreachable"), "{answer:?}");
    // No server to ask: what the agent knows is still told, and that nobody was asked.
    server.stop();
    let answer = expect(&agent.socket, &about, "no-entry", 1, &["vouchsafe server entry show"]);
    assert!(answer.has("server-not-asked"), "{answer:?}");
}

#[test]
fn an_agent_that_the_server_has_banned_or_evicted() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    for (name, verb, code) in [("b", "ban", "agent-banned"), ("e", "evict", "agent-evicted")] {
        let agent = world.agent(name, &server, &AgentSettings::default());
        let id = ask(&agent.socket, &[]).json["agent"]["spiffe_id"].as_str().unwrap().to_owned();
        server.cli(&["agent", verb, "-spiffeID", &id]).ok();
        agent.wait_until_it_ends();
        let answer = expect(&agent.socket, &[], code, 3, &["vouchsafe server token generate"]);
        assert!(answer.has("agent-not-running") && answer.has("agent-gone"), "{answer:?}");
    }
    // Nothing of this is asked of a server.
    server.stop();
    expect(&world.path().join("b/w/api.sock"), &[], "agent-banned", 3, &["vouchsafe server agent evict"]);
}

#[test]
fn an_agent_that_does_not_run_or_listens_elsewhere_or_is_none() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let wrong = agent.folder.join("wrong.sock");
    let answer = expect(&wrong, &[], "agent-not-running", 3, &["vouchsafe agent run", "-socketPath"]);
    assert!(answer.has("agent-runs-elsewhere"), "{answer:?}");
    expect(&server.socket, &[], "not-our-agent", 3, &["-socketPath"]);
    agent.kill();
    let answer = expect(&agent.socket, &[], "stale-socket", 3, &["vouchsafe agent run"]);
    assert!(answer.has("agent-gone"), "{answer:?}");
    let said = outcome(&agent.socket, &[]).0;
    assert!(said.stdout.contains("stale-socket") && said.stdout.contains("Next: "), "{said:?}");
}

#[test]
fn an_agent_whose_join_token_was_used() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let token = server.join_token(None);
    let first = world.agent_with("a", &server, &AgentSettings::default(), &["-joinToken", &token]);
    first.wait_until_healthy();
    let second = world.agent_with("b", &server, &AgentSettings::default(), &["-joinToken", &token]);
    second.wait_until_it_ends();
    expect(&second.socket, &[], "agent-not-attested", 3, &["vouchsafe server token generate"]);
}

#[test]
fn a_server_that_the_agent_does_not_trust() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let other: Server = world.server("o", &ServerSettings::default());
    stop_and_edit(
        &agent,
        &format!("server_port = \"{}\"", server.port),
        &format!("server_port = \"{}\"", other.port),
    );
    agent.start_again(&[]);
    agent.wait_until_healthy();
    let flags = ["-selector", "unix:uid:77"];
    let answer = eventually("the agent notices", || {
        let answer = ask(&agent.socket, &flags);
        answer.has("server-untrusted").then_some(answer)
    });
    assert_eq!(answer.codes(), ["no-entry", "server-untrusted"], "{answer:?}");
    let step = answer.json["explanations"][0]["findings"][1]["next_step"].as_str().unwrap().to_owned();
    assert!(step.contains("vouchsafe server bundle show"), "{step}");
}
