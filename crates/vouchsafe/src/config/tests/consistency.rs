//! What keys say together.

use super::*;

/// One line of a server's section is replaced or added, and what that leads to.
fn server_with(line: &str) -> String {
    let text = SERVER.replace("    audit_log_enabled = false\n", &format!("    {line}\n"));
    match server::load(&source(&text), &server::Overrides::default()) {
        Ok(config) => config.warnings.join("\n"),
        Err(invalid) => invalid.to_string(),
    }
}

fn agent_with(lines: &str) -> String {
    let text = AGENT.replace("    disable_sds_api = true\n", &format!("    {lines}\n"));
    match agent::load(&source(&text), &agent::Overrides::default()) {
        Ok(config) => config.warnings.join("\n"),
        Err(invalid) => invalid.to_string(),
    }
}

fn check(said: &str, expected: &str) {
    let clean = expected.is_empty() == said.is_empty();
    assert!(clean && said.contains(expected), "expected {expected:?}\n---\n{said}");
    assert!(said.lines().count() <= 1, "{said}");
}

#[test]
fn federation_of_a_server_is_checked_in_spires_words() {
    let endpoint =
        |inner: &str| server_with(&format!("federation {{ bundle_endpoint {{ port = 1 {inner} }} }}"));
    check(&endpoint("profile \"https_spiffe\" {}"), "");
    check(
        &endpoint(""),
        "Bundle endpoint is configured but has no profile set, using https_spiffe as default",
    );
    check(&endpoint("profile \"https_spiffe\" {} refresh_hint = \"10s\""), "refresh hint set too low");
    check(
        &endpoint("profile \"https_spiffe\" {} refresh_hint = \"24h\""),
        "refresh hint set to a high value",
    );
    let both = "profile \"https_spiffe\" {} profile \"https_web\" { serving_cert_file { cert_file_path = \"c\" key_file_path = \"k\" } }";
    check(&endpoint(both), "exactly one bundle endpoint profile is expected");
    check(&endpoint("profile \"bogus\" {}"), "unknown bundle endpoint profile configured");
    check(&endpoint("profile \"https_web\" {}"), "malformed https_web profile configuration");
    check(
        &endpoint("profile \"https_web\" { acme { domain_name = \"d\" } }"),
        "profile \"https_web\".acme is not supported yet: use serving_cert_file",
    );
    check(
        &server_with("federation { bundle_endpoint { profile \"https_spiffe\" {} } }"),
        "server.federation.bundle_endpoint.port must be configured",
    );

    let peer =
        |inner: &str| server_with(&format!("federation {{ federates_with \"one.test\" {{ {inner} }} }}"));
    let url = "bundle_endpoint_url = \"https://one.test\"";
    let web = "bundle_endpoint_profile \"https_web\" {}";
    check(&peer(&format!("{url} {web}")), "");
    check(&peer(web), "federation.federates_with[\"one.test\"].bundle_endpoint_url must be configured");
    check(
        &peer(&format!("bundle_endpoint_url = \"http://one.test\" {web}")),
        "bundle_endpoint_url must use the HTTPS protocol; URL found: \"http://one.test\"",
    );
    check(
        &peer(url),
        "federation configuration for trust domain \"one.test\": missing bundle endpoint configuration",
    );
    check(
        &peer(&format!("{url} bundle_endpoint_profile \"https_spiffe\" {{}}")),
        "error parsing federation relationship for trust domain \"one.test\": could not get endpoint SPIFFE ID",
    );
    check(&peer(&format!("{url} bundle_endpoint_profile \"x\" {{}}")), "no bundle endpoint profile defined");
}

