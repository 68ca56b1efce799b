//! Which plugins an agent uses.

use std::path::{Path, PathBuf};

use vouchsafe_agent::attest::docker::{DockerConfig, DockerConfigError, DockerSettings};
use vouchsafe_agent::attest::image_signatures::Settings as ImageSignatures;
use vouchsafe_agent::attest::k8s::settings::{DEFAULT_NODE_NAME_ENV, K8sSettings};
use vouchsafe_agent::attest::k8s::{K8sConfig, K8sConfigError};
use vouchsafe_agent::node::k8s_psat::K8sPsat;

use super::{KeyManager, image_signatures};
use crate::config::plugins::{self, Plugin};
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::config::workload_api_socket;

/// What the `plugins` section comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugins {
    /// Where the agent's own key is kept.
    pub key_manager: KeyManager,
    /// How the agent proves which node it is on.
    pub node_attestor: NodeAttestor,
    /// Attestation of processes by user, group and path.
    pub unix: Option<UnixAttestor>,
    /// Attestation of processes by their container.
    pub docker: Option<DockerConfig>,
    /// Attestation of processes by their Pod.
    pub k8s: Option<K8s>,
}

/// The `k8s` attestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8s {
    /// Its settings.
    pub config: K8sConfig,
    /// Where the node's name is, if the settings do not tell it.
    pub node_name_env: String,
    /// Verification of the images' signatures, if there is any.
    pub image_signatures: Option<ImageSignatures>,
}

/// How the agent proves which node it is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeAttestor {
    /// With a token that an operator handed out.
    #[default]
    JoinToken,
    /// With an X.509 certificate. The files are read at each attestation.
    X509Pop {
        /// The certificate, and perhaps intermediates.
        certificate_path: PathBuf,
        /// Its key.
        private_key_path: PathBuf,
        /// More intermediates.
        intermediates_path: Option<PathBuf>,
    },
    /// With the X.509-SVID that a Workload API gives.
    X509PopSvid {
        /// Its Unix socket.
        socket: PathBuf,
    },
    /// With the service account token of its Pod.
    K8sPsat(K8sPsat),
}

/// The `unix` attestor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixAttestor {
    /// Whether the path and hash of the program are selectors.
    pub discover_workload_path: bool,
    /// The largest program that is hashed, in bytes. 0: any. Negative: none.
    pub workload_size_limit: i64,
}

/// Reads the `plugins` section.
pub(super) fn read(section: Section<'_>, problems: &Problems) -> Plugins {
    let node_attestor = read_node(&section, problems);
    let WorkloadAttestors { unix, docker, k8s } = read_workload(&section, problems);
    let keys_file = |directory: String| Path::new(&directory).join("keys.json");
    let key_manager = plugins::key_manager(&section, problems, "directory", keys_file);
    plugins::refuse_kind(
        &section,
        "SVIDStore",
        "remove it; workloads fetch their SVIDs from the Workload API",
        problems,
    );
    section.finish();
    Plugins { key_manager, node_attestor, unix, docker, k8s }
}

fn read_node(section: &Section<'_>, problems: &Problems) -> NodeAttestor {
    const SUPPORTED: &[&str] = &["join_token", "x509pop", "k8s_psat"];
    let found = plugins::enabled(section, "NodeAttestor");
    if found.len() != 1 {
        let count = found.len();
        let text = format!(
            "plugins: exactly one NodeAttestor must be configured and enabled, not {count}; use \"join_token\", \
             \"x509pop\" or \"k8s_psat\""
        );
        problems.at(section.position(), text);
    }
    let mut chosen = NodeAttestor::JoinToken;
    for node in found {
        match node.name.as_str() {
            "join_token" => node.read_data(problems, |_| ()),
            "x509pop" => chosen = read_x509pop(&node, problems).unwrap_or_default(),
            "k8s_psat" => chosen = read_k8s_psat(&node, problems).unwrap_or_default(),
            name => plugins::unsupported("NodeAttestor", name, SUPPORTED, node.position(), problems),
        }
        plugins::finish_if_supported(node, SUPPORTED);
    }
    chosen
}

fn read_x509pop(plugin: &Plugin<'_>, problems: &Problems) -> Option<NodeAttestor> {
    plugin.read_data(problems, |data| {
        if data.has("spiffe_endpoint_socket") {
            // SPIRE does not look at the files then.
            for key in ["private_key_path", "certificate_path", "intermediates_path"] {
                data.text(key);
            }
            let socket = data.parsed("spiffe_endpoint_socket", workload_api_socket)?;
            return Some(NodeAttestor::X509PopSvid { socket });
        }
        let required = |key| {
            let path = data.text(key);
            if path.is_none() {
                data.refuse(key, format!("{key} is required"));
            }
            path
        };
        let (key, certificate) = (required("private_key_path"), required("certificate_path"));
        let intermediates_path = data.text("intermediates_path").map(PathBuf::from);
        Some(NodeAttestor::X509Pop {
            certificate_path: certificate?.into(),
            private_key_path: key?.into(),
            intermediates_path,
        })
    })
}

fn read_k8s_psat(plugin: &Plugin<'_>, problems: &Problems) -> Option<NodeAttestor> {
    plugin.read_data(problems, |data| {
        let cluster = data.text("cluster");
        let token_path = data.text("token_path").unwrap_or_else(|| K8sPsat::DEFAULT_TOKEN_PATH.to_owned());
        if cluster.is_none() {
            // SPIRE calls the key a block.
            data.refuse(
                "cluster",
                "missing required cluster block: set cluster to the server's name of this cluster",
            );
        }
        Some(NodeAttestor::K8sPsat(K8sPsat { cluster: cluster?, token_path: token_path.into() }))
    })
}

