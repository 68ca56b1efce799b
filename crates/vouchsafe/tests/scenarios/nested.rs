//! Suites `nested-rotation` and `force-rotation-self-signed` (its nested part): a root server and two servers below it.

use crate::process::eventually;
use crate::svids::{self, Fetched};
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

fn below(world: &World, name: &str, root: &Server, agent: &Agent, ttl: &str) -> Server {
    let plugins = format!(
        "UpstreamAuthority \"spire\" {{ plugin_data {{ server_address = \"127.0.0.1\" server_port = \"{}\"
             workload_api_socket = \"{}\" }} }}",
        root.port,
        agent.socket.display()
    );
    world.server(name, &ServerSettings { plugins, server: ttl.into(), ..ServerSettings::default() })
}

#[test]
fn svids_of_nested_servers_verify_across_the_tree_and_through_rotations() {
    let world = World::new();
    let ttl = "ca_ttl = \"180s\"\n default_x509_svid_ttl = \"30s\"";
    let root = world.server("r", &ServerSettings { server: ttl.into(), ..ServerSettings::default() });
    let root_agent = world.agent("ra", &root, &AgentSettings::default());
    root.entry_for_this_user("nested", &["-downstream"]);
    root_agent.wait_for_svid("nested");
    let left = below(&world, "x", &root, &root_agent, ttl);
    let right = below(&world, "y", &root, &root_agent, ttl);
    let left_agent = world.agent("xa", &left, &AgentSettings::default());
    let right_agent = world.agent("ya", &right, &AgentSettings::default());
    left.entry_for_this_user("left", &[]);
    right.entry_for_this_user("right", &[]);

    let below_the_root = |fetched: &Fetched| {
        assert!(fetched.svid.chain.len() >= 2, "the nested server's certificate comes with the SVID");
        let trust_domain = fetched.svid.id.trust_domain();
        svids::verify(&fetched.svid.chain, &trust_domain, &root.bundle_pem())
            .expect("the root's bundle suffices");
    };
    below_the_root(&left_agent.wait_for_svid("left"));
    for nested in [&left, &root] {
        let prepared = nested.json(&["localauthority", "x509", "prepare"]);
        let id = prepared["prepared_authority"]["authority_id"].as_str().unwrap();
        nested.cli(&["localauthority", "x509", "activate", "-authorityID", id]).ok();
    }
    let active = left.json(&["localauthority", "x509", "show"])["active"]["authority_id"].clone();
    eventually("an SVID by the new authority of the nested server", || {
        let fetched = left_agent.fetch_x509().ok()?.pop()?;
        below_the_root(&fetched);
        (fetched.signed_by == active).then_some(())
    });

    right_agent.wait_for_svid("right");
    // The keys of one side reach the other through the root.
    eventually("a token of the left side is valid on the right", || {
        let token = left_agent.fetch_jwt("db").token;
        let checked = right_agent.cli(&["api", "validate", "jwt", "-audience", "db", "-svid", &token]);
        (checked.code == 0).then_some(())
    });
}