#[test]
fn blocks_with_names_are_read_from_json_too() {
    let json = r#"{
        "server": {
            "trust_domain": "example.org",
            "data_dir": "d",
            "federation": {
                "bundle_endpoint": {"port": 8443, "profile": [{"https_spiffe": {}}]},
                "federates_with": {
                    "one.test": {
                        "bundle_endpoint_url": "https://one.test",
                        "bundle_endpoint_profile": {"https_web": {}}
                    }
                }
            }
        },
        "plugins": {
            "DataStore": {"sql": {"plugin_data": {"database_type": "sqlite3", "connection_string": "db"}}},
            "KeyManager": {"memory": {}},
            "NodeAttestor": [
                {"join_token": {"plugin_data": {}}},
                {"x509pop": {"plugin_data": {"ca_bundle_paths": ["a", "b"]}}}
            ]
        },
        "telemetry": {"Prometheus": {"port": 9988}, "AllowedLabels": ["status"]}
    }"#;
    let config = server::load(&source(json), &server::Overrides::default()).unwrap();
    let endpoint = config.federation.bundle_endpoint.unwrap();
    assert_eq!((endpoint.port, endpoint.profile), (8443, server::EndpointProfile::HttpsSpiffe));
    assert_eq!(config.federation.federates_with[0].trust_domain.as_str(), "one.test");
    let ca_bundle_paths = vec!["a".into(), "b".into()];
    let mode = server::X509PopMode::ExternalPki { ca_bundle_paths };
    assert_eq!(config.node_attestors.x509pop.unwrap().mode, mode);
    assert_eq!(config.telemetry.filter.allowed_labels, ["status"]);
}

#[test]
fn other_keys_of_a_server_are_checked_in_spires_words() {
    check(
        &server_with("proxy_protocol_trusted_cidrs = [\"10.0.0.0/40\"]"),
        "invalid proxy_protocol_trusted_cidrs value \"10.0.0.0/40\": invalid CIDR address: 10.0.0.0/40",
    );
    check(&server_with("prune_attested_nodes_expired_for = \"1w\""), "time: unknown unit \"w\"");
    check(&server_with("max_attested_node_info_staleness = \"x\""), "time: invalid duration");
}

#[test]
fn plugins_of_a_server_are_checked_in_spires_words() {
    let pop = |data: &str| with_plugin(&format!("NodeAttestor \"x509pop\" {{ plugin_data {{ {data} }} }}"));
    check(&pop("ca_bundle_path = \"x\""), "");
    check(&pop("mode = \"spiffe\""), "");
    check(&pop(""), "one of ca_bundle_path or ca_bundle_paths must be configured");
    check(
        &pop("ca_bundle_path = \"x\" ca_bundle_paths = [\"y\"]"),
        "only one of ca_bundle_path or ca_bundle_paths can be configured, not both",
    );
    check(
        &pop("mode = \"spiffe\" ca_bundle_path = \"x\""),
        "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode",
    );
    check(&pop("mode = \"x\""), "mode can only be either spiffe or external_pki");
    check(&pop("ca_bundle_path = \"x\" max_intermediates = 0"), "max_intermediates must be greater than 0");
    check(&pop("ca_bundle_path = \"x\" max_rsa_key_size = -1"), "max_rsa_key_size must be greater than 0");
    check(
        &pop("ca_bundle_path = \"x\" agent_path_template = \"{{ .Nope }}\""),
        "failed to parse agent svid template: \"{{ .Nope }}\"",
    );
    check(
        &with_plugin("UpstreamAuthority \"disk\" { plugin_data { cert_file_path = \"x\" } }"),
        "'cert_file_path' and 'key_file_path' must be set and not empty",
    );
    check(
        &with_plugin(
            "UpstreamAuthority \"spire\" { plugin_data { server_address = \"a\" server_port = \"1\" } }",
        ),
        "workload_api_socket is required",
    );
    check(
        &with_plugin("UpstreamAuthority \"vault\" { plugin_data { vault_addr = \"a\" } }"),
        "UpstreamAuthority \"vault\" is not supported yet: use \"disk\" or \"spire\"",
    );
    let disk = "plugin_data { cert_file_path = \"x\" key_file_path = \"y\" }";
    let spire = "plugin_data { server_address = \"a\" server_port = \"1\" workload_api_socket = \"s\" }";
    check(
        &with_plugin(&format!(
            "UpstreamAuthority \"disk\" {{ {disk} }} UpstreamAuthority \"spire\" {{ {spire} }}"
        )),
        "at most one UpstreamAuthority can be configured and enabled, not 2",
    );
    check(
        &with_plugin(&format!(
            "UpstreamAuthority \"disk\" {{ {disk} }} UpstreamAuthority \"spire\" {{ enabled = false {spire} }}"
        )),
        "",
    );
}

