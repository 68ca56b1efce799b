//! The commands of the server.

mod agents;
mod authority;
mod bundle;
mod bundle_data;
mod datastore;
mod entry;
mod federation;
mod json_file;
mod mint;
mod mint_jwt;
mod mint_x509;
mod run;
mod switch;
mod token;

use std::io;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::SpiffeId;

use super::call::CallArgs;
use super::debug::{self, DebugCommand};
use super::health::{self, HealthFlags};
use super::logger::{self, LoggerCommand};
use super::socket::{ServerSocketArgs, SocketArgs};
use super::{ADVICE, block_on, report};
use crate::console::Console;

/// The flags of every command that calls the server.
type ServerCall = CallArgs<ServerSocketArgs>;

#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// Runs the server
    #[command(after_help = "Example:\n  spire-server run -config /etc/spire/server.conf -logLevel debug")]
    Run(run::RunArgs),
    /// Validates a SPIRE server configuration file
    #[command(after_help = "Example:\n  spire-server validate -config /etc/spire/server.conf")]
    Validate(run::RunArgs),
    /// Takes over the database and keys of a stopped SPIRE server
    #[command(
        after_help = "Examples:\n  vouchsafe server import -config /etc/spire/server.conf -dryRun\n  vouchsafe server import -config /etc/spire/server.conf"
    )]
    Import(switch::ImportArgs),
    /// Gives database and keys back to SPIRE
    #[command(after_help = "Example:\n  vouchsafe server export -config /etc/spire/server.conf")]
    Export(switch::SwitchArgs),
    /// The server's database
    #[command(subcommand, arg_required_else_help = true)]
    Datastore(datastore::DatastoreCommand),
    /// Determines server health status
    Healthcheck(HealthcheckArgs),
    /// Join tokens
    #[command(subcommand, arg_required_else_help = true)]
    Token(token::TokenCommand),
    /// Registration entries
    #[command(subcommand, arg_required_else_help = true)]
    Entry(entry::EntryCommand),
    /// Attested agents
    #[command(subcommand, arg_required_else_help = true)]
    Agent(agents::AgentsCommand),
    /// Trust bundles
    #[command(subcommand, arg_required_else_help = true)]
    Bundle(bundle::BundleCommand),
    /// Federation with other trust domains
    #[command(subcommand, arg_required_else_help = true)]
    Federation(federation::FederationCommand),
    /// X509-SVIDs
    #[command(subcommand, arg_required_else_help = true)]
    X509(X509Command),
    /// JWT-SVIDs
    #[command(subcommand, arg_required_else_help = true)]
    Jwt(JwtCommand),
    /// The keys that this server signs with
    #[command(subcommand, arg_required_else_help = true)]
    Localauthority(authority::LocalAuthorityCommand),
    /// The authorities above this server's
    #[command(subcommand, arg_required_else_help = true)]
    Upstreamauthority(authority::UpstreamAuthorityCommand),
    /// The server's log
    #[command(subcommand, arg_required_else_help = true)]
    Logger(LoggerCommand<ServerSocketArgs>),
    /// Debug information about the server
    #[command(subcommand, arg_required_else_help = true)]
    Debug(DebugCommand<ServerSocketArgs>),
}

#[derive(Args, Debug)]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    flags: HealthFlags,
    #[command(flatten)]
    socket: ServerSocketArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum X509Command {
    /// Mints an X509-SVID
    #[command(
        after_help = "Example:\n  spire-server x509 mint -spiffeID spiffe://example.org/job -ttl 1h -write ."
    )]
    Mint(mint_x509::MintArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum JwtCommand {
    /// Mints a JWT-SVID
    #[command(
        after_help = "Example:\n  spire-server jwt mint -spiffeID spiffe://example.org/job -audience db"
    )]
    Mint(mint_jwt::MintArgs),
}

/// Runs a command and returns its exit code.
pub(super) fn execute(command: ServerCommand, console: &mut Console<'_>) -> io::Result<u8> {
    let result = match command {
        ServerCommand::Run(arguments) => return run::run(arguments, console),
        ServerCommand::Validate(arguments) => return run::validate(arguments, console),
        ServerCommand::Import(arguments) => block_on(switch::import(arguments, console)),
        ServerCommand::Export(arguments) => block_on(switch::export(arguments, console)),
        ServerCommand::Datastore(command) => datastore::execute(command, console),
        ServerCommand::Healthcheck(arguments) => block_on(healthcheck(arguments, console)),
        ServerCommand::Token(command) => block_on(token::execute(command, console)),
        ServerCommand::Entry(command) => block_on(entry::execute(command, console)),
        ServerCommand::Agent(command) => block_on(agents::execute(command, console)),
        ServerCommand::Bundle(command) => block_on(bundle::execute(command, console)),
        ServerCommand::X509(X509Command::Mint(arguments)) => block_on(mint_x509::mint(arguments, console)),
        ServerCommand::Jwt(JwtCommand::Mint(arguments)) => block_on(mint_jwt::mint(arguments, console)),
        ServerCommand::Federation(command) => block_on(federation::execute(command, console)),
        ServerCommand::Localauthority(command) => block_on(authority::local(command, console)),
        ServerCommand::Upstreamauthority(command) => block_on(authority::upstream(command, console)),
        ServerCommand::Logger(command) => block_on(logger::execute(command, console)),
        ServerCommand::Debug(command) => block_on(debug::server(command, console)),
    };
    report(result, "Error: ", console)
}

async fn healthcheck(arguments: HealthcheckArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let target = arguments.socket.target(console)?;
    let checked = health::check("server", &target, &arguments.flags, console).await;
    checked.map_err(|error| anyhow!("server is unhealthy: {error:#}"))?;
    Ok(writeln!(console.stdout, "Server is healthy.")?)
}

/// Whether a result is a success.
fn is_ok(status: &Option<types::Status>) -> bool {
    status.as_ref().is_none_or(|status| status.code == 0)
}

/// A SPIFFE ID typed by a person.
pub(super) fn parse_id(text: &str) -> anyhow::Result<types::Spiffeid> {
    let id = SpiffeId::parse(text).map_err(|error| {
        anyhow!("{error}{ADVICE}\"{text}\" is not a SPIFFE ID; write it like spiffe://example.org/web")
    })?;
    Ok(types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() })
}

/// `type:value`; the value may contain colons.
pub(super) fn parse_selector(text: &str) -> anyhow::Result<types::Selector> {
    match text.split_once(':') {
        Some((kind, value)) => Ok(types::Selector { r#type: kind.to_owned(), value: value.to_owned() }),
        None => bail!("selector \"{text}\" must be formatted as type:value"),
    }
}

/// How a list that is asked for relates to the one that is found.
fn parse_match(text: &str) -> Option<types::selector_match::MatchBehavior> {
    use types::selector_match::MatchBehavior;
    match text {
        "exact" => Some(MatchBehavior::MatchExact),
        "any" => Some(MatchBehavior::MatchAny),
        "superset" => Some(MatchBehavior::MatchSuperset),
        "subset" => Some(MatchBehavior::MatchSubset),
        _ => None,
    }
}

pub(super) fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}
