//! `agent list` and `agent count`.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use tonic::Status;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    CountAgentsRequest, ListAgentsRequest, count_agents_request, list_agents_request,
};
use vouchsafe_proto::spire::api::types;

use super::super::{ServerCall, parse_match, parse_selector};
use super::render;
use crate::cli::call::failed_to;
use crate::cli::output::counted;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::cli::{pages, proto_json};
use crate::console::Console;
use crate::go;

/// Agents asked for at once.
const PAGE_SIZE: i32 = 1000;

#[derive(Args, Debug)]
pub(in crate::cli) struct FilterArgs {
    /// Filter by attestation type, like join_token or x509pop
    #[arg(long = "attestationType", value_name = "type", default_value = "", hide_default_value = true)]
    attestation_type: String,
    /// Filter based on string received, 'true': banned agents, 'false': not banned agents, other value will return all
    #[arg(long = "banned", value_name = "true|false", default_value = "", hide_default_value = true)]
    banned: String,
    /// Filter based on string received, 'true': agents that can reattest, 'false': agents that can't reattest, other
    /// value will return all
    #[arg(long = "canReattest", value_name = "true|false", default_value = "", hide_default_value = true)]
    can_reattest: String,
    /// Filter by expiration time (format: "2006-01-02 15:04:05 -0700 -07")
    #[arg(long = "expiresBefore", value_name = "time", default_value = "", hide_default_value = true)]
    expires_before: String,
    /// The match mode used when filtering by selectors. Options: exact, any, superset and subset
    #[arg(long = "matchSelectorsOn", value_name = "mode", default_value = "superset")]
    match_selectors_on: String,
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "type:value")]
    selector: Vec<String>,
    #[command(flatten)]
    call: ServerCall,
}

impl FilterArgs {
    fn filter(&self) -> anyhow::Result<list_agents_request::Filter> {
        let by_selector_match = if self.selector.is_empty() {
            None
        } else {
            let Some(behaviour) = parse_match(&self.match_selectors_on) else {
                bail!("unsupported match behavior")
            };
            let selectors = self.selector.iter().map(|text| {
                parse_selector(text).with_context(|| format!("error parsing selector {}", go::quote(text)))
            });
            let selectors = selectors.collect::<anyhow::Result<_>>()?;
            Some(types::SelectorMatch { selectors, r#match: behaviour.into() })
        };
        if !self.expires_before.is_empty() {
            go::check_layout(&self.expires_before).map_err(|error| anyhow!("date is not valid: {error}"))?;
        }
        Ok(list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone(),
            by_selector_match,
            by_banned: three_states(&self.banned),
            by_can_reattest: three_states(&self.can_reattest),
            by_expires_before: self.expires_before.clone(),
        })
    }
}

/// `true`, `false`, or anything else for both.
fn three_states(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub(super) async fn list(arguments: FilterArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let filter = arguments.filter()?;
    let channel = arguments.call.connect(console).await?.map_err(failed_to(""))?;
    let agents = fetch(&mut AgentClient::new(channel), filter, None).await.map_err(failed_to(""))?;
    arguments.call.output.print(
        console,
        || proto_json::agents(&agents),
        |console| {
            if agents.is_empty() {
                return Ok(writeln!(console.stdout, "No attested agents found")?);
            }
            writeln!(console.stdout, "Found {}:\n", counted(agents.len(), "attested ", "agent", "agents"))?;
            for agent in &agents {
                write!(console.stdout, "{}", render(agent))?;
            }
            Ok(())
        },
    )
}

/// All agents that the filter lets through.
pub(super) async fn fetch(
    client: &mut AgentClient<Channel>,
    filter: list_agents_request::Filter,
    output_mask: Option<types::AgentMask>,
) -> Result<Vec<types::Agent>, Status> {
    pages::all(async |page_token| {
        let filter = Some(filter.clone());
        let request = ListAgentsRequest { filter, output_mask, page_size: PAGE_SIZE, page_token };
        let mut client = client.clone().max_decoding_message_size(MAX_ANSWER_BYTES);
        let page = client.list_agents(request).await?.into_inner();
        Ok((page.agents, page.next_page_token))
    })
    .await
}

pub(super) async fn count(arguments: FilterArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let filter = arguments.filter()?;
    let filter = Some(count_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    });
    let answer = arguments.call.call("", console, async |channel| {
        AgentClient::new(channel).count_agents(CountAgentsRequest { filter }).await
    });
    let count = answer.await?.count;
    arguments.call.output.print(
        console,
        || proto_json::count(count),
        |console| {
            let text = counted(usize::try_from(count).unwrap_or(0), "attested ", "agent", "agents");
            Ok(writeln!(console.stdout, "{text}")?)
        },
    )
}