/// What a server says that has this plugin too.
fn with_plugin(text: &str) -> String {
    let off = "    NodeAttestor \"k8s_psat\" { enabled = false plugin_data { clusters = {} } }\n";
    let text = SERVER
        .replace(off, "")
        .replace("    NodeAttestor \"join_token\"", &format!("    {text}\n    NodeAttestor \"join_token\""));
    match server::load(&source(&text), &server::Overrides::default()) {
        Ok(config) => config.warnings.join("\n"),
        Err(invalid) => invalid.to_string(),
    }
}

#[test]
fn clusters_whose_agents_are_attested_are_checked_in_spires_words() {
    let psat = |clusters: &str| {
        with_plugin(&format!("NodeAttestor \"k8s_psat\" {{ plugin_data {{ clusters = {clusters} }} }}"))
    };
    check(&psat("{ \"main\" = { service_account_allow_list = [\"a:b\"] } }"), "");
    check(&psat("{ \"a/b\" = { service_account_allow_list = [\"a:b\"] audience = [] } }"), "");
    check(&psat("{}"), "No clusters configured, PSAT attestation is effectively disabled");
    check(
        &psat("{ \"main\" = { audience = [\"x\"] } }"),
        "cluster \"main\" configuration must have at least one service account allowed",
    );
    check(
        &psat("{ \"main\" = { service_account_allow_list = [\"agent\"] } }"),
        "\"agent\" is nobody: a service account is written \"namespace:name\"",
    );
    check(
        &psat("{ \"ma in\" = { service_account_allow_list = [\"a:b\"] } }"),
        "cluster name \"ma in\" cannot be part of a SPIFFE ID",
    );
    check(
        &psat("{ \"main\" = { service_account_allow_list = [\"a:b\"] audiences = [\"x\"] } }"),
        "unknown configuration detected: key \"audiences\"",
    );
}

#[test]
fn the_token_of_a_pod_is_where_spire_expects_it_unless_told() {
    let with = |data: &str| {
        let plugin = format!("NodeAttestor \"k8s_psat\" {{ plugin_data {{ {data} }} }}");
        let text = AGENT.replace("NodeAttestor \"join_token\" { plugin_data {} }", &plugin);
        agent::load(&source(&text), &agent::Overrides::default())
    };
    let chosen = |data: &str| match with(data).unwrap().plugins.node_attestor {
        agent::NodeAttestor::K8sPsat(psat) => (psat.cluster, psat.token_path.display().to_string()),
        other => panic!("{other:?}"),
    };
    let usual = "/var/run/secrets/tokens/spire-agent";
    assert_eq!(chosen("cluster = \"main\""), ("main".to_owned(), usual.to_owned()));
    assert_eq!(chosen("cluster = \"main\" token_path = \"/t\""), ("main".to_owned(), "/t".to_owned()));
    check(&with("token_path = \"/t\"").unwrap_err().to_string(), "missing required cluster block");
    check(
        &with("cluster = \"main\" token = \"/t\"").unwrap_err().to_string(),
        "unknown configuration detected: key \"token\"",
    );
}

