use super::*;
use crate::config::Source;

fn config(text: &str) -> Result<Config, String> {
    let source = Source { path: "c.yaml".to_owned(), text: text.to_owned() };
    load(&source, || Some("found.local".to_owned())).map_err(|invalid| invalid.to_string())
}

const HEAD: &str = "apiVersion: spire.spiffe.io/v1alpha1\nkind: ControllerManagerConfig\n\
                    clusterName: blue\ntrustDomain: example.org\n";

#[test]
fn every_key_of_spire_controller_manager_is_read() {
    let text = include_str!("testdata/every_key.yaml");
    let config = config(text).unwrap();
    assert_eq!(config.terms.place.cluster_domain, "cluster.local");
    assert_eq!(config.terms.class, Class { name: "blue".into(), classless: true });
    assert!(config.terms.ignored.has("lab-1") && !config.terms.ignored.has("kube-system"));
    assert_eq!(config.terms.entry_ids, EntryIds::new("blue", Some("")).unwrap());
    let reconcile = Reconcile { spiffe_ids: true, static_entries: true, federated_trust_domains: false };
    assert_eq!(config.reconcile, reconcile);
    assert_eq!(config.gc_interval, Duration::from_secs(2));
    assert_eq!(config.max_answer_bytes, 8_388_608);
    let lease = Lease { namespace: Some("spire".into()), name: "scm".into() };
    assert_eq!(config.lease, Some(lease));
    assert_eq!(config.metrics, Some(Address { host: "127.0.0.1".into(), port: 8082 }));
    let health = config.health.unwrap();
    assert_eq!((health.address.host.as_str(), health.address.port), ("", 8083));
    assert_eq!((health.live_path.as_str(), health.ready_path.as_str()), ("/live", "/readyz"));
    assert_eq!(config.namespaces[0].labels["app"], "web");
    assert!(config.warnings[0].contains("validating webhook"), "{:?}", config.warnings);
}

#[test]
fn little_is_required() {
    let config = config(HEAD).unwrap();
    assert_eq!(config.terms.place.cluster_domain, "found.local");
    assert_eq!(config.gc_interval, DEFAULT_GC_INTERVAL);
    assert_eq!(config.server_socket, PathBuf::from(DEFAULT_SOCKET_PATH));
    assert!(config.terms.ignored.has("kube-system"));
    assert_eq!((config.lease, config.metrics, config.health.is_none()), (None, None, true));
    let all = Reconcile { spiffe_ids: true, static_entries: true, federated_trust_domains: true };
    assert_eq!(config.reconcile, all);
}

#[test]
fn an_interval_is_nanoseconds_or_a_duration() {
    for text in ["gcInterval: 2000000000", "gcInterval: 2s", "gcInterval: \"2s\""] {
        assert_eq!(config(&format!("{HEAD}{text}\n")).unwrap().gc_interval, Duration::from_secs(2), "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let error = config(
        "apiVersion: spire.spiffe.io/v1alpha1\nkind: Other\nclusterNmae: blue\ntrustDomain: Example\n\
         gcInterval: 5\nignoreNamespaces: [\"(\"]\nreconcile:\n  pods: true\nparentIDTemplate: \"{{\"\n\
         logLevel: loud\nentryIDPrefix: a\nentryIDPrefixCleanup: a\n",
    )
    .unwrap_err();
    for expected in [
        "cluster name is required",
        "c.yaml:2:1: kind must be ControllerManagerConfig",
        "c.yaml:3:1: unknown configuration detected: key \"clusterNmae\" at the top level; did you mean \"clusterName\"?",
        "c.yaml:4:14: trustDomain: ",
        "c.yaml:5:1: gcInterval must be at least 100ms",
        "c.yaml:6:20: ignoreNamespaces: ",
        "c.yaml:8:3: unknown configuration detected: key \"pods\" in reconcile",
        "c.yaml:9:19: parentIDTemplate: ",
        "c.yaml:10:11: logLevel: ",
        "can not be the same value",
    ] {
        assert!(error.contains(expected), "{expected}\n{error}");
    }
}

#[test]
fn a_folder_takes_the_place_of_a_cluster() {
    let folder = config(&format!("{HEAD}staticManifestPath: /etc/manifests\n")).unwrap();
    assert_eq!(folder.folder, Some("/etc/manifests".into()));
    assert!(!folder.reconcile.spiffe_ids);
    let error = config(&format!(
        "{HEAD}staticManifestPath: /m\nleaderElection: {{leaderElect: true, resourceName: x}}\n"
    ));
    assert!(error.unwrap_err().contains("not possible with static manifests"));
}
