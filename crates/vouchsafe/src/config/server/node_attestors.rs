//! `NodeAttestor`: how agents prove which node they are on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vouchsafe_server::config::admission::{self as settings, AgentPath};
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::config::plugins::{self, Plugin};
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

/// How agents may attest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAttestors {
    /// With tokens that an operator hands out.
    pub join_token: bool,
    /// With X.509 certificates that they hold already.
    pub x509pop: Option<X509Pop>,
    /// With the service account tokens of their Pods.
    pub k8s_psat: Option<K8sPsat>,
}

/// Attestation with X.509 certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Pop {
    /// Whose certificates are accepted.
    pub mode: X509PopMode,
    /// The path of an agent's SPIFFE ID. `None`: the default of the mode.
    pub agent_path: Option<AgentPath>,
    /// Certificates that may stand between an agent's and a root.
    pub max_intermediates: usize,
    /// Bits of the largest RSA key.
    pub max_rsa_key_size: usize,
    /// Whether the agent's address must be in its certificate.
    pub verify_client_ip: bool,
}

/// Whose certificates are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509PopMode {
    /// Those of other authorities, whose roots are in these files.
    ExternalPki {
        /// PEM files.
        ca_bundle_paths: Vec<PathBuf>,
    },
    /// X.509-SVIDs of this trust domain whose path begins with the prefix.
    Spiffe {
        /// `/…/`
        prefix: String,
    },
}

/// Attestation with the service account tokens of Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct K8sPsat {
    /// By the name that agents use.
    pub clusters: BTreeMap<String, PsatCluster>,
}

/// One cluster whose nodes may attest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PsatCluster {
    /// `namespace:name` of the service accounts that may.
    pub service_accounts: Vec<String>,
    /// Whom tokens must be for. Empty: the API server.
    pub audience: Vec<String>,
    /// How the API server is reached. `None`: the one of the cluster that the server runs in.
    pub kube_config_file: Option<PathBuf>,
    /// Labels of the node that become selectors.
    pub allowed_node_label_keys: Vec<String>,
    /// Labels of the Pod that become selectors.
    pub allowed_pod_label_keys: Vec<String>,
    /// Whether an agent is known by its Pod instead of its node.
    pub use_pod_uid_for_agent_id: bool,
}

const SUPPORTED: &[&str] = &["join_token", "x509pop", "k8s_psat"];

/// Reads the node attestors, of which there may be none.
pub(super) fn read(section: &Section<'_>, problems: &Problems) -> NodeAttestors {
    let mut chosen = NodeAttestors::default();
    for attestor in plugins::enabled(section, "NodeAttestor") {
        match attestor.name.as_str() {
            "join_token" => {
                chosen.join_token = true;
                attestor.read_data(problems, |_| ());
            }
            "x509pop" => chosen.x509pop = read_x509pop(&attestor, problems),
            "k8s_psat" => chosen.k8s_psat = Some(read_k8s_psat(&attestor, problems)),
            name => plugins::unsupported("NodeAttestor", name, SUPPORTED, attestor.position(), problems),
        }
        plugins::finish_if_supported(attestor, SUPPORTED);
    }
    chosen
}

fn read_x509pop(plugin: &Plugin<'_>, problems: &Problems) -> Option<X509Pop> {
    plugin.read_data(problems, |data| {
        let count = |key, default| {
            let number = data.integer(key, i64::from(i32::MIN), i64::from(i32::MAX));
            if number.is_some_and(|number| number <= 0) {
                data.refuse(key, format!("{key} must be greater than 0"));
            }
            number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
        };
        let agent_path = data.text("agent_path_template").and_then(|template| {
            let parsed = AgentPath::parse(&template);
            let wrong = |error| {
                let template = go::quote(&template);
                let text = format!("failed to parse agent svid template: {template}: {error}");
                data.refuse("agent_path_template", text);
            };
            parsed.map_err(wrong).ok()
        });
        let max_intermediates = count("max_intermediates", settings::X509Pop::DEFAULT_MAX_INTERMEDIATES);
        let max_rsa_key_size = count("max_rsa_key_size", settings::X509Pop::DEFAULT_MAX_RSA_KEY_BITS);
        let verify_client_ip = data.flag("verify_client_ip").unwrap_or(false);
        Some(X509Pop {
            mode: read_mode(data)?,
            agent_path,
            max_intermediates,
            max_rsa_key_size,
            verify_client_ip,
        })
    })
}

