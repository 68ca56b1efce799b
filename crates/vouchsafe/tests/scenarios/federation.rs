//! Federation with both endpoint profiles, configured in files and by commands.

use vouchsafe_testkit::free_port;

use crate::pki::Authority;
use crate::process::eventually;
use crate::world::{AgentSettings, Server, ServerSettings, World};

/// A server that offers its bundle at `https://127.0.0.1:<port>`.
fn with_endpoint(world: &World, name: &str, trust_domain: &'static str, profile: &str) -> (Server, String) {
    let port = free_port();
    let federation = format!(
        "federation {{ bundle_endpoint {{ address = \"127.0.0.1\" port = {port} refresh_hint = \"10s\" {profile} }} }}"
    );
    let server =
        world.server(name, &ServerSettings { trust_domain, server: federation, ..ServerSettings::default() });
    (server, format!("https://127.0.0.1:{port}"))
}

#[test]
fn bundles_follow_rotations_over_https_spiffe() {
    let world = World::new();
    let (theirs, url) = with_endpoint(&world, "b", "domain-b.test", "profile \"https_spiffe\" {}");
    let (ours, _) = with_endpoint(&world, "s", "domain.test", "profile \"https_spiffe\" {}");
    let bundle = theirs.folder.join("bundle.json");
    std::fs::write(&bundle, theirs.cli(&["bundle", "show", "-format", "spiffe"]).ok()).unwrap();
    let arguments = [
        "federation",
        "create",
        "-trustDomain",
        "domain-b.test",
        "-bundleEndpointURL",
        &url,
        "-bundleEndpointProfile",
        "https_spiffe",
        "-endpointSpiffeID",
        "spiffe://domain-b.test/spire/server",
        "-trustDomainBundlePath",
        bundle.to_str().unwrap(),
        "-trustDomainBundleFormat",
        "spiffe",
    ];
    ours.cli(&arguments).ok();
    let shown = ours.cli(&["federation", "show", "-trustDomain", "domain-b.test"]).ok();
    assert!(shown.contains(&url), "{shown}");

    let agent = world.agent("a", &ours, &AgentSettings::default());
    ours.entry_for_this_user("workload", &["-federatesWith", "spiffe://domain-b.test"]);
    agent.wait_for_svid("workload");
    let folder = world.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    let federated = || {
        agent.cli(&["api", "fetch", "x509", "-write", folder.to_str().unwrap()]);
        std::fs::read(folder.join("federated_bundle.0.0.pem")).ok()
    };
    let before = eventually("the federated bundle at the workload", federated);
    assert_eq!(before, theirs.bundle_pem());

    theirs.json(&["localauthority", "x509", "prepare"]);
    ours.cli(&["federation", "refresh", "-id", "domain-b.test"]).ok();
    eventually("the new authority at the workload", || (federated()? == theirs.bundle_pem()).then_some(()));
    ours.cli(&["federation", "delete", "-id", "domain-b.test"]).ok();
    let list = ours.json(&["federation", "list"]);
    assert!(list["federation_relationships"].as_array().is_none_or(Vec::is_empty), "{list}");
}

#[test]
fn bundles_come_over_https_web_as_the_file_says() {
    let world = World::new();
    let web = Authority::root(world.path(), "web", None);
    let leaf = web.web_server(world.path(), "endpoint");
    let profile = format!(
        "profile \"https_web\" {{ serving_cert_file {{ cert_file_path = \"{}\" key_file_path = \"{}\" file_sync_interval = \"1h\" }} }}",
        leaf.certificate.display(),
        leaf.key.display()
    );
    let (theirs, url) = with_endpoint(&world, "b", "domain-b.test", &profile);
    let federation = format!(
        "federation {{ federates_with \"domain-b.test\" {{ bundle_endpoint_url = \"{url}\" bundle_endpoint_profile \"https_web\" {{}} }} }}"
    );
    let settings = ServerSettings {
        server: federation,
        environment: vec![("SSL_CERT_FILE".into(), web.certificate.display().to_string())],
        ..ServerSettings::default()
    };
    let ours = world.server("s", &settings);
    eventually("the federated bundle", || {
        let listed = ours.cli(&["bundle", "list", "-id", "spiffe://domain-b.test"]);
        (listed.code == 0 && listed.stdout.as_bytes() == theirs.bundle_pem()).then_some(())
    });
}
