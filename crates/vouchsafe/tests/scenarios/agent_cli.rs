//! Suite `agent-cli`.

use crate::world::{AgentSettings, ServerSettings, World};

#[test]
fn the_agent_answers_its_commands() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let nobody = world.path().join("nobody.sock");
    let unhealthy = world.agent_program(&["healthcheck", "-socketPath", nobody.to_str().unwrap()]);
    assert!(unhealthy.err().contains("Agent is unhealthy"));

    let agent = world.agent("a", &server, &AgentSettings::default());
    assert_eq!(agent.cli(&["healthcheck"]).ok(), "Agent is healthy.\n");
    let config = agent.folder.join("agent.conf");
    let valid = world.agent_program(&["validate", "-config", config.to_str().unwrap()]).ok();
    assert_eq!(valid, "SPIRE agent configuration file is valid.\n");

    assert!(agent.admin_cli(&["logger", "get"]).ok().contains("Logger Level : debug"));
    assert!(agent.admin_cli(&["logger", "set", "-level", "info"]).ok().contains("Logger Level : info"));
    assert!(agent.admin_cli(&["logger", "reset"]).ok().contains("Logger Level : debug"));
    assert!(agent.admin_cli(&["logger", "set", "-level", "loud"]).err().contains("loud"));
}
