//! Files that have every key of SPIRE once.

use std::collections::BTreeSet;

use vouchsafe_agent::attest::docker::DockerConfig;
use vouchsafe_agent::attest::image_signatures::{RegistryLogin, Settings};
use vouchsafe_agent::attest::k8s::kubelet::{Credentials, KubeletConfig, SecureConfig};
use vouchsafe_agent::limits::LimitsConfig;
use vouchsafe_types::federation::EndpointProfile;

use super::super::problems::Problems;
use super::*;

const SERVER: &str = include_str!("../testdata/server_every_key.conf");
const AGENT: &str = include_str!("../testdata/agent_every_key.conf");
const MANUAL: &str = include_str!("../../../../../docs/configuration.md");

const REFUSED: &str = "# refused";
const WITH_IT: &str = "# with it";

/// The file without the lines that are refused.
fn accepted(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.ends_with(REFUSED) && !line.ends_with(WITH_IT));
    kept.collect::<Vec<_>>().join("\n")
}

/// Every line that is marked is refused, by name where its key is not built; no other line is.
fn check_refusals(text: &str, invalid: &Invalid) {
    let marked: BTreeSet<u32> =
        (1..).zip(text.lines()).filter(|(_, line)| line.ends_with(REFUSED)).map(|(line, _)| line).collect();
    let refused: BTreeSet<u32> =
        invalid.problems.iter().filter_map(|problem| problem.position).map(|at| at.line).collect();
    assert_eq!(refused, marked, "{invalid}");
    assert!(!invalid.to_string().contains("unknown configuration"), "{invalid}");
}

fn known_keys(text: &str, part: &str) -> BTreeSet<&'static str> {
    let body = source(text).parse().unwrap();
    let problems = Problems::default();
    if part == "server" {
        server::read(&body, &server::Overrides::default(), &problems);
    } else {
        agent::read(&body, &agent::Overrides::default(), &problems);
    }
    problems.known_keys().into_iter().map(|(_, key)| key).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part_of_a_word) && !text[at + word.len()..].starts_with(part_of_a_word)
    })
}

#[test]
fn each_key_of_a_server_is_followed_or_refused_where_it_stands() {
    check_refusals(SERVER, &server::load(&source(SERVER), &server::Overrides::default()).unwrap_err());
}

#[test]
fn each_key_of_an_agent_is_followed_or_refused_where_it_stands() {
    check_refusals(AGENT, &agent::load(&source(AGENT), &agent::Overrides::default()).unwrap_err());
}

#[test]
fn the_files_have_every_key_that_is_read() {
    for (text, part) in [(SERVER, "server"), (AGENT, "agent")] {
        let both = [SERVER, AGENT].concat();
        let missing: Vec<_> =
            known_keys(text, part).into_iter().filter(|key| !has_word(&both, key)).collect();
        assert!(missing.is_empty(), "not in testdata/{part}_every_key.conf: {missing:?}");
    }
}

#[test]
fn the_manual_has_every_key_that_is_read() {
    let mut missing = BTreeSet::new();
    for (text, part) in [(SERVER, "server"), (AGENT, "agent")] {
        let keys = known_keys(text, part);
        assert!(keys.len() > 60, "{keys:?}");
        missing.extend(keys.into_iter().filter(|key| {
            !MANUAL.split('`').skip(1).step_by(2).any(|code| !code.contains('\n') && has_word(code, key))
        }));
    }
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
}

