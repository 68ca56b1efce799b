//! Suites `rotation`, `force-rotation-self-signed`, `force-rotation-jwt-authority` and
//! `force-rotation-upstream-authority`.

use crate::pki::Authority;
use crate::process::eventually;
use crate::world::{AgentSettings, Server, ServerSettings, World};

#[test]
fn svids_verify_through_many_rotations_of_leaf_and_authority() {
    let world = World::new();
    // Ten seconds are left when a leaf is due, also on a machine that is busy.
    let short = "ca_ttl = \"60s\"\n default_x509_svid_ttl = \"20s\"\n agent_ttl = \"30s\"";
    let server = world.server("s", &ServerSettings { server: short.into(), ..ServerSettings::default() });
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    let mut serials = vec![agent.wait_for_svid("workload").svid.serial];
    let mut authorities = vec![];
    // Each fetch verifies the chain with the bundle that came with it.
    eventually("five SVIDs by two authorities", || {
        let fetched = agent.fetch_x509();
        // A stock agent now and then hands out an SVID in the second in which it ends.
        assert!(fetched.is_ok() || !world.kind.our_agent, "no SVID at some time: {:?}", fetched.err());
        for fetched in fetched.into_iter().flatten() {
            serials.push(fetched.svid.serial);
            authorities.push(fetched.signed_by);
        }
        serials.dedup();
        authorities.dedup();
        (serials.len() >= 5 && authorities.len() >= 2).then_some(())
    });
}

#[test]
fn an_operator_replaces_the_x509_authority() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    let before = agent.wait_for_svid("workload");
    let prepared = rotate_to_new(&server, "x509", "X509 CA");
    let (old, active) = (authority(&server, "x509", "old"), authority(&server, "x509", "active"));
    assert_eq!((&active, &old), (&prepared, &before.signed_by));
    // The agent has the new authority before anything else happens.
    eventually("both authorities at the workload", || {
        (agent.fetch_x509().ok()?[0].authorities.len() == 2).then_some(())
    });

    assert!(
        server
            .cli(&["localauthority", "x509", "taint", "-authorityID", &active])
            .err()
            .contains("unable to taint current local authority")
    );
    server.cli(&["localauthority", "x509", "taint", "-authorityID", &old]).ok();
    server.wait_for_log(&["X.509 authority tainted successfully", &old]);
    leaves_the_tainted(&server, &active);
    agent.wait_for_log(&["New tainted X.509 authorities found", &old]);
    agent.wait_for_log(&["Agent SVID is tainted by a root authority, forcing rotation"]);
    eventually("an SVID by the new authority", || {
        (agent.fetch_x509().ok()?[0].signed_by == active).then_some(())
    });

    server.cli(&["localauthority", "x509", "revoke", "-authorityID", &old]).ok();
    server.wait_for_log(&["X.509 authority revoked successfully", &old]);
    eventually("the old authority is gone", || {
        let fetched = agent.fetch_x509().ok()?;
        (fetched[0].authorities == [active.clone()]).then_some(())
    });
    server.entry_for_this_user("after", &[]);
    agent.wait_for_svid("after");
}

#[test]
fn an_operator_replaces_the_jwt_authority() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    let before = agent.fetch_jwt("db");
    let prepared = rotate_to_new(&server, "jwt", "JWT key");
    let (old, active) = (authority(&server, "jwt", "old"), authority(&server, "jwt", "active"));
    assert_eq!((&active, &old), (&prepared, &before.key_id));
    assert_eq!(agent.fetch_jwt("db").token, before.token, "nothing is wrong with it yet");

    server.cli(&["localauthority", "jwt", "taint", "-authorityID", &old]).ok();
    server.wait_for_log(&["JWT authority tainted successfully", &old]);
    agent.wait_for_log(&[
        "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority",
        &old,
    ]);
    let after = eventually("a token by the new authority", || {
        Some(agent.fetch_jwt("db")).filter(|token| token.key_id == active)
    });
    assert_ne!(after.token, before.token);

    server.cli(&["localauthority", "jwt", "revoke", "-authorityID", &old]).ok();
    server.wait_for_log(&["JWT authority revoked successfully", &old]);
    eventually("the old key is gone", || (agent.fetch_jwt("db").bundle == [active.clone()]).then_some(()));
    let refused = agent.cli(&["api", "validate", "jwt", "-audience", "db", "-svid", &before.token]);
    assert_ne!(refused.code, 0);
}

