//! The OIDC discovery provider, on keys of a server and of a Workload API.
//!
//! `SCENARIO_OIDC` names a stock `oidc-discovery-provider`.

use std::path::Path;

use serde_json::{Value, json};
use vouchsafe_identity::web::{WebRoots, web_client_config};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_testkit::free_port;
use vouchsafe_transport::fetch::{Answer, Bounds, Target, fetch};

use crate::api::block_on;
use crate::pki::Authority;
use crate::process::eventually;
use crate::world::{AgentSettings, Server, ServerSettings, World};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const BOUNDS: Bounds = Bounds { deadline: std::time::Duration::from_secs(10), body: 1 << 20 };

fn get(target: &Target) -> Option<Answer> {
    block_on(fetch(target, BOUNDS)).ok()
}

/// Asks over the Unix socket at `socket`.
fn over_socket(socket: &Path, path: &str) -> Option<Answer> {
    get(&Target::unix(socket, path).unwrap())
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

/// Waits for the JWK set, and returns its key ids.
fn keys(ask: impl Fn() -> Option<Answer>) -> Vec<String> {
    let answer = eventually("the keys", || ask().filter(|answer| answer.status == 200));
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    let set: Value = serde_json::from_slice(&answer.body).unwrap();
    let keys = set["keys"].as_array().unwrap();
    for key in keys {
        assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("EC"), &json!("P-256"), &json!("ES256")));
        assert!(key.get("use").is_none() && key["x"].is_string() && key["y"].is_string(), "{key}");
    }
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Key ids of the server's bundle.
fn keys_of(server: &Server) -> Vec<String> {
    let bundle = server.json(&["bundle", "show"]);
    let keys = bundle["jwt_authorities"].as_array().unwrap().iter();
    keys.map(|key| key["key_id"].as_str().unwrap().to_owned()).collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// Prepares a key at the server and waits until the provider has it.
fn follows_a_rotation(server: &Server, ask: impl Fn() -> Option<Answer>) {
    let prepared = server.json(&["localauthority", "jwt", "prepare"]);
    let prepared = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    eventually("the prepared key at the provider", || keys(&ask).contains(&prepared).then_some(()));
    assert_eq!(sorted(keys(&ask)), sorted(keys_of(server)));
}

fn server_api(server: &Server) -> String {
    format!("server_api {{ address = \"unix://{}\" poll_interval = \"1s\" }}", server.socket.display())
}

/// As SPIRE's suite expects it.
const EXPECTED: &str = r#"{
  "issuer": "https://localhost",
  "jwks_uri": "https://localhost/keys",
  "authorization_endpoint": "",
  "response_types_supported": [
    "id_token"
  ],
  "subject_types_supported": [
    "public"
  ],
  "id_token_signing_alg_values_supported": [
    "RS256",
    "ES256",
    "ES384"
  ]
}"#;

#[test]
fn keys_of_a_server_are_served_on_a_unix_socket_and_outlive_it() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let socket = world.path().join("o.sock");
    let listen = format!("listen_socket_path = \"{}\"", socket.display());
    let provider = world.oidc("o", &format!("{listen}\n{}", server_api(&server)));
    let ask = || over_socket(&socket, "/keys");
    assert_eq!(keys(ask), keys_of(&server));

    let document = over_socket(&socket, DISCOVERY).unwrap();
    assert_eq!((document.status.as_u16(), text(&document)), (200, EXPECTED));
    assert_eq!(document.content_type.as_deref(), Some("application/json"));
    let lost = over_socket(&socket, "/").unwrap();
    assert_eq!((lost.status.as_u16(), text(&lost)), (404, "404 page not found\n"));

    follows_a_rotation(&server, ask);
    let before = sorted(keys(ask));
    server.kill();
    provider.wait_for_log(&["Failed to fetch bundle"]);
    assert_eq!(sorted(keys(ask)), before, "the server is away");
    server.start_again();
    assert_eq!(sorted(keys(ask)), sorted(keys_of(&server)));
}

#[test]
fn keys_of_a_workload_api_are_served_once_the_provider_has_an_entry() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let socket = world.path().join("o.sock");
    let provider = world.oidc(
        "o",
        &format!(
            "listen_socket_path = \"{}\"\nworkload_api {{ socket_path = \"{}\" trust_domain = \"domain.test\" poll_interval = \"1s\" }}",
            socket.display(),
            agent.socket.display()
        ),
    );
    let ask = || over_socket(&socket, "/keys");
    let early = eventually("an answer", ask);
    assert_eq!((early.status.as_u16(), text(&early)), (500, "document not available\n"));
    provider.wait_for_log(&["Failed to fetch JWKS from the Workload API", "PermissionDenied"]);
    server.entry_for_this_user("oidc-provider", &[]);
    assert_eq!(keys(ask), keys_of(&server));
    follows_a_rotation(&server, ask);
}

#[test]
fn a_certificate_from_files_serves_https_and_is_replaced_with_them() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let port = free_port();
    let first = Authority::root(world.path(), "first", None);
    let leaf = first.web_server(world.path(), "web");
    let serving = format!(
        "serving_cert_file {{ cert_file_path = \"{}\" key_file_path = \"{}\" addr = \"127.0.0.1:{port}\" file_sync_interval = \"1s\" }}",
        leaf.certificate.display(),
        leaf.key.display()
    );
    let _provider = world.oidc("o", &format!("{serving}\n{}", server_api(&server)));
    let target = |authority: &Authority, path: &str| {
        let roots = WebRoots::Pem(std::fs::read(&authority.certificate).unwrap().into());
        let config = web_client_config(&roots, Clock::system()).unwrap();
        Target::https(&format!("https://localhost:{port}{path}"), &config).unwrap()
    };
    let keys_page = target(&first, "/keys");
    assert_eq!(keys(|| get(&keys_page)), keys_of(&server));
    let document = get(&target(&first, DISCOVERY)).unwrap();
    let document: Value = serde_json::from_slice(&document.body).unwrap();
    assert_eq!(document["issuer"], format!("https://localhost:{port}"));
    assert_eq!(document["jwks_uri"], format!("https://localhost:{port}/keys"));

    let second = Authority::root(world.path(), "second", None);
    second.web_server(world.path(), "web");
    let keys_page = target(&second, "/keys");
    assert_eq!(keys(|| get(&keys_page)), keys_of(&server));
}
