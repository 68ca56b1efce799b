mod consistency;
mod every_key;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use vouchsafe_runtime::log_level::LogLevel;

use super::agent::Bootstrap;
use super::*;

const SERVER: &str = r#"
server {
    bind_address = "[::1]"
    bind_port = "8443"
    socket_path = "/run/s.sock"
    trust_domain = "example.org"
    data_dir = "/var/lib/s"
    log_level = "DEBUG"
    log_format = "json"
    ca_key_type = "rsa-2048"
    ca_ttl = "72h"
    default_x509_svid_ttl = "2h"
    default_jwt_svid_ttl = "10m"
    agent_ttl = "6h"
    jwt_issuer = "https://issuer.example.org"
    admin_ids = ["spiffe://example.org/admin"]
    ca_subject = { country = ["NL"], organization = ["Example"], common_name = "ca", }
    ratelimit { signing = false }
    audit_log_enabled = false
    experimental { events_based_cache = true }
}
plugins {
    DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "./db.sqlite3" max_open_conns = 5 } }
    KeyManager "disk" { plugin_data { keys_path = "./keys.json" } }
    NodeAttestor "join_token" { plugin_data {} }
    NodeAttestor "k8s_psat" { enabled = false plugin_data { clusters = {} } }
}
telemetry { Prometheus { port = 9988 } EnableTrustDomainLabel = true }
health_checks { listener_enabled = true bind_address = "0.0.0.0" bind_port = "8080" live_path = "/l" }
"#;

const AGENT: &str = r#"
agent {
    data_dir = "/var/lib/a"
    server_address = "server.example.org"
    server_port = 8081
    trust_bundle_path = "/etc/bundle.pem"
    trust_domain = "example.org"
    x509_svid_cache_max_size = 50
    allowed_foreign_jwt_claims = ["scope"]
    disable_sds_api = true
    experimental { sync_interval = "1s" }
}
plugins {
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { directory = "/var/lib/a" } }
    WorkloadAttestor "unix" { plugin_data { discover_workload_path = true workload_size_limit = 1000 } }
}
"#;

fn source(text: &str) -> Source {
    Source { path: "test.conf".to_owned(), text: text.to_owned() }
}

fn server_error(text: &str) -> String {
    server::load(&source(text), &server::Overrides::default()).unwrap_err().to_string()
}

fn agent_error(text: &str) -> String {
    agent::load(&source(text), &agent::Overrides::default()).unwrap_err().to_string()
}

#[test]
fn a_server_file_of_spire_is_read() {
    let config = server::load(&source(SERVER), &server::Overrides::default()).unwrap();
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("::1", 8443));
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!((config.ca_key_type, config.jwt_key_type), (KeyType::Rsa2048, KeyType::Rsa2048));
    assert_eq!(config.ca_ttl, Duration::from_secs(72 * 3600));
    assert_eq!(config.agent_ttl, Some(Duration::from_secs(6 * 3600)));
    assert_eq!(config.ca_subject.country, ["NL"]);
    assert_eq!(config.admin_ids[0].as_str(), "spiffe://example.org/admin");
    assert_eq!(config.rate_limits, server::RateLimits { attestation: true, signing: false });
    assert_eq!(config.data_store, server::DataStore::Sqlite { path: "./db.sqlite3".into() });
    assert_eq!(config.key_manager, server::KeyManager::Disk { keys_path: "./keys.json".into() });
    assert!(config.node_attestors.join_token);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
    let prometheus = config.telemetry.prometheus.unwrap();
    assert_eq!((prometheus.host.as_str(), prometheus.port), ("localhost", 9988));
    let health = config.health.unwrap();
    assert_eq!((health.port, health.live_path.as_str(), health.ready_path.as_str()), (8080, "/l", "/ready"));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn an_agent_file_of_spire_is_read() {
    let config = agent::load(&source(AGENT), &agent::Overrides::default()).unwrap();
    assert_eq!((config.server_address.as_str(), config.server_port), ("server.example.org", 8081));
    assert_eq!(config.apis.socket_path, Path::new("/tmp/spire-agent/public/api.sock"));
    let format = agent::BundleFormat::Pem;
    assert_eq!(config.bootstrap, Bootstrap::File { path: "/etc/bundle.pem".into(), format });
    assert_eq!(
        config.plugins.key_manager,
        agent::KeyManager::Disk { keys_path: "/var/lib/a/keys.json".into() }
    );
    let unix = config.plugins.unix.unwrap();
    assert_eq!((unix.discover_workload_path, unix.workload_size_limit), (true, 1000));
    assert_eq!((config.x509_svid_cache_max_size, config.jwt_svid_cache_max_size), (50, 1000));
    assert_eq!(config.experimental.sync_interval, Duration::from_secs(1));
    assert!(config.join_token.is_none() && config.health.is_none());
}

