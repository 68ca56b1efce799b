//! The configuration of `vouchsafe up`: server and agent in one process, from flags alone.

use std::path::{Path, PathBuf};

use vouchsafe_types::TrustDomain;

use super::observe::{LogConfig, LogFormat, parse_level};
use super::{Lookup, MAX_SOCKET_PATH, Problem, check_socket_path};

/// The trust domain unless told otherwise.
pub const DEFAULT_TRUST_DOMAIN: &str = "vouchsafe.local";
/// Port of the server unless told otherwise, as SPIRE's.
pub const DEFAULT_SERVER_PORT: u16 = 8081;

/// Everything that `up` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where both parts keep their state.
    pub data_dir: PathBuf,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Address of the server for agents on other machines.
    pub server_bind_address: String,
    /// Its port. 0 is any free one.
    pub server_port: u16,
    /// The server's administrative socket.
    pub server_socket: PathBuf,
    /// The Workload API's socket.
    pub agent_socket: PathBuf,
    /// Address of the metrics and health listeners.
    pub http_bind_address: String,
    /// Port for Prometheus. `None`: no listener. 0: any free one.
    pub metrics_port: Option<u16>,
    /// Port for `/live` and `/ready`. `None`: no listener. 0: any free one.
    pub health_port: Option<u16>,
    /// Logs, which go to a file because the terminal shows the state.
    pub log: LogConfig,
}

/// Flags of `up`.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--trust-domain`
    pub trust_domain: Option<String>,
    /// `--server-bind-address`
    pub server_bind_address: Option<String>,
    /// `--server-port`
    pub server_port: Option<u16>,
    /// `--server-socket`
    pub server_socket: Option<PathBuf>,
    /// `--agent-socket`
    pub agent_socket: Option<PathBuf>,
    /// `--http-bind-address`
    pub http_bind_address: Option<String>,
    /// `--metrics-port`
    pub metrics_port: Option<u16>,
    /// `--health-port`
    pub health_port: Option<u16>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--log-file`
    pub log_file: Option<PathBuf>,
}

/// `$XDG_STATE_HOME/vouchsafe`, or `~/.local/state/vouchsafe`. `None` without either variable.
#[must_use]
pub fn default_data_dir(lookup: &Lookup<'_>) -> Option<PathBuf> {
    let absolute = |name: &str| lookup(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("vouchsafe"))
}

/// Where `up` puts the server's administrative socket.
#[must_use]
pub fn default_server_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("server/private/api.sock")
}

/// Where `up` puts the Workload API's socket.
#[must_use]
pub fn default_agent_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/public/api.sock")
}

/// What the flags come to.
///
/// # Errors
///
/// Everything that is wrong with them.
pub fn resolve(flags: Flags, lookup: &Lookup<'_>) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut problem = |message: String| problems.push(Problem { position: None, message });
    let data_dir = flags.data_dir.or_else(|| default_data_dir(lookup)).unwrap_or_else(|| {
        problem("--data-dir is needed, because neither XDG_STATE_HOME nor HOME is set".to_owned());
        PathBuf::new()
    });
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    let name = flags.trust_domain.unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned());
    let trust_domain = TrustDomain::parse(&name);
    if let Err(error) = &trust_domain {
        problem(format!("--trust-domain {name}: {error}"));
    }
    let server_socket = flags.server_socket.unwrap_or_else(|| default_server_socket(&data_dir));
    let agent_socket = flags.agent_socket.unwrap_or_else(|| default_agent_socket(&data_dir));
    for (flag, path) in [("--server-socket", &server_socket), ("--agent-socket", &agent_socket)] {
        if check_socket_path(&path.to_string_lossy()).is_err() {
            problem(format!(
                "the socket path {} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket allows; \
                 choose a shorter one with {flag}, or a shorter --data-dir",
                path.display()
            ));
        }
    }
    if server_socket == agent_socket {
        problem("--server-socket and --agent-socket must differ".to_owned());
    }
    let level = parse_level(flags.log_level.as_deref().unwrap_or("info"));
    let format = LogFormat::parse(flags.log_format.as_deref().unwrap_or_default());
    for error in [level.as_ref().err(), format.as_ref().err()].into_iter().flatten() {
        problem(error.clone());
    }
    let log_file = flags.log_file.unwrap_or_else(|| data_dir.join("vouchsafe.log"));
    let (Ok(trust_domain), true) = (trust_domain, problems.is_empty()) else { return Err(problems) };
    Ok(Config {
        trust_domain,
        server_bind_address: flags.server_bind_address.unwrap_or_else(|| "127.0.0.1".to_owned()),
        server_port: flags.server_port.unwrap_or(DEFAULT_SERVER_PORT),
        server_socket,
        agent_socket,
        http_bind_address: flags.http_bind_address.unwrap_or_else(|| "127.0.0.1".to_owned()),
        metrics_port: flags.metrics_port,
        health_port: flags.health_port,
        log: LogConfig {
            level: level.unwrap_or_default(),
            format: format.unwrap_or_default(),
            file: Some(log_file),
            source_location: false,
        },
        data_dir,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/ada".to_owned())
    }

    #[test]
    fn without_flags_everything_is_below_the_home_directory() {
        let config = resolve(Flags::default(), &home).unwrap();
        assert_eq!(config.data_dir, Path::new("/home/ada/.local/state/vouchsafe"));
        assert_eq!(config.agent_socket, Path::new("/home/ada/.local/state/vouchsafe/agent/public/api.sock"));
        assert_eq!(config.trust_domain.as_str(), "vouchsafe.local");
        assert_eq!((config.server_bind_address.as_str(), config.server_port), ("127.0.0.1", 8081));
        assert_eq!((config.metrics_port, config.health_port), (None, None));
        let state = |name: &str| (name == "XDG_STATE_HOME").then(|| "/state".to_owned());
        assert_eq!(resolve(Flags::default(), &state).unwrap().data_dir, Path::new("/state/vouchsafe"));
    }

    #[test]
    fn all_wrong_flags_are_named_at_once() {
        let flags = Flags {
            data_dir: Some(format!("/{}", "x".repeat(120)).into()),
            trust_domain: Some("Not A Domain".to_owned()),
            log_level: Some("loud".to_owned()),
            ..Flags::default()
        };
        let problems: Vec<_> = resolve(flags, &home).unwrap_err().into_iter().map(|p| p.message).collect();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].contains("--trust-domain Not A Domain"));
        assert!(problems[1].contains("--server-socket"));
        assert!(problems[3].contains("loud"));
        let nowhere = resolve(Flags::default(), &|_| None).unwrap_err();
        assert!(nowhere[0].message.contains("--data-dir is needed"));
    }
}
