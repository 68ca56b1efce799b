//! `agent purge`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{DeleteAgentRequest, list_agents_request};
use vouchsafe_proto::spire::api::types;

use super::super::{ServerCall, id_text};
use super::list;
use crate::cli::call::failed_to;
use crate::cli::output::counted;
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct PurgeArgs {
    /// Amount of time that has passed since the agent's SVID has expired. It is used to determine which agents to
    /// purge.
    #[arg(long = "expiredFor", value_name = "duration", default_value = "720h0m0s", value_parser = go::parse_duration)]
    expired_for: Duration,
    /// Indicates that the command will not perform any action, but will print the agents that would be purged.
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    call: ServerCall,
}

/// An expired agent and what became of it.
struct Purged {
    id: String,
    /// Whether it was deleted, or why not.
    outcome: Result<bool, String>,
}

/// Only agents that can attest again are looked at: the others would be lost for good.
pub(super) async fn purge(arguments: PurgeArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let failed = failed_to("failed to list agents");
    let channel = arguments.call.connect(console).await?.map_err(&failed)?;
    let mut client = AgentClient::new(channel);
    let filter = list_agents_request::Filter { by_can_reattest: Some(true), ..Default::default() };
    let mask = types::AgentMask { x509svid_expires_at: true, ..Default::default() };
    let agents = list::fetch(&mut client, filter, Some(mask)).await.map_err(failed)?;
    let now = console.clock.unix_now();
    let mut purged = Vec::new();
    for agent in agents {
        let expired = u64::try_from(now - agent.x509svid_expires_at);
        if expired.is_ok_and(|seconds| Duration::from_secs(seconds) > arguments.expired_for) {
            let id = id_text(agent.id.as_ref());
            let outcome = if arguments.dry_run {
                Ok(false)
            } else {
                let deleted = client.delete_agent(DeleteAgentRequest { id: agent.id }).await;
                deleted.map(|_| true).map_err(|status| go::rpc_error(&status))
            };
            purged.push(Purged { id, outcome });
        }
    }
    arguments.call.output.print(
        console,
        || json!({ "expired_agents": purged.iter().map(Purged::json).collect::<Value>() }),
        |console| print(&purged, arguments.dry_run, console),
    )
}

impl Purged {
    fn json(&self) -> Value {
        let deleted = matches!(self.outcome, Ok(true));
        json!({ "agent_id": self.id, "deleted": deleted, "error": self.outcome.as_ref().err() })
    }
}

fn print(purged: &[Purged], dry_run: bool, console: &mut Console<'_>) -> anyhow::Result<()> {
    if purged.is_empty() {
        return Ok(writeln!(console.stdout, "No agents to purge.")?);
    }
    writeln!(console.stdout, "Found {}\n", counted(purged.len(), "expired ", "agent", "agents"))?;
    if dry_run {
        writeln!(console.stdout, "\nAgents that can be purged:")?;
        for agent in purged {
            writeln!(console.stdout, "SPIFFE ID         : {}", agent.id)?;
        }
        return Ok(());
    }
    let (deleted, kept): (Vec<_>, Vec<_>) = purged.iter().partition(|agent| agent.outcome.is_ok());
    for (title, agents) in [("Agents purged:", deleted), ("Agents not purged:", kept)] {
        if !agents.is_empty() {
            writeln!(console.stdout, "{title}")?;
        }
        for agent in agents {
            writeln!(console.stdout, "SPIFFE ID         : {}", agent.id)?;
            if let Err(error) = &agent.outcome {
                writeln!(console.stdout, "Error             : {error}")?;
            }
        }
    }
    Ok(())
}
