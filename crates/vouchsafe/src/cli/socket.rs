//! Which socket a command talks to, and the connection to it.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use tonic::Status;
use tonic::transport::Channel;

use super::ADVICE;
use crate::config::{agent, server, up};
use crate::console::Console;

/// The largest answer that is read: an entry list of a big installation.
pub(super) const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

#[derive(Args, Clone, Debug, Default)]
pub(super) struct ServerSocketArgs {
    /// Path to the SPIRE Server API socket [default: /tmp/spire-server/private/api.sock]
    #[arg(long = "socketPath", value_name = "path")]
    socket_path: Option<String>,
    /// Instance name to substitute into socket templates (env SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE)
    #[arg(long = "instance", value_name = "name")]
    instance: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub(super) struct AgentSocketArgs {
    /// Path to the SPIRE Agent API Unix domain socket [default: /tmp/spire-agent/public/api.sock]
    #[arg(long = "socketPath", value_name = "path")]
    socket_path: Option<String>,
    /// Instance name to substitute into socket templates (env SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE)
    #[arg(long = "instance", value_name = "name")]
    instance: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub(super) struct AdminSocketArgs {
    /// Path to the SPIRE Agent admin API socket [default: /tmp/spire-agent/private/admin.sock]
    #[arg(long = "socketPath", value_name = "path")]
    socket_path: Option<String>,
}

/// Where the agent's administrative socket is unless a flag says otherwise.
const DEFAULT_ADMIN_SOCKET_PATH: &str = "/tmp/spire-agent/private/admin.sock";

/// The flags that name a socket.
pub(super) trait SocketArgs: Args {
    /// The socket that they name.
    fn target(&self, console: &Console<'_>) -> anyhow::Result<Target>;
}

/// A socket to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    path: PathBuf,
    /// The path as SPIRE's commands write it when nobody listens there.
    shown: String,
    /// How to start whoever should listen there.
    start: &'static str,
}

struct Rules {
    default: &'static str,
    /// Names the path. With `_TEMPLATE` behind it: a path in which `%i` stands for the instance.
    variable: &'static str,
    /// Where `vouchsafe up` listens, below its data directory.
    of_up: fn(&Path) -> PathBuf,
    shown: fn(&Path) -> String,
    start: &'static str,
}

impl SocketArgs for ServerSocketArgs {
    fn target(&self, console: &Console<'_>) -> anyhow::Result<Target> {
        let rules = Rules {
            default: server::DEFAULT_SOCKET_PATH,
            variable: "SPIRE_SERVER_PRIVATE_SOCKET",
            of_up: up::default_server_socket,
            shown: with_slashes,
            start: "`vouchsafe server run` or `vouchsafe up`",
        };
        resolve(self.socket_path.as_deref(), self.instance.as_deref(), &rules, console)
    }
}

impl SocketArgs for AgentSocketArgs {
    fn target(&self, console: &Console<'_>) -> anyhow::Result<Target> {
        let rules = Rules {
            default: agent::DEFAULT_SOCKET_PATH,
            variable: "SPIRE_AGENT_PUBLIC_SOCKET",
            of_up: up::default_agent_socket,
            shown: absolute,
            start: "`vouchsafe agent run` or `vouchsafe up`",
        };
        resolve(self.socket_path.as_deref(), self.instance.as_deref(), &rules, console)
    }
}

impl SocketArgs for AdminSocketArgs {
    fn target(&self, _console: &Console<'_>) -> anyhow::Result<Target> {
        let flag = self.socket_path.as_deref().filter(|path| !path.is_empty());
        let path = PathBuf::from(flag.unwrap_or(DEFAULT_ADMIN_SOCKET_PATH));
        let start = "`vouchsafe agent run` and `admin_socket_path` in its configuration";
        Ok(Target { shown: with_slashes(&path), path, start })
    }
}

/// A flag, then the template, then the variable, then the default. Where nothing is said and nothing exists at the
/// default, the socket of `vouchsafe up` is taken if that exists.
fn resolve(
    flag: Option<&str>,
    instance: Option<&str>,
    rules: &Rules,
    console: &Console<'_>,
) -> anyhow::Result<Target> {
    let template_name = format!("{}_TEMPLATE", rules.variable);
    let instance = instance.filter(|name| !name.is_empty());
    let template = console.variable(&template_name).unwrap_or_default();
    if instance.is_some() {
        if template.is_empty() {
            bail!("you must define {template_name} to use the instance flag");
        }
        if !template.contains("%i") {
            bail!("failed to find %i in {template_name}");
        }
    }
    let flag = flag.filter(|path| !path.is_empty() && *path != rules.default);
    let path = match (flag, instance, console.variable(rules.variable)) {
        (Some(path), _, _) => PathBuf::from(path),
        (None, Some(instance), _) => PathBuf::from(template.replace("%i", instance)),
        (None, None, Some(path)) => PathBuf::from(path),
        (None, None, None) => default_path(rules, console),
    };
    Ok(Target { shown: (rules.shown)(&path), path, start: rules.start })
}

/// As the address of a gRPC target, which an absolute path follows after two slashes.
fn with_slashes(path: &Path) -> String {
    format!("{}{}", if path.is_absolute() { "//" } else { "" }, path.display())
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn default_path(rules: &Rules, console: &Console<'_>) -> PathBuf {
    let default = PathBuf::from(rules.default);
    if default.exists() {
        return default;
    }
    let of_up = up::default_data_dir(&*console.environment).map(|directory| (rules.of_up)(&directory));
    of_up.filter(|path| path.exists()).unwrap_or(default)
}

impl Target {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects, or says at once why that cannot be, as if the first call had failed.
    pub(super) async fn connect(&self) -> Result<Channel, Status> {
        vouchsafe_transport::connect::uds_channel(&self.path).await.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &(dyn std::error::Error + 'static)) -> Status {
        let Self { shown: path, start, .. } = self;
        let (reason, next) = match system_error(error) {
            Some(error) => match error.kind() {
                io::ErrorKind::NotFound => (
                    "no such file or directory".to_owned(),
                    format!("Start it with {start}, or name its socket with -socketPath."),
                ),
                io::ErrorKind::ConnectionRefused => (
                    "connection refused".to_owned(),
                    format!(
                        "The socket is left over from a process that is gone; start it anew with {start}."
                    ),
                ),
                io::ErrorKind::PermissionDenied => (
                    "permission denied".to_owned(),
                    "Run this as a user who may open the socket: its owner, or a member of its group."
                        .to_owned(),
                ),
                _ => (error.to_string(), "Check the path given with -socketPath.".to_owned()),
            },
            None => (error.to_string(), "Check the path given with -socketPath.".to_owned()),
        };
        Status::unavailable(format!(
            "connection error: desc = \
             \"transport: Error while dialing: dial unix {path}: connect: {reason}\"{ADVICE}{next}"
        ))
    }
}

/// The system's error at the bottom of a chain.
fn system_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e io::Error> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some())
        {
            return Some(found);
        }
        current = error.source();
    }
    None
}
