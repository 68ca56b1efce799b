//! What can be typed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::agent::AgentCommand;
use super::csi::{CsiArgs, CsiCommand};
use super::explain::ExplainArgs;
use super::helper::HelperArgs;
use super::oidc::{OidcArgs, OidcCommand};
use super::registrar::{RegistrarArgs, RegistrarCommand};
use super::server::ServerCommand;
use crate::config::up::Flags;

/// Which program this is, by the name it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `vouchsafe`: everything.
    All,
    /// `spire-server`: the commands of the server.
    Server,
    /// `spire-agent`: the commands of the agent.
    Agent,
    /// `spiffe-csi-driver`: `csi run` without a command.
    Csi,
    /// `spiffe-helper`: `helper`.
    Helper,
    /// `oidc-discovery-provider`: `oidc run` without a command.
    Oidc,
    /// `spire-controller-manager`: `registrar run` without a command.
    Registrar,
}

impl Part {
    pub(super) fn from_program_name(name: Option<&OsStr>) -> Self {
        let name = name.map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
        match name {
            Some("spire-server") => Self::Server,
            Some("spire-agent") => Self::Agent,
            Some("spiffe-csi-driver") => Self::Csi,
            Some("spiffe-helper") => Self::Helper,
            Some("oidc-discovery-provider") => Self::Oidc,
            Some("spire-controller-manager") => Self::Registrar,
            _ => Self::All,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs server and agent in one process, ready to use
    Up(UpArgs),
    /// Runs and manages the identity server (the commands of spire-server)
    #[command(subcommand)]
    Server(ServerCommand),
    /// Runs the node agent and asks it for identities (the commands of spire-agent)
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Serves the keys of JWT-SVIDs to OpenID Connect verifiers (SPIRE's oidc-discovery-provider)
    #[command(subcommand)]
    Oidc(OidcCommand),
    /// Registers the Pods of a Kubernetes cluster (spire-controller-manager)
    #[command(subcommand)]
    Registrar(RegistrarCommand),
    /// Gives Pods the Workload API's socket as a volume (spiffe-csi-driver)
    #[command(subcommand)]
    Csi(CsiCommand),
    /// Keeps an identity in files, for programs that only read files (spiffe-helper)
    Helper(HelperArgs),
    /// Tells why a process, a Pod or a SPIFFE ID has or lacks an identity, and what to do next
    Explain(Box<ExplainArgs>),
    /// Prints a script that completes commands in your shell
    #[command(
        after_help = "Examples:\n  vouchsafe completion bash > ~/.local/share/bash-completion/completions/vouchsafe"
    )]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// The whole grammar of a program, built.
#[must_use]
pub fn grammar(part: Part) -> clap::Command {
    let command = match part {
        Part::All => Command::augment_subcommands(clap::Command::new("vouchsafe"))
            .about("Workload identity that stays up: takes the place of SPIRE's server and agent")
            .after_help(
                "Examples:\n  \
                 vouchsafe up                                     everything on this machine, in one process\n  \
                 vouchsafe server run -config server.conf         a server, from SPIRE's file\n  \
                 vouchsafe server entry show                      which workloads are registered\n  \
                 vouchsafe agent api fetch x509                   the identity of who asks\n  \
                 vouchsafe explain -pid 4711                      why a process has or lacks an identity\n\n\
                 Flags may have one dash or two, and their value after a space or `=`.",
            ),
        Part::Server => ServerCommand::augment_subcommands(clap::Command::new("spire-server"))
            .about("Runs and manages the identity server"),
        Part::Agent => AgentCommand::augment_subcommands(clap::Command::new("spire-agent"))
            .about("Runs the node agent and asks it for identities"),
        Part::Csi => CsiArgs::augment_args(clap::Command::new("spiffe-csi-driver"))
            .about("Gives Pods the Workload API's socket as a volume"),
        Part::Helper => HelperArgs::augment_args(clap::Command::new("spiffe-helper"))
            .about("Keeps an identity in files, for programs that only read files"),
        Part::Oidc => OidcArgs::augment_args(clap::Command::new("oidc-discovery-provider"))
            .about("Serves the keys of JWT-SVIDs to OpenID Connect verifiers"),
        Part::Registrar => RegistrarArgs::augment_args(clap::Command::new("spire-controller-manager"))
            .about("Registers the Pods of a Kubernetes cluster"),
    };
    let has_commands = !matches!(part, Part::Csi | Part::Helper | Part::Oidc | Part::Registrar);
    let command = command.version(env!("CARGO_PKG_VERSION"));
    let mut command = adapt(command.subcommand_required(has_commands).arg_required_else_help(has_commands));
    command.build();
    command
}

/// Gives every command and flag the habits of Go's: a repeated flag wins over the earlier one, and booleans take
/// `=true` or `=false`.
fn adapt(command: clap::Command) -> clap::Command {
    let command = command.args_override_self(true).disable_help_subcommand(true).term_width(HELP_WIDTH);
    let command = command.mut_args(|argument| {
        if !matches!(argument.get_action(), ArgAction::SetTrue) {
            return argument;
        }
        argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_name("true|false")
            .value_parser(parse_bool)
            .hide_default_value(true)
    });
    command.mut_subcommands(adapt)
}

/// Columns of a help text, the same on every terminal.
const HELP_WIDTH: usize = 110;

/// Reads a boolean as Go's flags do.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Reads a whole number.
pub(super) fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    vouchsafe up\n  \
    vouchsafe up --trust-domain example.org --data-dir ./state\n  \
    vouchsafe up --server-port 0 --metrics-port 9988 --health-port 8080\n\n\
    Nothing here needs root. A second run continues with the state of the first.")]
pub(super) struct UpArgs {
    /// Where the state is kept [default: $XDG_STATE_HOME/vouchsafe or ~/.local/state/vouchsafe]
    #[arg(long, value_name = "directory")]
    data_dir: Option<PathBuf>,
    /// The trust domain [default: vouchsafe.local]
    #[arg(long, value_name = "name")]
    trust_domain: Option<String>,
    /// Address of the server, for agents on other machines [default: 127.0.0.1]
    #[arg(long, value_name = "address")]
    server_bind_address: Option<String>,
    /// Port of the server; 0 takes any free one [default: 8081]
    #[arg(long, value_name = "port")]
    server_port: Option<u16>,
    /// The server's administrative socket [default: server/private/api.sock in the data directory]
    #[arg(long, value_name = "path")]
    server_socket: Option<PathBuf>,
    /// The Workload API's socket [default: agent/public/api.sock in the data directory]
    #[arg(long, value_name = "path")]
    agent_socket: Option<PathBuf>,
    /// Address of the metrics and health listeners [default: 127.0.0.1]
    #[arg(long, value_name = "address")]
    http_bind_address: Option<String>,
    /// Port for Prometheus; 0 takes any free one [default: no listener]
    #[arg(long, value_name = "port")]
    metrics_port: Option<u16>,
    /// Port for /live and /ready; 0 takes any free one [default: no listener]
    #[arg(long, value_name = "port")]
    health_port: Option<u16>,
    /// Least important messages to log: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "level")]
    log_level: Option<String>,
    /// Look of log lines: text or json [default: text]
    #[arg(long, value_name = "format")]
    log_format: Option<String>,
    /// Where logs go [default: vouchsafe.log in the data directory]
    #[arg(long, value_name = "path")]
    log_file: Option<PathBuf>,
}

impl From<UpArgs> for Flags {
    fn from(arguments: UpArgs) -> Self {
        Self {
            data_dir: arguments.data_dir,
            trust_domain: arguments.trust_domain,
            server_bind_address: arguments.server_bind_address,
            server_port: arguments.server_port,
            server_socket: arguments.server_socket,
            agent_socket: arguments.agent_socket,
            http_bind_address: arguments.http_bind_address,
            metrics_port: arguments.metrics_port,
            health_port: arguments.health_port,
            log_level: arguments.log_level,
            log_format: arguments.log_format,
            log_file: arguments.log_file,
        }
    }
}