#[test]
fn json_is_read_like_hcl() {
    let json = r#"{
        "server": {"trust_domain": "example.org", "data_dir": "d"},
        "plugins": {
            "DataStore": [{"sql": {"plugin_data": {"database_type": "sqlite3", "connection_string": "db"}}}],
            "KeyManager": {"memory": {"plugin_data": {}}}
        }
    }"#;
    let config = server::load(&source(json), &server::Overrides::default()).unwrap();
    assert_eq!(config.data_store, server::DataStore::Sqlite { path: PathBuf::from("db") });
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("0.0.0.0", 8081));
}

#[test]
fn flags_win_over_the_file() {
    let flags = server::Overrides {
        bind_port: Some(1),
        trust_domain: Some("other.org".to_owned()),
        data_dir: Some(String::new()),
        log_level: Some("warn".to_owned()),
        ..server::Overrides::default()
    };
    let config = server::load(&source(SERVER), &flags).unwrap();
    assert_eq!((config.bind_port, config.trust_domain.as_str()), (1, "other.org"));
    assert_eq!((config.data_dir.as_path(), config.log.level), (Path::new("/var/lib/s"), LogLevel::Warn));

    let flags = agent::Overrides { join_token: Some("token".into()), ..agent::Overrides::default() };
    assert_eq!(agent::load(&source(AGENT), &flags).unwrap().join_token.as_deref(), Some("token"));
}

#[test]
fn every_problem_of_a_server_file_is_reported_with_its_place() {
    let text = r#"
server {
    trust_domian = "example.org"
    bind_port = "http"
    ca_ttl = "1d"
    default_x509_svid_ttl = "0s"
    profiling_enabled = true
    ca_key_type = "ed25519"
    data_dir = ["x"]
    log_level = "LOUD"
    admin_ids = ["not an id"]
    ca_subject { contry = ["US"] }
    agent_ttl = "1h"
    agent_ttl = "2h"
}
plugins {
    DataStore "sql" { plugin_data { database_type = "mysql" connection_string = "x" } }
    NodeAttestor "sshpop" { plugin_data { cert_authorities_path = "x" } }
    UpstreamAuthority "vault" { plugin_data { vault_addr = "x" } }
    KeyManagr "memory" {}
}
telemetry { InMem {} Statsd = [{ address = "a:1" }] }
"#;
    let expected = r#"16 problems in test.conf
  trust_domain must be configured
  data_dir must be configured
  test.conf:3:5: unknown configuration detected: key "trust_domian" in server; did you mean "trust_domain"?
  test.conf:4:17: server.bind_port: must be a whole number from 0 to 65535, not "http"
  test.conf:5:14: server.ca_ttl: time: unknown unit "d" in duration "1d"
  test.conf:6:29: server.default_x509_svid_ttl: must be at least 1s, not 0s
  test.conf:7:5: server.profiling_enabled is not supported yet: remove it and profile the process with `perf`
  test.conf:8:19: server.ca_key_type: key type "ed25519" is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]
  test.conf:9:16: server.data_dir must be a string, not a list
  test.conf:10:17: server.log_level: not a valid logrus Level: "LOUD"
