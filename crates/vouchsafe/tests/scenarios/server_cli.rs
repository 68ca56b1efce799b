//! Suite `spire-server-cli`.

use crate::world::{AgentSettings, ServerSettings, World};

#[test]
fn bundles_are_listed_counted_set_and_deleted() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let other =
        world.server("t", &ServerSettings { trust_domain: "other.test", ..ServerSettings::default() });
    let file = other.folder.join("bundle.pem");
    std::fs::write(&file, other.bundle_pem()).unwrap();
    let set = ["bundle", "set", "-id", "spiffe://other.test", "-path", file.to_str().unwrap()];
    assert_eq!(server.cli(&set).ok(), "bundle set.\n");
    assert_eq!(server.cli(&["bundle", "count"]).ok(), "2 bundles\n");
    let listed = server.cli(&["bundle", "list"]).ok();
    assert!(listed.contains("* other.test") && listed.contains("BEGIN CERTIFICATE"), "{listed}");
    server.entry_for_this_user("w", &["-federatesWith", "spiffe://other.test"]);
    let refused = server.cli(&["bundle", "delete", "-id", "spiffe://other.test"]).err();
    assert!(refused.contains("other.test"), "{refused}");
    let delete = ["bundle", "delete", "-id", "spiffe://other.test", "-mode", "dissociate"];
    assert_eq!(server.cli(&delete).ok(), "bundle deleted.\n");
    assert!(server.cli(&["entry", "show"]).ok().contains("Found 1 entry"));
}

#[test]
fn entries_are_created_shown_counted_updated_and_deleted() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    for n in 0..3 {
        server.entry_for_this_user(&format!("w{n}"), &["-hint", &format!("h{n}")]);
    }
    assert!(server.cli(&["entry", "show"]).ok().contains("Found 3 entries"));
    assert_eq!(server.cli(&["entry", "count"]).ok(), "3 registration entries\n");
    assert!(server.cli(&["entry", "show", "-hint", "h1"]).ok().contains("Found 1 entry"));
    let again = server.cli(&[
        "entry",
        "create",
        "-spiffeID",
        &server.id("w0"),
        "-parentID",
        &server.id("node"),
        "-selector",
        &format!("unix:uid:{}", nix::unistd::geteuid()),
    ]);
    assert!(again.clone().stderr.contains("similar entry already exists"), "{again:?}");
    assert_ne!(again.code, 0);
    let wrong = server.cli(&[
        "entry",
        "create",
        "-spiffeID",
        "spiffe://else.test/w",
        "-parentID",
        &server.id("node"),
        "-selector",
        "a:b",
    ]);
    assert_ne!(wrong.code, 0);
    assert!(server.cli(&["entry", "show", "-entryID", "missing"]).err().contains("not found"));
}

#[test]
fn agents_are_listed_counted_shown_and_evicted() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    assert_eq!(server.cli(&["agent", "list"]).ok(), "No attested agents found\n");
    let agent = world.agent("a", &server, &AgentSettings::default());
    let listed = server.cli(&["agent", "list"]).ok();
    assert!(listed.starts_with("Found 1 attested agent:"), "{listed}");
    assert_eq!(server.cli(&["agent", "count"]).ok(), "1 attested agent\n");
    assert_eq!(server.cli(&["agent", "count", "-banned", "true"]).ok(), "0 attested agents\n");
    assert_eq!(server.cli(&["agent", "count", "-attestationType", "join_token"]).ok(), "1 attested agent\n");
    let id = listed.lines().find_map(|line| line.strip_prefix("SPIFFE ID         : ")).unwrap().to_owned();
    assert!(
        server
            .cli(&["agent", "show", "-spiffeID", &id])
            .ok()
            .starts_with("Found an attested agent given its SPIFFE ID")
    );
    assert_eq!(server.cli(&["agent", "evict", "-spiffeID", &id]).ok(), "Agent evicted successfully\n");
    assert!(server.cli(&["agent", "show", "-spiffeID", &id]).err().contains("not found"));
    drop(agent);
}

#[test]
fn configuration_is_validated() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let good = server.folder.join("server.conf");
    let valid = world.server_program(&["validate", "-config", good.to_str().unwrap()]).ok();
    assert_eq!(valid, "SPIRE server configuration file is valid.\n");
    let text = std::fs::read_to_string(&good).unwrap().replace("data_dir", "data_dirr");
    let bad = server.folder.join("bad.conf");
    std::fs::write(&bad, text).unwrap();
    let refused = world.server_program(&["validate", "-config", bad.to_str().unwrap()]);
    assert_ne!(refused.code, 0);
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("data_dir"), "{refused:?}");
}

/// SPIRE reads `plugin_data_file` at this signal; whatever a server makes of it, it goes on.
#[test]
fn a_server_goes_on_after_sigusr1() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    server.reconfigure();
    if world.kind.our_server {
        server.wait_for_log(&["level=warn", "restart to read plugin_data_file again"]);
    }
    server.cli(&["entry", "count"]).ok();
}