#[test]
fn an_operator_replaces_the_upstream_authority() {
    let world = World::new();
    let first = Authority::root(world.path(), "first", Some("spiffe://local"));
    let second = Authority::root(world.path(), "second", Some("spiffe://local"));
    let (certificate, key) = (world.path().join("up.crt"), world.path().join("up.key"));
    let install = |authority: &Authority| {
        std::fs::copy(&authority.certificate, &certificate).unwrap();
        std::fs::copy(&authority.key, &key).unwrap();
    };
    install(&first);
    let plugins = format!(
        "UpstreamAuthority \"disk\" {{ plugin_data {{ cert_file_path = \"{}\" key_file_path = \"{}\" }} }}",
        certificate.display(),
        key.display()
    );
    let server = world.server("s", &ServerSettings { plugins, ..ServerSettings::default() });
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    let before = agent.wait_for_svid("workload");
    assert_eq!((before.svid.chain.len(), before.authorities.len()), (2, 1), "the root is the upstream's");

    install(&second);
    rotate_to_new(&server, "x509", "X509 CA");
    let old = upstream(&server, "old");
    assert_eq!(old, before.authorities[0]);
    assert_ne!(upstream(&server, "active"), old);
    let local = authority(&server, "x509", "old");
    let refused = server.cli(&["localauthority", "x509", "taint", "-authorityID", &local]).err();
    assert!(
        refused.contains("local authority can't be tainted if there is an upstream authority"),
        "{refused}"
    );

    server.cli(&["upstreamauthority", "taint", "-subjectKeyID", &old]).ok();
    server.wait_for_log(&["X.509 upstream authority tainted successfully", &old]);
    leaves_the_tainted(&server, &authority(&server, "x509", "active"));
    agent.wait_for_log(&["New tainted X.509 authorities found", &old]);
    agent.wait_for_log(&["Agent SVID is tainted by a root authority, forcing rotation"]);
    eventually("an SVID below the new upstream", || {
        let fetched = agent.fetch_x509().ok()?;
        (fetched[0].signed_by == authority(&server, "x509", "active")).then_some(())
    });

    server.cli(&["upstreamauthority", "revoke", "-subjectKeyID", &old]).ok();
    server.wait_for_log(&["X.509 upstream authority successfully revoked", &old]);
    eventually("one root is left", || (agent.fetch_x509().ok()?[0].authorities.len() == 1).then_some(()));
    server.entry_for_this_user("after", &[]);
    agent.wait_for_svid("after");
}

/// Prepares and activates a new authority, and returns its id.
fn rotate_to_new(server: &Server, kind: &str, name: &str) -> String {
    let prepared = server.json(&["localauthority", kind, "prepare"]);
    let id = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    server.wait_for_log(&[&format!("{name} prepared"), &id]);
    let refused = server.cli(&["localauthority", kind, "activate", "-authorityID", "other"]).err();
    assert!(refused.contains("unexpected authority ID"), "{refused}");
    server.cli(&["localauthority", kind, "activate", "-authorityID", &id]).ok();
    server.wait_for_log(&[&format!("{name} activated"), &id]);
    id
}

/// Waits until the server has replaced its own SVID because of a taint. If its turn came between the activation of `active`
/// and the taint, there is nothing left to force.
fn leaves_the_tainted(server: &Server, active: &str) {
    let log = server.log();
    let mut lines =
        log.lines().skip_while(|line| !(line.contains("X509 CA activated") && line.contains(active)));
    let before_the_taint = lines.by_ref().take_while(|line| !line.contains("tainted successfully"));
    if !before_the_taint.into_iter().any(|line| line.contains("Rotating server SVID")) {
        let forced = "Server SVID signed using a tainted authority, forcing rotation of the Server SVID";
        server.wait_for_log(&[forced]);
    }
}

fn authority(server: &Server, kind: &str, state: &str) -> String {
    server.json(&["localauthority", kind, "show"])[state]["authority_id"].as_str().unwrap().to_owned()
}

fn upstream(server: &Server, state: &str) -> String {
    let shown = server.json(&["localauthority", "x509", "show"]);
    shown[state]["upstream_authority_subject_key_id"].as_str().unwrap().to_owned()
}
