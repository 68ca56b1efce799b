//! Attested agents.

mod list;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, DeleteAgentRequest, GetAgentRequest};
use vouchsafe_proto::spire::api::types;

use super::{failed, id_text, parse_id};
use crate::cli::output::{Format, OutputArgs, print_json};
use crate::cli::proto_json;
use crate::cli::socket::{MAX_ANSWER_BYTES, ServerSocketArgs};
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
    Show(OneArgs),
    /// Ban an attested agent given its SPIFFE ID
    Ban(OneArgs),
    /// Evicts an attested agent given its SPIFFE ID
    Evict(OneArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct OneArgs {
    /// The SPIFFE ID of the agent (agent identity)
    #[arg(long = "spiffeID", value_name = "id")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: ServerSocketArgs,
}

pub(super) async fn execute(command: AgentsCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    match command {
        AgentsCommand::List(arguments) => list::list(arguments, console).await,
        AgentsCommand::Count(arguments) => list::count(arguments, console).await,
        AgentsCommand::Show(arguments) => show(arguments, console).await,
        AgentsCommand::Ban(arguments) => ban(arguments, console).await,
        AgentsCommand::Evict(arguments) => evict(arguments, console).await,
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
    let channel = arguments.socket.target(console)?.connect().await?;
    let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let agent = client.get_agent(request).await.map_err(failed)?.into_inner();
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::agent(&agent)])?);
    }
    writeln!(console.stdout, "Found an attested agent given its SPIFFE ID\n")?;
    write!(console.stdout, "{}", render(&agent))?;
    for selector in &agent.selectors {
        writeln!(console.stdout, "Selectors         : {}:{}", selector.r#type, selector.value)?;
    }
    Ok(())
}

async fn ban(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let request = BanAgentRequest { id: Some(arguments.id()?) };
    let channel = arguments.socket.target(console)?.connect().await?;
    AgentClient::new(channel).ban_agent(request).await.map_err(failed)?;
    print_done("Agent banned successfully", arguments.output, console)
}

async fn evict(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let request = DeleteAgentRequest { id: Some(arguments.id()?) };
    let channel = arguments.socket.target(console)?.connect().await?;
    AgentClient::new(channel).delete_agent(request).await.map_err(failed)?;
    print_done("Agent evicted successfully", arguments.output, console)
}

fn print_done(text: &str, output: OutputArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    match output.output {
        Format::Json => print_json(console, vec![json!({})])?,
        Format::Pretty => writeln!(console.stdout, "{text}")?,
    }
    Ok(())
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