#[test]
fn sources_of_the_bundle_exclude_each_other_in_spires_words() {
    let path = "trust_bundle_path = \"/etc/bundle.pem\"\n";
    let with = |lines: &str| {
        let text = AGENT.replace(path, &format!("{lines}\n"));
        match agent::load(&source(&text), &agent::Overrides::default()) {
            Ok(config) => config.warnings.join("\n"),
            Err(invalid) => invalid.to_string(),
        }
    };
    let url = "trust_bundle_url = \"https://web/bundle\"";
    let api = "trust_bundle_spiffe_workload_api = \"unix:///run/api.sock\"";
    check(&with(url), "");
    check(&with(api), "");
    check(&with("insecure_bootstrap = true"), "insecure_bootstrap is set");
    check(&with(""), "must be configured unless insecure_bootstrap is set");
    check(
        &with(&format!("{url} {path}")),
        "only one of trust_bundle_url or trust_bundle_path can be specified, not both",
    );
    check(
        &with(&format!("{url} insecure_bootstrap = true")),
        "only one of insecure_bootstrap or trust_bundle_url can be specified, not both",
    );
    check(
        &with(&format!("{url} {path} insecure_bootstrap = true")),
        "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be specified, not the three options",
    );
    check(
        &with(&format!("{api} {path}")),
        "only one of trust_bundle_path or trust_bundle_spiffe_workload_api can be specified, not both",
    );
    check(
        &with("trust_bundle_spiffe_workload_api = \"/run/api.sock\""),
        "trust_bundle_spiffe_workload_api is not a valid SPIFFE Workload API endpoint address",
    );
    check(&with("trust_bundle_url = \"http://web/bundle\""), "trust bundle URL must start with https://");
    let socket = "trust_bundle_unix_socket = \"/run/web.sock\"";
    check(&with(&format!("trust_bundle_url = \"http://web/bundle\" {socket}")), "");
    check(
        &with(&format!("{url} {socket}")),
        "trust bundle URL must start with http:// when used with trust bundle unix socket",
    );
    check(
        &with(&format!("trust_bundle_url = \"http://web/?a=b&spire-x=1\" {socket}")),
        "trust_bundle_url query params can not start with spire-",
    );
    check(
        &with(&format!("{path} {socket}")),
        "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
    );
    check(
        &with("insecure_bootstrap = true rebootstrap_mode = \"auto\""),
        "insecure_bootstrap option can not be used with rebootstrapping",
    );
}

#[test]
fn other_keys_of_an_agent_are_checked_in_spires_words() {
    check(&agent_with("rebootstrap_mode = \"sometimes\""), "unknown rebootstrap mode specified: sometimes");
    check(
        &agent_with("rebootstrap_delay = \"soon\""),
        "error parsing rebootstrap delay duration: time: invalid duration",
    );
    check(&agent_with("availability_target = \"23h\""), "availability_target must be at least 24h0m0s");
    check(&agent_with("availability_target = \"x\""), "unable to parse availability_target");
    check(&agent_with("jwt_svid_cache_max_size = -1"), "jwt_svid_cache_max_size should not be negative");
    check(
        &agent_with("authorized_delegates = [\"spiffe://other.org/x\"]"),
        "error validating authorized delegate: SPIFFE ID \"spiffe://other.org/x\" is not a member of trust domain \
         \"example.org\"",
    );
    check(&agent_with("sds { default_bundle_name = \"ALL\" }"), "configurables have the same value");
    let beside = "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket";
    check(&agent_with("admin_socket_path = \"/tmp/spire-agent/public/admin.sock\""), beside);
    check(&agent_with("admin_socket_path = \"/tmp/spire-agent/public/deeper/admin.sock\""), beside);
    check(&agent_with("admin_socket_path = \"/tmp/spire-agent/private/admin.sock\""), "");
    check(
        &agent_with(
            "admin_socket_path = \"/tmp/spire-agent/public/a.sock\" disable_workload_api = true disable_sds_api = true",
        ),
        "",
    );

    let experimental = |line: &str| {
        let text = AGENT.replace("sync_interval = \"1s\"", line);
        match agent::load(&source(&text), &agent::Overrides::default()) {
            Ok(config) => config.warnings.join("\n"),
            Err(invalid) => invalid.to_string(),
        }
    };
    check(
        &experimental("jwt_svid_cache_hit_timeout = \"4s\""),
        "jwt_svid_cache_hit_timeout (4s) must be greater than 5s",
    );
    check(
        &experimental("jwt_svid_cache_hit_timeout = \"30s\""),
        "jwt_svid_cache_hit_timeout (30s) must be less than 30s",
    );
    check(
        &experimental("ratelimit { fetch_secrets = -1 }"),
        "experimental.ratelimit.fetch_secrets must not be negative",
    );
    check(
        &experimental("named_pipe_name = \"p\""),
        "invalid configuration: named_pipe_name is not supported in this platform; please use socket_path instead",
    );
}