"#;
    let error = server_error(text);
    assert!(error.contains(
        "unknown configuration detected: key \"contry\" in server.ca_subject; did you mean \"country\"?"
    ));
    assert!(
        error.contains("test.conf:14:5: server.agent_ttl is already set on line 13; keep one of the two")
    );
    assert!(error.contains("\"mysql\" is not supported yet: use \"sqlite3\" or \"postgres\""));
    assert!(error.contains(
        "test.conf:18:18: NodeAttestor \"sshpop\" is not supported yet: use \"join_token\", \"x509pop\" or \"k8s_psat\""
    ));
    assert!(error.contains("UpstreamAuthority \"vault\" is not supported yet"));
    assert!(error.contains("plugins: exactly one KeyManager must be configured and enabled, not 0"));
    assert!(error.contains("key \"KeyManagr\" in plugins; did you mean \"KeyManager\"?"));
    assert!(error.contains("telemetry.Statsd is not supported yet"));
    assert!(!error.contains("InMem") && !error.contains("cert_authorities_path"), "{error}");
    let head: String = error.lines().take(11).map(|line| format!("{line}\n")).collect();
    assert_eq!(
        head.lines().skip(1).collect::<Vec<_>>(),
        expected.lines().skip(1).collect::<Vec<_>>(),
        "{error}"
    );
}

#[test]
fn every_problem_of_an_agent_file_is_reported() {
    let text = r#"
agent {
    join_token = "a"
    join_token_file = "/nonexistent"
    insecure_bootstrap = true
    trust_bundle_path = "x"
    rebootstrap_mode = "sometimes"
    admin_socket_path = "/tmp/spire-agent/public/admin.sock"
    profiling_enabled = true
    workload_x509_svid_key_type = "rsa-4096"
    experimental { sync_interval = "1ms" broker {} }
}
plugins { WorkloadAttestor "systemd" {} KeyManager "memory" {} KeyManager "disk" {} }
"#;
    let error = agent_error(text);
    for expected in [
        "trust_domain must be configured",
        "server_address must be configured",
        "server_port must be configured",
        "only one of join_token or join_token_file can be specified, not both",
        "only one of insecure_bootstrap or trust_bundle_path can be specified, not both",
        "test.conf:7:5: unknown rebootstrap mode specified: sometimes",
        "test.conf:8:5: admin socket cannot be in the same directory",
        "test.conf:9:5: agent.profiling_enabled is not supported yet",
        "must be one of [rsa-2048, ec-p256, ec-p384]",
        "agent.experimental.sync_interval: must be at least 100ms",
        "WorkloadAttestor \"systemd\" is not supported yet: use \"unix\", \"docker\" or \"k8s\"",
        "exactly one NodeAttestor must be configured and enabled, not 0",
        "exactly one KeyManager must be configured and enabled, not 2",
        "directory must be configured",
    ] {
        assert!(error.contains(expected), "{expected}\n---\n{error}");
    }
    assert!(error.starts_with("14 problems in test.conf\n"), "{error}");
}

#[test]
fn a_broken_file_is_one_problem_with_its_place() {
    assert_eq!(server_error("server {\n  x = \n}"), "test.conf:3:1: expected a value, found `}`");
    assert_eq!(
        server_error(""),
        "2 problems in test.conf\n  plugins section must be configured\n  server section must be configured"
    );
}

#[test]
fn a_lifetime_that_the_ca_cannot_guarantee_is_a_warning() {
    let text = SERVER.replace("ca_ttl = \"72h\"", "ca_ttl = \"6h\"");
    let warnings = server::load(&source(&text), &server::Overrides::default()).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("Please set default_x509_svid_ttl to 1h or less, or the ca_ttl to 12h or more")
    );
}