#[test]
fn every_value_of_a_server_arrives() {
    let config = server::load(&source(&accepted(SERVER)), &server::Overrides::default()).unwrap();
    assert!(config.audit_log && config.disable_jwt_svids);
    assert_eq!((config.ca_key_type, config.jwt_key_type), (KeyType::EcP384, KeyType::Rsa2048));
    assert_eq!(config.rate_limits, server::RateLimits { attestation: false, signing: false });
    let expired_for = Some(Duration::from_secs(720 * 3600));
    assert_eq!(config.prune, server::Prune { expired_for, batch: 200, tofu: true });
    assert!(config.balancers[0].contains([10, 1, 2, 3].into()) && config.balancers.len() == 2);
    assert_eq!(config.key_exchange, server::KeyExchange::PostQuantum);
    let federation = config.federation;
    let endpoint = federation.bundle_endpoint.unwrap();
    assert_eq!((endpoint.address.as_str(), endpoint.port), ("0.0.0.0", 8443));
    assert_eq!(endpoint.refresh_hint, Duration::from_secs(600));
    let web = server::EndpointProfile::HttpsWeb {
        cert_file_path: "/etc/spire/web.crt".into(),
        key_file_path: "/etc/spire/web.key".into(),
        file_sync_interval: Duration::from_secs(300),
    };
    assert_eq!(endpoint.profile, web);
    let peers: Vec<_> = federation
        .federates_with
        .iter()
        .map(|peer| {
            let id = match &peer.bundle_endpoint_profile {
                EndpointProfile::HttpsWeb => None,
                EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => Some(endpoint_spiffe_id.as_str()),
            };
            (peer.trust_domain.as_str(), peer.bundle_endpoint_url.as_str(), id)
        })
        .collect();
    let endpoint_id = Some("spiffe://one.test/spire/server");
    assert_eq!(
        peers,
        [("one.test", "https://one.test/bundle", endpoint_id), ("two.test", "https://two.test/bundle", None)]
    );
    let disk = server::Upstream::Disk {
        cert_file_path: "/etc/up.crt".into(),
        key_file_path: "/etc/up.key".into(),
        bundle_file_path: Some("/etc/up.pem".into()),
    };
    assert_eq!(config.upstream, Some(disk));
    let telemetry = config.telemetry;
    assert_eq!(telemetry.metric_prefix.as_deref(), Some("identity"));
    assert_eq!((telemetry.trust_domain_label, telemetry.hostname_label), (true, false));
    let filter = telemetry.filter;
    assert_eq!(filter.allowed_prefixes, ["identity.rpc.health"]);
    assert_eq!(filter.blocked_prefixes, ["identity.rpc"]);
    assert_eq!(
        (filter.allowed_labels, filter.blocked_labels),
        (vec!["status".into()], vec!["version".into()])
    );
    assert_eq!(config.health.unwrap().ready_path, "/serving");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_value_of_an_agent_arrives() {
    let config = agent::load(&source(&accepted(AGENT)), &agent::Overrides::default()).unwrap();
    let apis = config.apis;
    assert_eq!(apis.socket_path, Path::new("/run/spire/public/api.sock"));
    assert_eq!(apis.admin_socket_path.as_deref(), Some(Path::new("/run/spire/admin/api.sock")));
    assert_eq!(apis.authorized_delegates[0].as_str(), "spiffe://example.org/mesh");
    let sds = apis.sds;
    assert_eq!((sds.default_svid_name.as_str(), sds.default_bundle_name.as_str()), ("own", "roots"));
    assert!(sds.default_all_bundles_name == "everything" && sds.disable_spiffe_cert_validation);
    let bundle = Bootstrap::Url {
        url: "http://localhost/bundle".to_owned(),
        unix_socket: Some("/run/bundles.sock".into()),
        format: agent::BundleFormat::Spiffe,
    };
    assert_eq!(config.bootstrap, bundle);
    let delay = Duration::from_secs(300);
    assert_eq!(config.rebootstrap, agent::Rebootstrap { mode: agent::RebootstrapMode::Auto, delay });
    assert_eq!(config.availability_target, Some(Duration::from_secs(48 * 3600)));
    assert_eq!((config.x509_svid_cache_max_size, config.jwt_svid_cache_max_size), (10, 20));
    assert_eq!(
        (config.workload_key_type, config.log_selectors),
        (KeyType::Rsa2048, vec!["unix:user".into()])
    );
    let experimental = config.experimental;
    assert_eq!(experimental.sync_interval, Duration::from_secs(2));
    assert_eq!(experimental.jwt_svid_cache_hit_timeout, Some(Duration::from_secs(7)));
    assert_eq!(experimental.key_exchange, server::KeyExchange::PostQuantum);
    let limits = LimitsConfig {
        fetch_x509_svid: 1,
        fetch_jwt_svid: 2,
        fetch_x509_bundles: 3,
        fetch_jwt_bundles: 4,
        stream_secrets: 5,
        fetch_secrets: 6,
    };
    assert_eq!(experimental.limits, limits);
    let plugins = config.plugins;
    let node = agent::NodeAttestor::X509Pop {
        certificate_path: "/etc/node.crt".into(),
        private_key_path: "/etc/node.key".into(),
        intermediates_path: Some("/etc/node-chain.pem".into()),
    };
    assert_eq!(plugins.node_attestor, node);
    let docker = DockerConfig {
        socket: "/run/docker.sock".into(),
        api_version: Some("1.41".to_owned()),
        verbose: true,
        ..DockerConfig::default()
    };
    assert_eq!(plugins.docker, Some(docker));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_value_of_a_server_s_plugins_arrives() {
    let config = server::load(&source(&accepted(SERVER)), &server::Overrides::default()).unwrap();
    assert!(config.node_attestors.join_token);
    let x509pop = config.node_attestors.x509pop.unwrap();
    let ca_bundle_paths = vec!["/etc/spire/nodes.pem".into()];
    assert_eq!(x509pop.mode, server::X509PopMode::ExternalPki { ca_bundle_paths });
    assert_eq!((x509pop.max_intermediates, x509pop.max_rsa_key_size), (3, 4096));
    assert!(x509pop.verify_client_ip && x509pop.agent_path.is_some());
    let psat = server::PsatCluster {
        service_accounts: vec!["spire:spire-agent".into()],
        audience: vec!["identity".into()],
        kube_config_file: Some("/etc/spire/main.kubeconfig".into()),
        allowed_node_label_keys: vec!["topology.kubernetes.io/zone".into()],
        allowed_pod_label_keys: vec!["app".into()],
        use_pod_uid_for_agent_id: true,
    };
    assert_eq!(config.node_attestors.k8s_psat.unwrap().clusters, [("main".into(), psat)].into());
    let [notifier, other, publisher] = &config.publications[..] else { panic!("{:?}", config.publications) };
    assert_eq!(notifier.cluster, "/etc/spire/main.kubeconfig");
    assert_eq!(notifier.webhook_label.as_deref(), Some("spiffe.io/webhook"));
    assert_eq!(notifier.api_service_label.as_deref(), Some("spiffe.io/api_service"));
    assert!(notifier.trust_bundle.is_some() && other.trust_bundle.is_none());
    let key = &notifier.config_maps[0];
    assert_eq!([&*key.namespace, &*key.name, &*key.key], ["identity", "trust", "bundle.pem"]);
    assert_eq!(other.cluster, "/etc/spire/other.kubeconfig");
    let key = &publisher.config_maps[0];
    assert_eq!([&*key.namespace, &*key.name, &*key.key], ["identity", "trust", "bundle.json"]);
}

#[test]
fn every_value_of_the_workload_attestor_k8s_arrives() {
    let config = agent::load(&source(&accepted(AGENT)), &agent::Overrides::default()).unwrap();
    let k8s = config.plugins.k8s.unwrap();
    assert_eq!(k8s.node_name_env, "NODE");
    let signatures = Settings {
        allowed_identities: vec![(
            "https://accounts.google.com".to_owned(),
            vec!["alice@example.com".to_owned(), ".*@example.org".to_owned()],
        )],
        skipped_images: vec!["registry.test/pause@sha256:00".to_owned()],
        rekor_url: Some("https://rekor.test".to_owned()),
        ignore_sct: true,
        ignore_tlog: true,
        ignore_attestations: true,
        registry_credentials: vec![(
            "registry.test".to_owned(),
            RegistryLogin { username: "user".to_owned(), password: "secret".to_owned().into() },
        )],
        trusted_root: Some("/etc/sigstore/trusted_root.json".into()),
    };
    assert_eq!(k8s.image_signatures, Some(signatures));
    let secure = SecureConfig {
        node_name: Some("node-1".to_owned()),
        ca_path: Some("/etc/kubelet-ca.pem".into()),
        credentials: Credentials::Certificate {
            certificate_path: "/etc/kubelet-client.crt".into(),
            private_key_path: "/etc/kubelet-client.key".into(),
        },
    };
    assert_eq!(k8s.config.kubelet, KubeletConfig { port: 10350, secure: Some(secure) });
    assert_eq!((k8s.config.max_poll_attempts, k8s.config.poll_retry_interval), (20, Duration::from_secs(1)));
    assert!(k8s.config.legacy_locator && k8s.config.verbose && k8s.config.disable_container_selectors);
}
