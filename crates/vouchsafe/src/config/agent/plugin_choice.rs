//! Which plugins an agent uses.

use std::path::{Path, PathBuf};

use vouchsafe_agent::attest::docker::{DockerConfig, DockerConfigError, DockerSettings};

use super::KeyManager;
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
    let (unix, docker) = read_workload(&section, problems);
    let keys_file = |directory: String| Path::new(&directory).join("keys.json");
    let key_manager = plugins::key_manager(&section, problems, "directory", keys_file);
    plugins::refuse_kind(
        &section,
        "SVIDStore",
        "remove it; workloads fetch their SVIDs from the Workload API",
        problems,
    );
    section.finish();
    Plugins { key_manager, node_attestor, unix, docker }
}

fn read_node(section: &Section<'_>, problems: &Problems) -> NodeAttestor {
    const SUPPORTED: &[&str] = &["join_token", "x509pop"];
    let found = plugins::enabled(section, "NodeAttestor");
    if found.len() != 1 {
        let count = found.len();
        let text = format!(
            "plugins: exactly one NodeAttestor must be configured and enabled, not {count}; use \"join_token\" or \
             \"x509pop\""
        );
        problems.at(section.position(), text);
    }
    let mut chosen = NodeAttestor::JoinToken;
    for node in found {
        match node.name.as_str() {
            "join_token" => node.read_data(problems, |_| ()),
            "x509pop" => chosen = read_x509pop(&node, problems).unwrap_or_default(),
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

fn read_workload(section: &Section<'_>, problems: &Problems) -> (Option<UnixAttestor>, Option<DockerConfig>) {
    const SUPPORTED: &[&str] = &["unix", "docker"];
    let found = plugins::enabled(section, "WorkloadAttestor");
    if found.is_empty() {
        let text = "plugins: at least one WorkloadAttestor must be configured and enabled; use \"unix\"";
        problems.at(section.position(), text);
    }
    let (mut unix, mut docker) = (None, None);
    for workload in found {
        match workload.name.as_str() {
            "unix" => {
                unix = Some(workload.read_data(problems, |data| UnixAttestor {
                    discover_workload_path: data.flag("discover_workload_path").unwrap_or(false),
                    workload_size_limit: data.integer("workload_size_limit", i64::MIN, i64::MAX).unwrap_or(0),
                }));
            }
            "docker" => docker = read_docker(&workload, problems),
            name => {
                plugins::unsupported("WorkloadAttestor", name, SUPPORTED, workload.position(), problems);
            }
        }
        plugins::finish_if_supported(workload, SUPPORTED);
    }
    (unix, docker)
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
