//! `token generate`.

use clap::{Args, Subcommand};
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;

use super::{failed, parse_id};
use crate::cli::grammar::parse_number;
use crate::cli::output::{Format, OutputArgs, print_json};
use crate::cli::proto_json;
use crate::cli::socket::ServerSocketArgs;
use crate::console::Console;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TokenCommand {
    /// Generates a join token
    #[command(
        after_help = "Example:\n  spire-server token generate -ttl 300 -spiffeID spiffe://example.org/node-1"
    )]
    Generate(GenerateArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct GenerateArgs {
    /// Additional SPIFFE ID to assign the token owner (optional)
    #[arg(long = "spiffeID", value_name = "id")]
    spiffe_id: Option<String>,
    /// Token TTL in seconds
    #[arg(long = "ttl", value_name = "seconds", default_value = "600", value_parser = parse_number::<i32>)]
    ttl: i32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: ServerSocketArgs,
}

pub(super) async fn execute(command: TokenCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    let TokenCommand::Generate(arguments) = command;
    let spiffe_id = arguments.spiffe_id.filter(|id| !id.is_empty());
    let agent_id = spiffe_id.as_deref().map(parse_id).transpose()?;
    let alias = agent_id.is_some();
    let request = CreateJoinTokenRequest { ttl: arguments.ttl, token: String::new(), agent_id };
    let channel = arguments.socket.target(console)?.connect().await?;
    let token = AgentClient::new(channel).create_join_token(request).await.map_err(failed)?.into_inner();
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::join_token(&token)])?);
    }
    writeln!(console.stdout, "Token: {}", token.value)?;
    if !alias {
        writeln!(console.stdout, "Warning: Missing SPIFFE ID.")?;
    }
    Ok(())
}
