//! What Docker (or Podman) knows about the container that a process is in.
//!
//! | selector | value |
//! |---|---|
//! | `docker:label` | `<name>:<value>`, one for each label of the container |
//! | `docker:env` | `<NAME>=<value>`, one for each variable that the container was started with |
//! | `docker:image_id` | the image's name, as the container was started with it |
//! | `docker:image_config_digest` | the digest of the image's configuration, where Docker has the image |
//!
//! A process that is in no container has none of these, and that is no failure. Which container it is in says
//! [`super::container`], or [`matcher`] where patterns are configured; [`containers`] asks the daemon, [`podman`] says which.
//!
//! Files of processes are read as [`Looks`] has it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::Selector;

use super::container::{LocateError, Locator, Wanted};
use super::looks::{Looks, not_located};
use super::{AttestorError, WorkloadAttestor};
use containers::{Containers, Place};
use matcher::{MatcherError, Matchers};
use podman::{SocketTemplate, TemplateError};

pub mod containers;
pub mod matcher;
pub mod podman;

/// The settings of the `docker` attestor as they stand in a configuration file. What is left out has SPIRE's default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DockerSettings {
    /// `docker_socket_path`.
    pub docker_socket_path: Option<String>,
    /// `docker_version`.
    pub docker_version: Option<String>,
    /// `podman_socket_path`.
    pub podman_socket_path: Option<String>,
    /// `podman_socket_path_template`.
    pub podman_socket_path_template: Option<String>,
    /// `container_id_cgroup_matchers`.
    pub container_id_cgroup_matchers: Vec<String>,
    /// `use_new_container_locator`.
    pub use_new_container_locator: Option<bool>,
    /// `verbose_container_locator_logs`.
    pub verbose_container_locator_logs: bool,
}

/// Settings of the `docker` attestor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DockerConfig {
    /// Docker's socket.
    pub socket: PathBuf,
    /// The version of Docker's API to speak, `1.41`. `None`: what the daemon prefers.
    pub api_version: Option<String>,
    /// The socket of Podman that runs as root.
    pub podman_socket: PathBuf,
    /// The sockets of Podman that runs as other users.
    pub podman_sockets: SocketTemplate,
    /// Where to look for container IDs instead of the built-in rules.
    pub matchers: Option<Matchers>,
    /// Log every cgroup and mount that is looked at, at level debug.
    pub verbose: bool,
    /// Where processes are listed.
    pub proc_root: PathBuf,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            socket: "/var/run/docker.sock".into(),
            api_version: None,
            podman_socket: "/run/podman/podman.sock".into(),
            podman_sockets: SocketTemplate::default(),
            matchers: None,
            verbose: false,
            proc_root: "/proc".into(),
        }
    }
}