#[test]
fn every_flag_of_an_agent_wins_over_the_file() {
    let flags = agent::Overrides {
        trust_bundle: Some(String::new()),
        rebootstrap_mode: Some("always".to_owned()),
        rebootstrap_delay: Some("1m".to_owned()),
        trust_bundle_format: Some("spiffe".to_owned()),
        disable_workload_api: true,
        disable_sds_api: true,
        allow_unauthenticated_verifiers: true,
        socket_path: Some("/run/other.sock".to_owned()),
        server_address: Some("other".to_owned()),
        server_port: Some(9),
        ..agent::Overrides::default()
    };
    let config = agent::load(&source(AGENT), &flags).unwrap();
    let format = agent::BundleFormat::Spiffe;
    assert_eq!(config.bootstrap, Bootstrap::File { path: "/etc/bundle.pem".into(), format });
    assert_eq!(config.rebootstrap.mode, agent::RebootstrapMode::Always);
    assert_eq!(config.rebootstrap.delay, Duration::from_secs(60));
    assert!(config.apis.disable_workload_api && config.apis.disable_sds_api);
    assert!(config.allow_unauthenticated_verifiers);
    assert_eq!(config.apis.socket_path, Path::new("/run/other.sock"));
    assert_eq!((config.server_address.as_str(), config.server_port), ("other", 9));

    let text = AGENT.replace("trust_bundle_path = \"/etc/bundle.pem\"", "");
    let flags = agent::Overrides {
        trust_bundle_url: Some("https://web/bundle".to_owned()),
        ..agent::Overrides::default()
    };
    let config = agent::load(&source(&text), &flags).unwrap();
    let format = agent::BundleFormat::Pem;
    let url = "https://web/bundle".to_owned();
    assert_eq!(config.bootstrap, Bootstrap::Url { url, unix_socket: None, format });
}

#[test]
fn servers_are_one_with_a_port_or_a_list() {
    let load = |keys: &str| {
        let text = super::AGENT
            .replace("server_address = \"server.example.org\"", keys)
            .replace("server_port = 8081", "");
        agent::load(&source(&text), &agent::Overrides::default())
    };
    let listed = load("server_addresses = [\"a:1\", \"[::1]:2\"]").unwrap();
    assert_eq!((listed.server_address.as_str(), listed.server_port), ("a", 1));
    assert_eq!(listed.server_addresses, ["[::1]:2"]);
    let both =
        load("server_address = \"s\"\n server_port = 9\n server_addresses = [\"a\", \"b:1\"]").unwrap();
    assert_eq!((both.server_address.as_str(), both.server_port), ("s", 9));
    assert_eq!(both.server_addresses, ["a:9", "b:1"]);
    for (keys, why) in [
        ("", "server_address must be configured"),
        ("server_addresses = [\"a\"]", "needs server_port"),
        ("server_addresses = []", "1 to 32"),
        ("server_port = 1\n server_addresses = [\"https://a\"]", "is not host, host:port"),
    ] {
        let error = load(keys).unwrap_err().to_string();
        assert!(error.contains(why), "{keys}: {error}");
    }
}
