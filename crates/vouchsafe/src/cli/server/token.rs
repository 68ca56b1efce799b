//! `token generate`.

use clap::{Args, Subcommand};
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;

use super::{ServerCall, parse_id};
use crate::cli::grammar::parse_number;
use crate::cli::proto_json;
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
    call: ServerCall,
}

pub(super) async fn execute(command: TokenCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    let TokenCommand::Generate(arguments) = command;
    let spiffe_id = arguments.spiffe_id.filter(|id| !id.is_empty());
    let agent_id = spiffe_id.as_deref().map(parse_id).transpose()?;
    let alias = agent_id.is_some();
    let request = CreateJoinTokenRequest { ttl: arguments.ttl, token: String::new(), agent_id };
    let answer = arguments
        .call
        .call("", console, async |channel| AgentClient::new(channel).create_join_token(request).await);
    let token = answer.await?;
    arguments.call.output.print(
        console,
        || proto_json::join_token(&token),
        |console| {
            writeln!(console.stdout, "Token: {}", token.value)?;
            if !alias {
                writeln!(console.stdout, "Warning: Missing SPIFFE ID.")?;
            }
            Ok(())
        },
    )
}
