//! Attested agents.

mod connected;
mod list;
mod purge;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, DeleteAgentRequest, GetAgentRequest};
use vouchsafe_proto::spire::api::types;

use super::{ServerCall, id_text, parse_id};
use crate::cli::output::OutputArgs;
use crate::cli::proto_json;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::console::Console;
use crate::go;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AgentsCommand {
    /// Lists attested agents and their SPIFFE IDs
    #[command(after_help = "Example:\n  spire-server agent list -attestationType join_token -banned=false")]
    List(list::FilterArgs),
    /// Count attested agents
    Count(list::FilterArgs),
    /// Shows the details of an attested agent given its SPIFFE ID
    #[command(
        after_help = "Example:\n  spire-server agent show -spiffeID spiffe://example.org/spire/agent/x509pop/node-1"
    )]
    Show(OneArgs),
    /// Ban an attested agent given its SPIFFE ID
    #[command(
        after_help = "Example:\n  spire-server agent ban -spiffeID spiffe://example.org/spire/agent/x509pop/node-1"
    )]
    Ban(OneArgs),
    /// Evicts an attested agent given its SPIFFE ID
    #[command(
        after_help = "Example:\n  spire-server agent evict -spiffeID spiffe://example.org/spire/agent/x509pop/node-1"
    )]
    Evict(OneArgs),
    /// Lists attested agents by whether they are in contact with this server (not in SPIRE)
    #[command(after_help = "Example:\n  vouchsafe server agent connected -disconnected")]
    Connected(connected::ConnectedArgs),
    /// Purge expired agents that were attested using a non-TOFU security model based on a given time
    #[command(after_help = "Example:\n  spire-server agent purge -expiredFor 168h -dryRun")]
    Purge(purge::PurgeArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct OneArgs {
    /// The SPIFFE ID of the agent (agent identity)
    #[arg(long = "spiffeID", value_name = "id")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    call: ServerCall,
}

pub(super) async fn execute(command: AgentsCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    match command {
        AgentsCommand::List(arguments) => list::list(arguments, console).await,
        AgentsCommand::Count(arguments) => list::count(arguments, console).await,
        AgentsCommand::Show(arguments) => show(arguments, console).await,
        AgentsCommand::Ban(arguments) => ban(arguments, console).await,
        AgentsCommand::Evict(arguments) => evict(arguments, console).await,
        AgentsCommand::Connected(arguments) => connected::connected(arguments, console).await,
        AgentsCommand::Purge(arguments) => purge::purge(arguments, console).await,
    }
}

impl OneArgs {
    fn id(&self) -> anyhow::Result<types::Spiffeid> {
        match self.spiffe_id.as_deref() {
            None | Some("") => bail!("a SPIFFE ID is required"),
            Some(id) => parse_id(id),
        }
    }
}

async fn show(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let request = GetAgentRequest { id: Some(arguments.id()?), output_mask: None };
    let answer = arguments.call.call("", console, async |channel| {
        AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES).get_agent(request).await
    });
    let agent = answer.await?;
    arguments.call.output.print(
        console,
        || proto_json::agent(&agent),
        |console| {
            writeln!(console.stdout, "Found an attested agent given its SPIFFE ID\n")?;
            write!(console.stdout, "{}", render(&agent))?;
            for selector in &agent.selectors {
                writeln!(console.stdout, "Selectors         : {}:{}", selector.r#type, selector.value)?;
            }
            Ok(())
        },
    )
}

async fn ban(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let request = BanAgentRequest { id: Some(arguments.id()?) };
    let banned =
        arguments.call.call("", console, async |channel| AgentClient::new(channel).ban_agent(request).await);
    banned.await?;
    print_done("Agent banned successfully", arguments.call.output, console)
}

async fn evict(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let request = DeleteAgentRequest { id: Some(arguments.id()?) };
    let evicted = arguments
        .call
        .call("", console, async |channel| AgentClient::new(channel).delete_agent(request).await);
    evicted.await?;
    print_done("Agent evicted successfully", arguments.call.output, console)
}

fn print_done(text: &str, output: OutputArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    output.print(console, || json!({}), |console| Ok(writeln!(console.stdout, "{text}")?))
}

/// An agent, one line a value, and an empty line.
fn render(agent: &types::Agent) -> String {
    let mut lines = vec![
        ("SPIFFE ID", id_text(agent.id.as_ref())),
        ("Attestation type", agent.attestation_type.clone()),
        ("Expiration time", go::time_string(agent.x509svid_expires_at)),
    ];
    lines.push(match agent.banned {
        true => ("Banned", "true".to_owned()),
        false => ("Serial number", agent.x509svid_serial_number.clone()),
    });
    lines.push(("Can re-attest", agent.can_reattest.to_string()));
    if !agent.agent_version.is_empty() {
        lines.push(("Agent version", agent.agent_version.clone()));
    }
    let lines = lines.into_iter().map(|(label, value)| format!("{label:<18}: {value}\n"));
    lines.collect::<String>() + "\n"
}
