//! The commands of the agent.

mod fetch_jwt;
mod fetch_x509;
mod run;
mod svids;
mod validate_jwt;
mod watch;
mod workload;

pub(super) use workload::{request, within};

use std::io;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::debug::{self, DebugCommand};
use super::health::{self, HealthFlags};
use super::logger::{self, LoggerCommand};
use super::socket::{AdminSocketArgs, AgentSocketArgs, SocketArgs};
use super::{block_on, report};
use crate::console::Console;

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Runs the agent
    #[command(after_help = "Example:\n  spire-agent run -config /etc/spire/agent.conf -joinToken 3b9ae0b2-…")]
    Run(Box<run::RunArgs>),
    /// Validates a SPIRE agent configuration file
    #[command(after_help = "Example:\n  spire-agent validate -config /etc/spire/agent.conf")]
    Validate(Box<run::RunArgs>),
    /// Determines agent health status
    Healthcheck(HealthcheckArgs),
    /// The Workload API, as the calling process
    #[command(subcommand, arg_required_else_help = true)]
    Api(ApiCommand),
    /// The agent's log
    #[command(subcommand, arg_required_else_help = true)]
    Logger(LoggerCommand<AdminSocketArgs>),
    /// Debug information about the agent
    #[command(subcommand, arg_required_else_help = true)]
    Debug(DebugCommand<AdminSocketArgs>),
}

#[derive(Args, Debug)]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    flags: HealthFlags,
    #[command(flatten)]
    socket: AgentSocketArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum ApiCommand {
    /// Fetches SVIDs from the Workload API; X509 unless told otherwise
    #[command(args_conflicts_with_subcommands = true)]
    Fetch(FetchArgs),
    /// Validates SVIDs
    #[command(subcommand, arg_required_else_help = true)]
    Validate(ValidateCommand),
    /// Attaches to the Workload API and prints updates as they're received
    Watch(watch::WatchArgs),
}

#[derive(Args, Debug)]
pub(super) struct FetchArgs {
    #[command(subcommand)]
    kind: Option<FetchCommand>,
    #[command(flatten)]
    x509: fetch_x509::FetchX509Args,
}

#[derive(Debug, Subcommand)]
enum FetchCommand {
    /// Fetches X509 SVIDs from the Workload API
    #[command(after_help = "Example:\n  spire-agent api fetch x509 -write /run/identity")]
    X509(fetch_x509::FetchX509Args),
    /// Fetches a JWT SVID from the Workload API
    #[command(after_help = "Example:\n  spire-agent api fetch jwt -audience database,cache")]
    Jwt(fetch_jwt::FetchJwtArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum ValidateCommand {
    /// Validates a JWT SVID
    #[command(after_help = "Example:\n  spire-agent api validate jwt -audience database -svid eyJhbGciOi…")]
    Jwt(validate_jwt::ValidateJwtArgs),
}

/// Runs a command and returns its exit code.
pub(super) fn execute(command: AgentCommand, console: &mut Console<'_>) -> io::Result<u8> {
    let result = match command {
        AgentCommand::Run(arguments) => return run::run(*arguments, console),
        AgentCommand::Validate(arguments) => return run::validate(*arguments, console),
        AgentCommand::Healthcheck(arguments) => block_on(healthcheck(arguments, console)),
        AgentCommand::Api(ApiCommand::Fetch(arguments)) => match arguments.kind {
            None => block_on(fetch_x509::fetch(arguments.x509, console)),
            Some(FetchCommand::X509(arguments)) => block_on(fetch_x509::fetch(arguments, console)),
            Some(FetchCommand::Jwt(arguments)) => block_on(fetch_jwt::fetch(arguments, console)),
        },
        AgentCommand::Api(ApiCommand::Validate(ValidateCommand::Jwt(arguments))) => {
            block_on(validate_jwt::validate(arguments, console))
        }
        AgentCommand::Api(ApiCommand::Watch(arguments)) => block_on(watch::watch(arguments, console)),
        AgentCommand::Logger(command) => {
            return report(block_on(logger::execute(command, console)), "Error: ", console);
        }
        AgentCommand::Debug(command) => {
            return report(block_on(debug::agent(command, console)), "Error: ", console);
        }
    };
    // Unlike those of the administrative socket, errors of the Workload API have no prefix.
    report(result, "", console)
}

async fn healthcheck(arguments: HealthcheckArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let checked = match arguments.socket.target(console) {
        Ok(target) => health::check("agent", &target, &arguments.flags, console).await,
        Err(error) => Err(error),
    };
    checked.map_err(|error| anyhow!("Agent is unhealthy: {error:#}"))?;
    Ok(writeln!(console.stdout, "Agent is healthy.")?)
}
