//! Help, wrong arguments, files and sockets.

use vouchsafe::cli::Part;

use crate::{golden, run, run_words};

/// What is called by another name than the grammar's, besides every command in the order of the help.
const OTHER_NAMES: [&str; 5] = [
    "/usr/bin/spire-server",
    "spire-server entry create",
    "spire-agent",
    "spire-agent api fetch jwt",
    "oidc-discovery-provider",
];

#[test]
fn help_is_as_reviewed() {
    let mut text = String::new();
    let commands = crate::reference::commands(Part::All).into_iter().map(|command| command.words);
    for command in commands.chain(OTHER_NAMES.map(str::to_owned)) {
        let outcome = run(&format!("{command} -h"), "", &[]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{command}");
        text.push_str(&format!("==== {command}\n{}\n", outcome.stdout));
    }
    golden::check("help.txt", &text);
}

#[test]
fn wrong_arguments_are_explained_and_end_like_those_of_spire() {
    let mut text = String::new();
    for (command, code) in [
        ("vouchsafe", 127),
        ("vouchsafe bogus", 127),
        ("vouchsafe server", 127),
        ("spire-server bogus", 127),
        ("spire-server entry", 1),
        ("spire-server entry bogus", 1),
        ("spire-server entry create -selctor unix:uid:1", 1),
        ("spire-server entry create -x509SVIDTTL soon", 1),
        ("spire-server entry create -admin=maybe", 1),
        ("spire-server entry create extra", 1),
        ("spire-server token generate -ttl", 1),
        ("spire-server x509 mint -ttl 1d", 1),
        ("spire-server agent list -output yaml", 1),
        ("vouchsafe up --server-port 99999", 1),
        ("vouchsafe completion tcsh", 1),
    ] {
        let outcome = run(command, "", &[]);
        assert_eq!(outcome.code, code, "{command}\n{}{}", outcome.stdout, outcome.stderr);
        text.push_str(&golden::section(command, &outcome));
    }
    golden::check("usage_errors.txt", &text);
}

#[test]
fn the_version_is_printed_in_both_styles() {
    let version = concat!(env!("CARGO_PKG_VERSION"), "\n");
    let outcome = run("vouchsafe --version", "", &[]);
    assert_eq!((outcome.code, outcome.stdout), (0, format!("vouchsafe {version}")));
    // SPIRE's programs print it alone, and on standard error.
    for command in ["spire-server -version", "spire-agent -v", "spire-agent --version"] {
        let outcome = run(command, "", &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "", version));
    }
    let outcome = run("oidc-discovery-provider -version", "", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, version, ""));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = run(&format!("vouchsafe completion {shell}"), "", &[]);
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout.contains("healthcheck") && outcome.stdout.contains("socketPath"), "{shell}");
    }
}

#[test]
fn a_configuration_file_is_validated_with_every_problem() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.conf");
    let good = "server { trust_domain = \"${TD}\" data_dir = \"d\" }\n\
        plugins { DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" connection_string = \"db\" } } KeyManager \"memory\" {} }";
    std::fs::write(&path, good).unwrap();
    let path = path.display().to_string();
    let variables = [("TD", "example.org")];
    let outcome = run(&format!("spire-server validate -config {path} -expandEnv"), "", &variables);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "SPIRE server configuration file is valid.\n"),
        "{}",
        outcome.stderr
    );

    let outcome = run(&format!("spire-server validate -config {path}"), "", &variables);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.starts_with("SPIRE server configuration file is invalid: "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("could not parse trust_domain \"${TD}\""), "{}", outcome.stderr);

    let outcome = run("spire-agent validate -config /nonexistent.conf", "", &[]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stderr,
        "SPIRE agent configuration file is invalid: could not find config file /nonexistent.conf: please use the -config flag\n"
    );
}

#[test]
fn a_missing_socket_is_an_error_at_once_that_says_what_to_do() {
    for command in ["entry count", "agent list", "token generate", "bundle show", "logger get"] {
        let outcome = run(&format!("vouchsafe server {command} -socketPath /does-not-exist.sock"), "", &[]);
        let expected = "code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
            dial unix ///does-not-exist.sock: connect: no such file or directory\"\n\
            Hint: Start it with `vouchsafe server run` or `vouchsafe up`, or name its socket with -socketPath.\n";
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
        let before = if command == "logger get" { "error fetching logger: " } else { "" };
        assert_eq!(outcome.stderr, format!("Error: {before}rpc error: {expected}"));
    }
    let outcome = run("spire-agent api fetch -socketPath /does-not-exist.sock", "", &[]);
    assert!(outcome.stderr.contains("connect: no such file or directory") && outcome.code == 1);
    let outcome = run("spire-agent healthcheck -verbose -socketPath /does-not-exist.sock", "", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "Checking agent health...\n"));
    assert!(
        outcome.stderr.ends_with("Agent is unhealthy: unable to determine health\n"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_socket_without_a_listener_is_named_as_left_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let outcome = run(&format!("vouchsafe server agent count -socketPath {}", path.display()), "", &[]);
    assert!(
        outcome.stderr.contains("connection refused") && outcome.stderr.contains("left over"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_socket_comes_from_flag_template_variable_or_default() {
    let show = |flags: &str, environment: &[(&str, &str)]| {
        let words = format!("spire-server bundle count {flags}");
        run(words.trim_end(), "", environment).stderr
    };
    let variable = ("SPIRE_SERVER_PRIVATE_SOCKET", "/variable.sock");
    let template = ("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE", "/run/%i.sock");
    assert!(show("-socketPath /flag.sock -instance a", &[variable, template]).contains("unix ///flag.sock:"));
    assert!(show("-instance a", &[variable, template]).contains("unix ///run/a.sock:"));
    assert!(show("", &[variable, template]).contains("unix ///variable.sock:"));
    assert!(
        show("-socketPath /tmp/spire-server/private/api.sock", &[variable])
            .contains("unix ///variable.sock:")
    );
    assert!(
        show("-instance a", &[variable]).contains("you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE")
    );
    let bad = ("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE", "/run/x.sock");
    assert!(
        show("-instance a", &[bad]).contains("failed to find %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE")
    );
}

#[test]
fn up_refuses_flags_that_cannot_work() {
    let outcome =
        run_words(&["vouchsafe", "up", "--trust-domain", "Not A Domain", "--log-level", "loud"], "", &[]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.stderr.lines().count(), 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--data-dir is needed"));
}
