//! `Notifier "k8sbundle"` and `BundlePublisher "k8s_configmap"`: Kubernetes objects that get the trust bundle.

use std::path::PathBuf;

use vouchsafe_server::config::publication::{ConfigMapKey, Format, Publication, Source, TrustBundleName};

use super::federation::check_refresh_hint;
use crate::config::plugins;
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

const NOTIFIERS: &[&str] = &["k8sbundle"];
const PUBLISHERS: &[&str] = &["k8s_configmap"];
const DEFAULT_NAMESPACE: &str = "spire";
const DEFAULT_CONFIG_MAP: &str = "spire-bundle";
const DEFAULT_KEY: &str = "bundle.crt";
/// How the cluster that the server itself runs in is called.
const IN_CLUSTER: &str = "in-cluster";

/// Reads the notifiers and publishers, of which there may be none.
pub(super) fn read(section: &Section<'_>, problems: &Problems) -> Vec<Publication> {
    let mut chosen = Vec::new();
    for notifier in plugins::enabled(section, "Notifier") {
        match notifier.name.as_str() {
            "k8sbundle" => chosen.extend(notifier.read_data(problems, read_notifier)),
            name => plugins::unsupported("Notifier", name, NOTIFIERS, notifier.position(), problems),
        }
        plugins::finish_if_supported(notifier, NOTIFIERS);
    }
    for publisher in plugins::enabled(section, "BundlePublisher") {
        match publisher.name.as_str() {
            "k8s_configmap" => chosen.extend(publisher.read_data(problems, read_publisher)),
            name => plugins::unsupported("BundlePublisher", name, PUBLISHERS, publisher.position(), problems),
        }
        plugins::finish_if_supported(publisher, PUBLISHERS);
    }
    chosen
}

/// The cluster of the plugin itself, unless only others are named, and the others.
fn read_notifier(data: &Section<'_>) -> Vec<Publication> {
    let clusters = data.sections("clusters");
    let is_set = |key: &&str| data.has(key);
    let mut publications = Vec::new();
    let own = read_cluster(data);
    if clusters.is_empty() || CLUSTER_KEYS.iter().any(is_set) {
        publications.push(own);
    }
    for cluster in clusters {
        let publication = read_cluster(&cluster);
        if publication.source == Source::InCluster {
            cluster.refuse("kube_config_file_path", "cluster configuration is missing kube_config_file_path");
        }
        cluster.finish();
        publications.push(publication);
    }
    publications
}

/// What a notifier has for each cluster.
const CLUSTER_KEYS: &[&str] = &[
    "namespace",
    "config_map",
    "config_map_key",
    "kube_config_file_path",
    "webhook_label",
    "api_service_label",
    "cluster_trust_bundle",
];

fn read_cluster(data: &Section<'_>) -> Publication {
    let text = |key, default: &str| data.text(key).unwrap_or_else(|| default.to_owned());
    let (cluster, source) = reach(data.text("kube_config_file_path"));
    Publication {
        plugin: "k8sbundle",
        cluster,
        source,
        config_maps: vec![ConfigMapKey {
            namespace: text("namespace", DEFAULT_NAMESPACE),
            name: text("config_map", DEFAULT_CONFIG_MAP),
            key: text("config_map_key", DEFAULT_KEY),
            format: Format::Pem,
        }],
        webhook_label: data.text("webhook_label"),
        api_service_label: data.text("api_service_label"),
        trust_bundle: data.parsed("cluster_trust_bundle", TrustBundleName::parse),
    }
}

/// Clusters that are reached in the same way become one publication.
fn read_publisher(data: &Section<'_>) -> Vec<Publication> {
    let named = data.named_sections("clusters");
    if named.is_empty() {
        data.warn("No clusters configured, bundle will not be published");
    }
    let mut publications: Vec<Publication> = Vec::new();
    for (id, cluster) in named {
        let (_, source) = reach(cluster.text("kubeconfig_path"));
        let config_map = read_config_map(&id, &cluster);
        cluster.finish();
        let Some(config_map) = config_map else { continue };
        match publications.iter_mut().find(|known| known.source == source) {
            Some(known) => {
                known.cluster = format!("{},{id}", known.cluster);
                known.config_maps.push(config_map);
            }
            None => publications.push(Publication {
                plugin: "k8s_configmap",
                cluster: id,
                source,
                config_maps: vec![config_map],
                webhook_label: None,
                api_service_label: None,
                trust_bundle: None,
            }),
        }
    }
    publications
}

fn read_config_map(id: &str, cluster: &Section<'_>) -> Option<ConfigMapKey> {
    let quoted = go::quote(id);
    let text = |key, what: &str| {
        let value = cluster.text(key);
        if value.is_none() {
            cluster.refuse(key, format!("missing {what} in cluster {quoted}"));
        }
        value
    };
    let hint = cluster.duration("refresh_hint");
    if let Some(hint) = hint {
        check_refresh_hint(cluster, hint);
    }
    let format = text("format", "bundle format").and_then(|name| match name.to_ascii_lowercase().as_str() {
        "pem" => Some(Format::Pem),
        "jwks" => Some(Format::Jwks),
        "spiffe" => Some(Format::Spiffe { refresh_hint: hint }),
        _ => {
            let name = go::quote(&name);
            cluster.refuse(
                "format",
                format!("could not parse bundle format from cluster {quoted}: unknown bundle format: {name}"),
            );
            None
        }
    });
    let namespace = text("namespace", "namespace");
    let name = text("configmap_name", "configmap name");
    let key = text("configmap_key", "configmap key");
    Some(ConfigMapKey { namespace: namespace?, name: name?, key: key?, format: format? })
}