#[test]
fn secrets_and_plugin_data_may_stand_in_files_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let data = directory.path().join("unix.conf");
    std::fs::write(&token, " secret-token \n").unwrap();
    std::fs::write(&data, "discover_workload_path = true\nbogus = 1").unwrap();
    let flags = agent::Overrides {
        join_token_file: Some(token.display().to_string()),
        ..agent::Overrides::default()
    };
    let config = agent::load(&source(AGENT), &flags).unwrap();
    assert_eq!(config.join_token.as_deref(), Some("secret-token"));
    assert!(!format!("{config:?}").contains("secret-token"));

    let text = AGENT.replace(
        "plugin_data { discover_workload_path = true workload_size_limit = 1000 }",
        &format!("plugin_data_file = {:?}", data.display().to_string()),
    );
    let error = agent_error(&text);
    assert!(error.contains("unix.conf:2:1: unknown configuration detected: key \"bogus\""), "{error}");
    std::fs::write(&data, "discover_workload_path = true").unwrap();
    let config = agent::load(&source(&text), &agent::Overrides::default()).unwrap();
    assert!(config.plugins.unix.unwrap().discover_workload_path);
}

#[test]
fn a_missing_file_names_the_flag_to_use() {
    let error = Source::load("/nonexistent/server.conf", None).unwrap_err().to_string();
    assert_eq!(error, "could not find config file /nonexistent/server.conf: please use the -config flag");
}

proptest! {
    /// Whatever single line of a good file is lost, doubled or cut, reading it ends in a configuration or in problems.
    #[test]
    fn a_damaged_file_is_read_or_refused_without_a_panic(line in 0usize..60, cut in 0usize..80, double: bool) {
        for text in [SERVER, AGENT] {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let index = line % lines.len();
            if double {
                lines.insert(index, lines[index].clone());
            } else {
                let length = cut.min(lines[index].len());
                lines[index].truncate(length);
            }
            let source = source(&lines.join("\n"));
            for problems in [
                server::load(&source, &server::Overrides::default()).err(),
                agent::load(&source, &agent::Overrides::default()).err(),
            ].into_iter().flatten() {
                prop_assert!(!problems.problems.is_empty());
            }
        }
    }
}

#[test]
fn metrics_over_tls_are_configured_as_in_spire() {
    let with =
        |tls: &str| SERVER.replacen("Prometheus {", &format!("Prometheus {{\n tls {{\n{tls}\n}}\n"), 1);
    let read = |tls: &str| {
        let config = server::load(&source(&with(tls)), &server::Overrides::default()).unwrap();
        config.telemetry.prometheus.unwrap().tls.unwrap()
    };
    let files = "cert_file = \"c\"\n key_file = \"k\"\n";
    assert_eq!(
        read(&format!("{files} client_ca_file = \"a\"")),
        MetricsTls {
            certificate: MetricsCertificate::Files { cert_file: "c".into(), key_file: "k".into() },
            clients: MetricsClients::IssuedBy("a".into()),
        }
    );
    let by_id = "authorized_spiffe_ids = [\"spiffe://example.org/p\"]";
    assert_eq!(
        read(&format!("use_spire_svid = true\n {by_id}")),
        MetricsTls {
            certificate: MetricsCertificate::OwnSvid,
            clients: MetricsClients::SpiffeIds(vec!["spiffe://example.org/p".parse().unwrap()]),
        }
    );
    assert_eq!(read(files).clients, MetricsClients::Anyone);
    for (tls, problem) in [
        ("", "cert_file and key_file must both be configured unless use_spire_svid is enabled"),
        (
            "cert_file = \"c\"",
            "cert_file and key_file must both be configured unless use_spire_svid is enabled",
        ),
        (
            &*format!("use_spire_svid = true\n {files}"),
            "cert_file and key_file cannot be configured when use_spire_svid is enabled",
        ),
        (
            &*format!("{files} {by_id}\n client_ca_file = \"a\""),
            "client_ca_file cannot be configured with authorized_spiffe_ids",
        ),
        (&*format!("{files} authorized_spiffe_ids = [\"x\"]"), "invalid authorized SPIFFE ID \"x\""),
        (&*format!("{files} other = 1"), "unknown configuration"),
    ] {
        let refused = server_error(&with(tls));
        assert!(refused.contains(problem), "{tls}: {refused}");
    }
}
