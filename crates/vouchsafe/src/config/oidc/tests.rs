use std::collections::BTreeSet;

use vouchsafe_runtime::log_level::LogLevel;

use super::*;
use crate::config::Source as Text;

const EVERY_KEY: &str = include_str!("../testdata/oidc_every_key.conf");
const MANUAL: &str = include_str!("../../../../../docs/oidc.md");

fn text(text: &str) -> Text {
    Text { path: "oidc.conf".to_owned(), text: text.to_owned() }
}

/// What a file with these lines, and otherwise a good one, leads to.
fn said(lines: &str) -> String {
    let good = |key: &str, line: &str| if lines.contains(key) { String::new() } else { format!("{line}\n") };
    let source = ["server_api", "workload_api", "\nfile {"].iter().any(|key| lines.contains(key));
    let whole = [
        good("domains", "domains = [\"localhost\"]"),
        if source { String::new() } else { "file { path = \"b\" }\n".to_owned() },
        lines.to_owned(),
    ];
    match load(&text(&whole.concat())) {
        Ok(config) => config.warnings.join("\n"),
        Err(invalid) => {
            invalid.problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("\n")
        }
    }
}

const SOCKET: &str = "listen_socket_path = \"/s\"";

#[test]
fn every_key_is_followed_or_refused_where_it_stands() {
    let invalid = load(&text(EVERY_KEY)).unwrap_err();
    let marked: BTreeSet<u32> = (1..)
        .zip(EVERY_KEY.lines())
        .filter(|(_, line)| line.ends_with("# refused"))
        .map(|(line, _)| line)
        .collect();
    let refused: BTreeSet<u32> =
        invalid.problems.iter().map(|problem| problem.position.unwrap().line).collect();
    assert_eq!(refused, marked, "{invalid}");
    assert!(!invalid.to_string().contains("unknown configuration"), "{invalid}");
}

#[test]
fn every_value_arrives() {
    let common: String = EVERY_KEY
        .lines()
        .take_while(|line| !line.starts_with("listen_socket_path"))
        .fold(String::new(), |text, line| text + line + "\n");
    let with = |rest: &str| load(&text(&format!("{common}{rest}"))).unwrap();
    let config = with(
        "listen_socket_path = \"/run/o\"\nserver_api { address = \"unix:///run/s\" poll_interval = \"5s\" }",
    );
    assert_eq!(config.listener, Listener::Socket("/run/o".into()));
    assert_eq!(config.source, Source::ServerApi { socket: "/run/s".into() });
    assert_eq!(config.poll_interval, Duration::from_secs(5));
    assert!(config.allow_insecure_scheme && config.set_key_use && config.log_requests);
    let (live_path, ready_path) = ("/alive".to_owned(), "/serving".to_owned());
    assert_eq!(config.health, Some(Health { port: 9008, live_path, ready_path }));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
    assert_eq!(config.log.file.unwrap().to_str(), Some("/var/log/oidc.log"));
    let document = config.discovery.document("https", "x");
    let document = String::from_utf8_lossy(&document);
    assert!(document.contains("https://login.example.org\"") && document.contains("cdn.example.org/keys"));
    config.hosts.check("localhost:1").unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);

    let rest = "serving_cert_file { cert_file_path = \"c\" key_file_path = \"k\" file_sync_interval = \"30s\" addr = \"[::1]:8443\" }\n\
        workload_api { socket_path = \"/run/w\" trust_domain = \"example.org\" }";
    let config = with(rest);
    let serving = ServingCert {
        address: "[::1]:8443".to_owned(),
        cert_file: "c".into(),
        key_file: "k".into(),
        sync_interval: Duration::from_secs(30),
    };
    assert_eq!(config.listener, Listener::ServingCert(serving));
    let trust_domain = vouchsafe_types::TrustDomain::parse("example.org").unwrap();
    assert_eq!(config.source, Source::WorkloadApi { socket: "/run/w".into(), trust_domain });

    let config = with("insecure_addr = \":8080\"\nfile { path = \"b.json\" poll_interval = \"0s\" }");
    assert_eq!(config.listener, Listener::Insecure(":8080".to_owned()));
    assert_eq!(
        (config.source, config.poll_interval),
        (Source::File { path: "b.json".into() }, DEFAULT_POLL_INTERVAL)
    );
}

#[test]
fn problems_are_told_in_spires_words() {
    let check = |lines: &str, expected: &str| assert_eq!(said(lines), expected, "{lines}");
    check(SOCKET, "");
    check("", "either acme, serving_cert_file, insecure_addr or listen_socket_path must be configured");
    let with_socket = |line: &str, expected: &str| check(&format!("{SOCKET}\n{line}"), expected);
    with_socket("domains = []", "at least one domain must be configured");
    with_socket("domains = [\"A.org\"]", "domain \"A.org\" must already be punycode encoded");
    with_socket("insecure_addr = \":1\"", "insecure_addr and listen_socket_path are mutually exclusive");
    let exclusive = "the server_api, workload_api, and file sections are mutually exclusive";
    with_socket("file { path = \"b\" }\nserver_api { address = \"unix:/a\" }", exclusive);
    with_socket("server_api {}", "address must be configured in the server_api configuration section");
    let unix = "address must use the unix name system in the server_api configuration section, for example \
        unix:///tmp/spire-server/private/api.sock";
    with_socket("server_api { address = \"tcp://x\" }", unix);
    with_socket(
        "server_api { address = \"unix://a/b\" }",
        "address must name an absolute path: unix:///path",
    );
    let no_socket = "socket_path must be configured in the workload_api configuration section";
    with_socket("workload_api { trust_domain = \"a\" }", no_socket);
    let no_domain = "trust_domain must be configured in the workload_api configuration section";
    with_socket("workload_api { socket_path = \"/a\" }", no_domain);
    with_socket("jwt_issuer = \"example.org\"", "the jwt_issuer url must contain a scheme");
    with_socket("jwt_issuer = \"https:a\"", "the jwt_issuer url must contain a host");
    with_socket("jwks_uri = \"/keys\"", "the jwks_uri setting could not be parsed: must contain a scheme");
    with_socket("frobnicate = true", "unknown configuration detected: key \"frobnicate\" at the top level");
    let no_cert = "cert_file_path must be configured in the serving_cert_file configuration section";
    check("serving_cert_file { key_file_path = \"k\" }", no_cert);
    check("insecure_addr = \"8080\"", "insecure_addr: must be host:port or :port");
    assert!(said("acme { email = \"x\" }").starts_with("acme is not supported: obtain the certificate"));
}

#[test]
fn the_page_has_every_key_that_is_read() {
    let problems = Problems::default();
    read(&text(EVERY_KEY).parse().unwrap(), &problems);
    let keys: BTreeSet<_> = problems.known_keys().into_iter().map(|(_, key)| key).collect();
    assert!(keys.len() > 25, "{keys:?}");
    let missing: Vec<_> = keys.into_iter().filter(|key| !MANUAL.contains(&format!("`{key}"))).collect();
    assert!(missing.is_empty(), "not in docs/oidc.md: {missing:?}");
}
