use super::*;

fn parse(text: &str) -> Result<Config, Invalid> {
    parse_with(text, &[])
}

fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, Invalid> {
    let source = Source { path: "helper.conf".to_owned(), text: text.to_owned() };
    let lookup = |name: &str| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    load(&source, None, &lookup)
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = parse(text).unwrap_err().to_string();
    assert_eq!(error, expected);
}

const X509: &str = r#"
svid_file_name = "svid.pem"
svid_key_file_name = "svid_key.pem"
svid_bundle_file_name = "svid_bundle.pem"
"#;

#[test]
fn every_key_of_spiffe_helper_is_read() {
    let config = parse(
        r#"
agent_address = "/tmp/spire-agent/public/api.sock"
cmd = "ghostunnel"
cmd_args = "server --listen \"a b\""
pid_file_name = "/run/g.pid"
cert_dir = "certs"
daemon_mode = true
renew_signal = "SIGUSR1"
svid_file_name = "svid.pem"
svid_key_file_name = "svid_key.pem"
svid_bundle_file_name = "svid_bundle.pem"
add_intermediates_to_bundle = true
include_federated_domains = true
omit_expired = true
hint = "internal"
jwt_svids = [
  { jwt_audience = "a", jwt_extra_audiences = ["b", "c"], jwt_svid_file_name = "jwt_svid.token" },
  { jwt_audience = "d", jwt_svid_file_name = "other.token" },
]
jwt_bundle_file_name = "bundle.json"
cert_file_mode = 0444
key_file_mode = 0400
jwt_bundle_file_mode = 0440
jwt_svid_file_mode = 0600
health_checks {
  listener_enabled = true
  bind_port = 8082
  liveness_path = "/l"
  readiness_path = "/r"
}
"#,
    )
    .unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    let jwt = |name: &str, audience: &[&str]| JwtSvidFile {
        name: name.to_owned(),
        mode: 0o600,
        audience: audience.iter().map(ToString::to_string).collect(),
    };
    let settings = Settings {
        socket: "/tmp/spire-agent/public/api.sock".into(),
        folder: "certs".into(),
        replacement: Replacement::EachFile,
        x509: Some(X509Files {
            certificates: "svid.pem".to_owned(),
            key: "svid_key.pem".to_owned(),
            bundle: "svid_bundle.pem".to_owned(),
            certificate_mode: 0o444,
            key_mode: 0o400,
            intermediates_in_bundle: true,
            federated: true,
            omit_expired: true,
        }),
        jwt_bundle: Some(JwtBundleFile { name: "bundle.json".to_owned(), mode: 0o440 }),
        jwt_svids: vec![jwt("jwt_svid.token", &["a", "b", "c"]), jwt("other.token", &["d"])],
        hint: "internal".to_owned(),
        program: ProgramSettings {
            command: Some(("ghostunnel".into(), ["server", "--listen", "a b"].map(str::to_owned).to_vec())),
            pid_file: Some("/run/g.pid".into()),
            signal: Some(Signal::SIGUSR1),
        },
    };
    assert_eq!(config.settings, settings);
    let health = Health { port: 8082, live_path: "/l".to_owned(), ready_path: "/r".to_owned() };
    assert_eq!((config.daemon, config.health), (true, Some(health)));
}

#[test]
fn examples_of_spiffe_helper_are_read_as_they_are() {
    for (example, text) in [
        ("helper.conf", include_str!("testdata/helper.conf")),
        ("mysql.conf", include_str!("testdata/mysql.conf")),
        ("postgresql.conf", include_str!("testdata/postgresql.conf")),
        ("jwt.conf", include_str!("testdata/jwt.conf")),
    ] {
        let config = parse(text).unwrap_or_else(|error| panic!("{example}: {error}"));
        assert!(config.settings.x509.is_some(), "{example}");
    }
}

#[test]
fn what_is_absent_has_the_defaults_of_spiffe_helper() {
    let config = parse(X509).unwrap();
    let x509 = config.settings.x509.unwrap();
    assert_eq!((x509.certificate_mode, x509.key_mode), (0o644, 0o600));
    assert_eq!(config.settings.socket, PathBuf::from(DEFAULT_SOCKET_PATH));
    assert!(config.daemon && config.health.is_none() && !x509.omit_expired);
}