/// How to reach a cluster, and how it is called.
fn reach(kubeconfig: Option<String>) -> (String, Source) {
    match kubeconfig {
        Some(path) => (path.clone(), Source::Kubeconfig(PathBuf::from(path))),
        None => (IN_CLUSTER.to_owned(), Source::InCluster),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, of: impl Fn(&Section<'_>) -> Vec<Publication>) -> (Vec<Publication>, String) {
        let (body, problems) = (crate::hcl::parse(text).unwrap(), Problems::default());
        let section = Section::top(&body, &problems);
        let read = of(&section);
        section.finish();
        let told = problems.finish("test").err().map_or_else(String::new, |invalid| invalid.to_string());
        (read, told)
    }

    fn config_map(publication: &Publication) -> [&str; 3] {
        let key = &publication.config_maps[0];
        [&key.namespace, &key.name, &key.key]
    }

    #[test]
    fn a_notifier_without_settings_writes_spires_config_map_of_its_own_cluster() {
        let (found, told) = read("", read_notifier);
        assert_eq!((told.as_str(), found.len()), ("", 1));
        assert_eq!(config_map(&found[0]), ["spire", "spire-bundle", "bundle.crt"]);
        assert_eq!((found[0].source.clone(), found[0].webhook_label.clone()), (Source::InCluster, None));
    }

    #[test]
    fn a_notifier_that_names_only_other_clusters_leaves_its_own_alone() {
        let others = r#"clusters = [{ kube_config_file_path = "/a" webhook_label = "w" }, { kube_config_file_path = "/b" }]"#;
        let (found, told) = read(others, read_notifier);
        assert_eq!((told.as_str(), found.len()), ("", 2));
        assert_eq!(found[0].webhook_label.as_deref(), Some("w"));
        assert_eq!(found[1].source, Source::Kubeconfig("/b".into()));
        let (found, _) = read(&format!("namespace = \"own\"\n{others}"), read_notifier);
        assert_eq!((found.len(), config_map(&found[0])), (3, ["own", "spire-bundle", "bundle.crt"]));
        let (_, told) = read("clusters = [{ namespace = \"x\" }]", read_notifier);
        assert!(told.contains("cluster configuration is missing kube_config_file_path"), "{told}");
        let (_, told) =
            read("clusters = [{ kube_config_file_path = \"/a\" webhok_label = \"w\" }]", read_notifier);
        assert!(told.contains("webhok_label") && told.contains("did you mean \"webhook_label\""), "{told}");
    }

    #[test]
    fn a_trust_bundle_must_have_a_name_that_kubernetes_takes() {
        let (found, told) = read("cluster_trust_bundle = \"example.org:spire:bundle\"", read_notifier);
        assert_eq!(told, "");
        assert_eq!(
            found[0].trust_bundle.as_ref().and_then(TrustBundleName::signer),
            Some("example.org/spire")
        );
        let (_, told) = read("cluster_trust_bundle = \"example.org/spire\"", read_notifier);
        assert!(told.contains("cluster_trust_bundle: is no name of a ClusterTrustBundle"), "{told}");
    }

    #[test]
    fn publishers_of_one_cluster_are_one_publication() {
        let text = r#"clusters = {
            "a" = { configmap_name = "c" configmap_key = "k" namespace = "n" format = "SPIFFE" refresh_hint = "5m" kubeconfig_path = "/k" }
            "b" = { configmap_name = "c" configmap_key = "pem" namespace = "n" format = "pem" kubeconfig_path = "/k" }
            "own" = { configmap_name = "c" configmap_key = "k" namespace = "n" format = "jwks" }
        }"#;
        let (found, told) = read(text, read_publisher);
        assert_eq!((told.as_str(), found.len()), ("", 2));
        assert_eq!((found[0].cluster.as_str(), found[0].config_maps.len()), ("a,b", 2));
        let hint = Some(std::time::Duration::from_secs(300));
        assert_eq!(found[0].config_maps[0].format, Format::Spiffe { refresh_hint: hint });
        assert_eq!(
            (found[1].source.clone(), found[1].config_maps[0].format),
            (Source::InCluster, Format::Jwks)
        );
    }

    #[test]
    fn what_a_publisher_lacks_is_named_in_spires_words() {
        let (_, told) = read("clusters = { \"a\" = { format = \"der\" } }", read_publisher);
        for part in [
            "could not parse bundle format from cluster \"a\": unknown bundle format: \"der\"",
            "missing namespace in cluster \"a\"",
            "missing configmap name in cluster \"a\"",
            "missing configmap key in cluster \"a\"",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