#[derive(Default)]
struct WorkloadAttestors {
    unix: Option<UnixAttestor>,
    docker: Option<DockerConfig>,
    k8s: Option<K8s>,
}

fn read_workload(section: &Section<'_>, problems: &Problems) -> WorkloadAttestors {
    const SUPPORTED: &[&str] = &["unix", "docker", "k8s"];
    let found = plugins::enabled(section, "WorkloadAttestor");
    if found.is_empty() {
        let text = "plugins: at least one WorkloadAttestor must be configured and enabled; use \"unix\"";
        problems.at(section.position(), text);
    }
    let mut chosen = WorkloadAttestors::default();
    for workload in found {
        match workload.name.as_str() {
            "unix" => {
                chosen.unix = Some(workload.read_data(problems, |data| UnixAttestor {
                    discover_workload_path: data.flag("discover_workload_path").unwrap_or(false),
                    workload_size_limit: data.integer("workload_size_limit", i64::MIN, i64::MAX).unwrap_or(0),
                }));
            }
            "docker" => chosen.docker = read_docker(&workload, problems),
            "k8s" => chosen.k8s = read_k8s(&workload, problems),
            name => {
                plugins::unsupported("WorkloadAttestor", name, SUPPORTED, workload.position(), problems);
            }
        }
        plugins::finish_if_supported(workload, SUPPORTED);
    }
    chosen
}

fn read_docker(plugin: &Plugin<'_>, problems: &Problems) -> Option<DockerConfig> {
    plugin.read_data(problems, |data| {
        data.not_built("sigstore", "remove it and check signatures before images are run");
        let settings = DockerSettings {
            docker_socket_path: data.text("docker_socket_path"),
            docker_version: data.text("docker_version"),
            podman_socket_path: data.text("podman_socket_path"),
            podman_socket_path_template: data.text("podman_socket_path_template"),
            container_id_cgroup_matchers: data.strings("container_id_cgroup_matchers"),
            use_new_container_locator: data.flag("use_new_container_locator"),
            verbose_container_locator_logs: data.flag("verbose_container_locator_logs").unwrap_or(false),
        };
        let wrong = |errors: Vec<DockerConfigError>| {
            errors.iter().for_each(|error| data.refuse(key_of(error), error.to_string()));
        };
        settings.check().map_err(wrong).ok()
    })
}

fn read_k8s(plugin: &Plugin<'_>, problems: &Problems) -> Option<K8s> {
    plugin.read_data(problems, |data| {
        refuse_of_k8s(data);
        // Credentials are read for each request.
        data.duration("reload_interval");
        let settings = K8sSettings {
            kubelet_read_only_port: data.port("kubelet_read_only_port").unwrap_or(0),
            kubelet_secure_port: data.port("kubelet_secure_port").unwrap_or(0),
            kubelet_ca_path: data.text("kubelet_ca_path"),
            skip_kubelet_verification: data.flag("skip_kubelet_verification").unwrap_or(false),
            token_path: data.text("token_path"),
            certificate_path: data.text("certificate_path"),
            private_key_path: data.text("private_key_path"),
            use_anonymous_authentication: data.flag("use_anonymous_authentication").unwrap_or(false),
            node_name: data.text("node_name"),
            max_poll_attempts: data
                .integer("max_poll_attempts", i64::MIN, i64::from(u32::MAX))
                .map_or(0, |attempts| u32::try_from(attempts).unwrap_or(0)),
            poll_retry_interval: data.duration("poll_retry_interval").unwrap_or_default(),
            disable_container_selectors: data.flag("disable_container_selectors").unwrap_or(false),
            use_new_container_locator: data.flag("use_new_container_locator"),
            verbose_container_locator_logs: data.flag("verbose_container_locator_logs").unwrap_or(false),
        };
        let node_name_env = data.text("node_name_env").unwrap_or_else(|| DEFAULT_NODE_NAME_ENV.to_owned());
        let wrong = |errors: Vec<K8sConfigError>| {
            errors.iter().for_each(|error| data.refuse(error.key(), error.to_string()));
        };
        let image_signatures = image_signatures::read(data);
        let config = settings.check().map_err(wrong).ok();
        config.map(|config| K8s { config, node_name_env, image_signatures })
    })
}

/// What of SPIRE's `k8s` attestor is not there.
fn refuse_of_k8s(data: &Section<'_>) {
    data.not_built(
        "enable_namespace_labels",
        "remove it; select by k8s:ns, or let the registrar write entries for namespaces with a label",
    );
    data.not_built(
        "disable_kubelet_client",
        "remove the attestor: without the kubelet it could attest nothing, since there is no Broker API",
    );
    if let Some(experimental) = data.section("experimental") {
        experimental.not_built("broker", "remove it; the Broker API is not served");
        if let Some(api_server) = experimental.section("api_server") {
            if let Some(cache) = api_server.section("cache") {
                cache.flag("enabled");
                cache.finish();
            }
            api_server.finish();
        }
        experimental.finish();
    }
}

/// The key that a problem of the `docker` attestor is about.
fn key_of(error: &DockerConfigError) -> &'static str {
    match error {
        DockerConfigError::BothLocators | DockerConfigError::Matchers(_) => "container_id_cgroup_matchers",
        DockerConfigError::Socket { key, .. } => key,
        DockerConfigError::Template(_) => "podman_socket_path_template",
        DockerConfigError::Version(_) => "docker_version",
        _ => "",
    }
}