fn read_mode(data: &Section<'_>) -> Option<X509PopMode> {
    let one = data.text("ca_bundle_path");
    let many = data.strings("ca_bundle_paths");
    let prefix = data.text("spiffe_prefix");
    match data.text("mode").as_deref() {
        None | Some("external_pki") => {
            if one.is_some() && !many.is_empty() {
                let text = "only one of ca_bundle_path or ca_bundle_paths can be configured, not both";
                data.refuse("ca_bundle_paths", text);
            }
            if one.is_none() && many.is_empty() {
                data.refuse("ca_bundle_path", "one of ca_bundle_path or ca_bundle_paths must be configured");
            }
            let ca_bundle_paths = one.map_or(many, |one| vec![one]).into_iter().map(PathBuf::from).collect();
            Some(X509PopMode::ExternalPki { ca_bundle_paths })
        }
        Some("spiffe") => {
            if one.is_some() || !many.is_empty() {
                let text = "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode";
                data.refuse("mode", text);
            }
            let mut prefix = prefix.unwrap_or_else(|| settings::X509Pop::DEFAULT_SVID_PREFIX.to_owned());
            if !prefix.ends_with('/') {
                prefix.push('/');
            }
            Some(X509PopMode::Spiffe { prefix })
        }
        Some(other) => {
            let other = go::quote(other);
            data.refuse("mode", format!("mode can only be either spiffe or external_pki, not {other}"));
            None
        }
    }
}

fn read_k8s_psat(plugin: &Plugin<'_>, problems: &Problems) -> K8sPsat {
    plugin.read_data(problems, |data| {
        let clusters = data.named_sections("clusters");
        if clusters.is_empty() {
            data.warn("No clusters configured, PSAT attestation is effectively disabled");
        }
        let read = |(name, section): (String, Section<'_>)| {
            let cluster = read_cluster(&name, &section);
            section.finish();
            (name, cluster)
        };
        K8sPsat { clusters: clusters.into_iter().map(read).collect() }
    })
}

fn read_cluster(name: &str, section: &Section<'_>) -> PsatCluster {
    let quoted = go::quote(name);
    // It becomes a part of each agent's SPIFFE ID, behind a fixed beginning and before a fixed end.
    if SpiffeId::parse(&format!("spiffe://example.org/spire/agent/k8s_psat/{name}/uid")).is_err() {
        let text = format!(
            "cluster name {quoted} cannot be part of a SPIFFE ID: use letters, digits, \".\", \"-\" and \"_\""
        );
        section.refuse("", text);
    }
    let service_accounts = section.strings("service_account_allow_list");
    if service_accounts.is_empty() {
        let text = format!("cluster {quoted} configuration must have at least one service account allowed");
        section.refuse("service_account_allow_list", text);
    }
    for account in service_accounts.iter().filter(|account| account.matches(':').count() != 1) {
        let account = go::quote(account);
        let text = format!("{account} is nobody: a service account is written \"namespace:name\"");
        section.problem("service_account_allow_list", &text);
    }
    let audience = section.texts("audience").map(|texts| texts.into_iter().map(|(text, _)| text).collect());
    PsatCluster {
        service_accounts,
        audience: audience.unwrap_or_else(|| vec![settings::PsatCluster::DEFAULT_AUDIENCE.to_owned()]),
        kube_config_file: section.text("kube_config_file").map(PathBuf::from),
        allowed_node_label_keys: section.strings("allowed_node_label_keys"),
        allowed_pod_label_keys: section.strings("allowed_pod_label_keys"),
        use_pod_uid_for_agent_id: section.flag("use_pod_uid_for_agent_id").unwrap_or(false),
    }
}
