//! Suite `join-token`.

use crate::process::eventually;
use crate::world::{AgentSettings, ServerSettings, World, has_line};

#[test]
fn a_join_token_makes_one_agent_once() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let token = server.join_token(Some("node"));
    let agent = world.agent_with("a", &server, &AgentSettings::default(), &["-joinToken", &token]);
    agent.wait_until_healthy();
    server.entry_for_this_user("workload", &[]);
    let fetched = agent.wait_for_svid("workload");
    assert_eq!(fetched.svid.id.as_str(), server.id("workload"));
    assert_eq!(agent.fetch_jwt("db").subject, server.id("workload"));

    let again = world.agent_with("b", &server, &AgentSettings::default(), &["-joinToken", &token]);
    again.wait_for_log(&["failed to attest: join token does not exist or has already been used"]);
}

#[test]
fn an_agent_comes_back_with_its_svid_after_it_was_killed() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    // Its SVID is on disk by now, also where that happens in the background.
    eventually("the SVID is on disk", || agent.folder.join("agent-data.json").exists().then_some(()));
    agent.kill();
    let mark = agent.start_again(&[]);
    agent.wait_until_healthy();
    agent.wait_for_svid("workload");
    assert!(!has_line(&agent.log()[mark..], &["Starting node attestation"]), "it attested again");
}

#[test]
fn both_ends_find_each_other_again_after_the_server_restarted() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("before", &[]);
    agent.wait_for_svid("before");
    server.kill();
    agent.wait_for_svid("before");
    server.start_again();
    server.entry_for_this_user("after", &[]);
    agent.wait_for_svid("after");
    agent.wait_for_svid("before");
}