/// Why the `docker` attestor cannot be configured like this.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DockerConfigError {
    /// Patterns without saying that the built-in rules are not wanted.
    #[error(
        "the new container locator and custom cgroup matchers cannot both be used; to use custom matchers set use_new_container_locator=false"
    )]
    BothLocators,
    /// The patterns.
    #[error(transparent)]
    Matchers(#[from] MatcherError),
    /// A daemon that is not on a Unix socket of this machine.
    #[error("{key}: {value:?} is not the URL of a Unix socket, such as \"unix:///var/run/docker.sock\"")]
    Socket {
        /// Which setting.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// The template of Podman's sockets.
    #[error("invalid podman_socket_path_template: {0}")]
    Template(#[from] TemplateError),
    /// Not a version of Docker's API.
    #[error("docker_version: {0:?} is not a version of Docker's API, such as \"1.41\"")]
    Version(String),
}

impl DockerSettings {
    /// What they come to.
    ///
    /// # Errors
    ///
    /// Every problem that there is.
    pub fn check(&self) -> Result<DockerConfig, Vec<DockerConfigError>> {
        let mut config = DockerConfig::default();
        let mut problems = Vec::new();
        let mut socket = |key, value: &Option<String>, into: &mut PathBuf| {
            let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { return };
            match unix_path(value) {
                Some(path) => *into = path.into(),
                None => problems.push(DockerConfigError::Socket { key, value: value.to_owned() }),
            }
        };
        socket("docker_socket_path", &self.docker_socket_path, &mut config.socket);
        socket("podman_socket_path", &self.podman_socket_path, &mut config.podman_socket);
        if let Some(text) = self.podman_socket_path_template.as_deref().filter(|text| !text.is_empty()) {
            match SocketTemplate::parse(text) {
                Ok(template) => config.podman_sockets = template,
                Err(error) => problems.push(error.into()),
            }
        }
        if let Some(version) = self.docker_version.as_deref().filter(|version| !version.is_empty()) {
            let digits = version.strip_prefix('v').unwrap_or(version);
            if digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && digits.len() <= 16 {
                config.api_version = Some(digits.to_owned());
            } else {
                problems.push(DockerConfigError::Version(version.to_owned()));
            }
        }
        if !self.container_id_cgroup_matchers.is_empty() {
            if self.use_new_container_locator.unwrap_or(true) {
                problems.push(DockerConfigError::BothLocators);
            }
            match Matchers::parse(&self.container_id_cgroup_matchers) {
                Ok(matchers) => config.matchers = Some(matchers),
                Err(error) => problems.push(error.into()),
            }
        }
        config.verbose = self.verbose_container_locator_logs;
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

/// The path in `unix:///path`.
pub(crate) fn unix_path(url: &str) -> Option<&str> {
    url.strip_prefix("unix://").filter(|path| path.starts_with('/'))
}

/// The attestor.
#[derive(Clone, Debug)]
pub struct DockerAttestor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<DockerConfig>,
    containers: Containers,
    looks: Looks,
}

impl DockerAttestor {
    /// With these settings. Nothing is asked of Docker yet.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        let containers = Containers::new(config.api_version.clone());
        Self { inner: Arc::new(Inner { config: Arc::new(config), containers, looks: Looks::default() }) }
    }
}

#[async_trait]
impl WorkloadAttestor for DockerAttestor {
    fn name(&self) -> &'static str {
        KIND
    }

    async fn attest(&self, peer: &PeerProcess) -> Result<Vec<Selector>, AttestorError> {
        let (config, pid) = (Arc::clone(&self.inner.config), peer.pid);
        let place =
            self.inner.looks.run(move || config.locate(pid).map_err(|error| not_located(pid, error))).await?;
        let Some(place) = place else { return Ok(Vec::new()) };
        let found = self.inner.containers.selectors(&place).await;
        found
            .map(|selectors| selectors.to_vec())
            .map_err(|error| AttestorError::Lookup { what: error.to_string(), source: None })
    }
}

impl DockerConfig {
    /// The container of process `pid` and the daemon that has it. A process that is gone is in none.
    fn locate(&self, pid: i32) -> Result<Option<Place>, LocateError> {
        let locator =
            Locator { proc_root: self.proc_root.clone(), verbose: self.verbose, wanted: Wanted::Container };
        let paths = locator.groups(pid)?;
        let id = match &self.matchers {
            Some(matchers) => matched(matchers, &paths)?,
            None => locator.container(pid, &paths)?.map(|container| container.id),
        };
        let Some(id) = id else { return Ok(None) };
        let socket = match podman::of(&paths) {
            None => self.socket.clone(),
            Some(podman::Owner::Root) => self.podman_socket.clone(),
            Some(podman::Owner::User(uid)) => self.podman_sockets.of(uid),
        };
        Ok(Some(Place { socket, id }))
    }
}

/// The ID that the configured patterns find.
fn matched(matchers: &Matchers, paths: &[Vec<u8>]) -> Result<Option<String>, LocateError> {
    let mut found: Option<&str> = None;
    for id in paths.iter().filter_map(|path| matchers.id_in(std::str::from_utf8(path).ok()?)) {
        match found {
            Some(before) if !before.is_empty() && before != id => {
                return Err(LocateError::Conflict(before.to_owned(), id.to_owned()));
            }
            _ => found = Some(id),
        }
    }
    match found {
        Some("") => Err(LocateError::Blank),
        found => Ok(found.map(str::to_owned)),
    }
}

const KIND: &str = "docker";

#[cfg(test)]
mod tests;