#[test]
fn the_environment_names_the_socket_where_the_file_does_not() {
    let socket =
        |text: &str, environment: &[(&str, &str)]| parse_with(text, environment).unwrap().settings.socket;
    assert_eq!(socket(X509, &[(VARIABLE, "unix:///run/a.sock")]), PathBuf::from("/run/a.sock"));
    assert_eq!(socket(X509, &[(OLD_VARIABLE, "/run/a.sock")]), PathBuf::from("/run/a.sock"));
    let text = format!("agent_address = \"/run/b.sock\"\n{X509}");
    assert_eq!(socket(&text, &[(VARIABLE, "/run/a.sock")]), PathBuf::from("/run/b.sock"));
    assert!(parse_with(X509, &[(VARIABLE, "/a"), (OLD_VARIABLE, "/b")]).is_err());
    assert!(parse_with(X509, &[(VARIABLE, "tcp://127.0.0.1:1")]).is_err());
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    refused(
        "",
        "at least one of the sets ('svid_file_name', 'svid_key_file_name', 'svid_bundle_file_name'), 'jwt_svids', or 'jwt_bundle_file_name' must be fully specified",
    );
    refused(
        "svid_file_name = \"a\"",
        "all or none of 'svid_file_name', 'svid_key_file_name', 'svid_bundle_file_name' must be specified",
    );
    refused(
        &format!("{X509}renew_signal = \"SIGNOPE\"\nkey_file_mode = 9999\ncertdir = \"x\""),
        "3 problems in helper.conf\n  \
         helper.conf:5:16: renew_signal: \"SIGNOPE\" is no signal; use a name such as SIGHUP\n  \
         helper.conf:6:17: key_file_mode: must be a file mode from 0 to 0777, not \"9999\"\n  \
         helper.conf:7:1: unknown configuration detected: key \"certdir\" at the top level; did you mean \"cert_dir\"?",
    );
    refused(
        "jwt_svids = [{ jwt_audience = \"a\", nope = 1 }]",
        "2 problems in helper.conf\n  \
         helper.conf:1:14: 'jwt_svid_file_name' is required in 'jwt_svids'\n  \
         helper.conf:1:36: unknown configuration detected: key \"nope\" in jwt_svids",
    );
    refused(
        &format!("{X509}pid_file_name = \"p\""),
        "helper.conf:5:1: must specify renew_signal when using pid_file_name",
    );
    refused(
        &format!("{X509}cmd = \"x\"\ncmd_args = \"a\\\"b\""),
        "helper.conf:6:12: cmd_args: \"a\\\"b\" has a double quote in it: put the whole argument in quotes and double those inside",
    );
    refused(
        "svid_file_name = \"a\"\nsvid_key_file_name = \"a\"\nsvid_bundle_file_name = \"b\"",
        "helper.conf:1:1: svid_file_name and svid_key_file_name are the same file, \"a\"",
    );
    refused(
        &format!("{X509}replace_all_at_once = true\njwt_bundle_file_name = \"sub/b.json\""),
        "helper.conf:6:1: jwt_bundle_file_name: \"sub/b.json\": with replace_all_at_once a name may not have / in it or begin with ..",
    );
}

#[test]
fn a_mode_without_a_leading_zero_is_decimal_and_that_is_told() {
    let config = parse(&format!("{X509}cert_file_mode = 444")).unwrap();
    assert_eq!(config.settings.x509.unwrap().certificate_mode, 0o674);
    assert_eq!(
        config.warnings,
        ["cert_file_mode = 444 has no leading zero, so it is read as decimal and means 0674"]
    );
    let zero = parse(&format!("{X509}cert_file_mode = 0")).unwrap();
    assert_eq!(zero.settings.x509.unwrap().certificate_mode, 0o644);
}

#[test]
fn old_names_are_read_with_a_warning() {
    let config = parse(
        r#"
agentAddress = "/run/a.sock"
certDir = "certs"
renewSignal = "SIGHUP"
svidFileName = "svid.pem"
svidKeyFileName = "svid_key.pem"
svidBundleFileName = "svid_bundle.pem"
timeout = "10s"
"#,
    )
    .unwrap();
    assert_eq!(config.settings.folder, PathBuf::from("certs"));
    assert_eq!(config.warnings.len(), 7);
}

#[test]
fn one_shot_has_nobody_to_tell() {
    let one_shot = format!("{X509}daemon_mode = false\nrenew_signal = \"SIGHUP\"\n");
    let config = parse(&format!("{one_shot}cmd = \"x\"")).unwrap();
    assert_eq!(config.warnings.len(), 2);
    refused(
        &format!("{one_shot}pid_file_name = \"p\""),
        "helper.conf:7:1: pid_file_name is set but daemon_mode is false; pid_file_name is only supported in daemon_mode",
    );
}
