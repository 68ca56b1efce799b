//! `agent list` and `agent count`.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    CountAgentsRequest, ListAgentsRequest, count_agents_request, list_agents_request,
};
use vouchsafe_proto::spire::api::types;

use super::super::{failed, parse_match, parse_selector};
use super::render;
use crate::cli::output::{Format, OutputArgs, counted, print_json};
use crate::cli::proto_json;
use crate::cli::socket::{MAX_ANSWER_BYTES, ServerSocketArgs};
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
    output: OutputArgs,
    #[command(flatten)]
    socket: ServerSocketArgs,
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
    let channel = arguments.socket.target(console)?.connect().await?;
    let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let filter = Some(filter.clone());
        let request = ListAgentsRequest { filter, output_mask: None, page_size: PAGE_SIZE, page_token };
        let page = client.list_agents(request).await.map_err(failed)?.into_inner();
        agents.extend(page.agents);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::agents(&agents)])?);
    }
    if agents.is_empty() {
        return Ok(writeln!(console.stdout, "No attested agents found")?);
    }
    writeln!(console.stdout, "Found {}:\n", counted(agents.len(), "attested ", "agent", "agents"))?;
    for agent in &agents {
        write!(console.stdout, "{}", render(agent))?;
    }
    Ok(())
}

pub(super) async fn count(arguments: FilterArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let filter = arguments.filter()?;
    let filter = count_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    };
    let channel = arguments.socket.target(console)?.connect().await?;
    let response = AgentClient::new(channel).count_agents(CountAgentsRequest { filter: Some(filter) }).await;
    let count = response.map_err(failed)?.into_inner().count;
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::count(count)])?);
    }
    let text = counted(usize::try_from(count).unwrap_or(0), "attested ", "agent", "agents");
    Ok(writeln!(console.stdout, "{text}")?)
}
