//! What the server has that the agent lacks, asked of the server's administrative socket.
//!
//! Entries that would apply are looked for by selectors or SPIFFE ID. One that the agent does not have is expired, or
//! belongs to another agent, or has not arrived yet: the parent of an entry is an agent, or an alias that stands for agents with
//! certain selectors, or an entry below one of these.

use std::path::Path;

use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::agent::v1::GetAgentRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{ListEntriesRequest, list_entries_request::Filter};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::agent::v1 as proto;
use vouchsafe_proto::vouchsafe::agent::v1::finding::Severity;
use vouchsafe_transport::connect::uds_channel;

use super::finding;
use crate::cli::server::{id_text, parse_id, parse_selector};
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::go;

/// Adds what the server at `socket` knows to `answer`.
pub(super) async fn add(
    socket: &Path,
    spiffe_id: Option<&str>,
    answer: &mut proto::ExplainResponse,
    now: i64,
) -> Result<(), Status> {
    let channel = uds_channel(socket).await.map_err(|error| Status::unavailable(error.to_string()))?;
    let agent_id = answer.agent.as_ref().map(|agent| agent.spiffe_id.clone()).unwrap_or_default();
    let mut server = Server { channel, agent_id, agent: None, now };
    let of_agent = server.look_at_agent().await?;
    for explanation in &mut answer.explanations {
        let mut found = of_agent.clone();
        let filter = match spiffe_id {
            Some(id) => by_id(id),
            None if explanation.selectors.is_empty() => None,
            None => Some(by_selectors(&explanation.selectors)),
        };
        if let Some(filter) = filter {
            for entry in server.entries(filter).await? {
                let held = explanation.identities.iter().any(|identity| identity.entry_id == entry.id);
                if !held {
                    found.push(server.missing(&entry).await?);
                }
            }
        }
        found.truncate(MAX_FINDINGS);
        // Of the agent's own findings one that says the same is not said twice.
        explanation.findings.retain(|known| found.iter().all(|finding| finding.code != known.code));
        let missing = !found.is_empty();
        explanation.findings.splice(0..0, found);
        explanation.well &= !missing;
    }
    Ok(())
}

/// Notes that the server did not answer.
pub(super) fn was_not_asked(socket: &Path, status: &Status, answer: &mut proto::ExplainResponse) {
    let text = format!(
        "what the server has is not known: {} does not answer: {}",
        socket.display(),
        status.message()
    );
    let next = "`vouchsafe server healthcheck` on the server's machine; -serverSocketPath names its administrative socket".to_owned();
    let severity = Severity::Notice.into();
    let note = proto::Finding { severity, ..finding("server-not-asked", text, next) };
    answer.explanations.iter_mut().for_each(|explanation| explanation.findings.push(note.clone()));
}

struct Server {
    channel: Channel,
    agent_id: String,
    agent: Option<types::Agent>,
    now: i64,
}

impl Server {
    /// What the server thinks of the agent.
    async fn look_at_agent(&mut self) -> Result<Vec<proto::Finding>, Status> {
        let Ok(id) = parse_id(&self.agent_id) else { return Ok(Vec::new()) };
        let request = GetAgentRequest { id: Some(id), output_mask: None };
        let agent = &self.agent_id;
        match AgentClient::new(self.channel.clone()).get_agent(request).await {
            Ok(found) => self.agent = Some(found.into_inner()),
            Err(status) if status.code() == Code::NotFound => {
                let text = format!(
                    "the server does not know {agent}: it was evicted, or its database is another one"
                );
                let next = "`vouchsafe server token generate -spiffeID <node alias>` on the server, and start the agent with -joinToken";
                return Ok(vec![finding("agent-evicted", text, next.to_owned())]);
            }
            Err(status) => return Err(status),
        }
        let banned = self.agent.as_ref().is_some_and(|agent| agent.banned);
        Ok(banned
            .then(|| {
                let next = format!("to lift it: `vouchsafe server agent evict -spiffeID {agent}`, then `vouchsafe server token generate`, and start the agent with -joinToken");
                finding("agent-banned", format!("the server has banned {agent}"), next)
            })
            .into_iter()
            .collect())
    }

    async fn entries(&self, filter: Filter) -> Result<Vec<types::Entry>, Status> {
        let mut client = EntryClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let request = ListEntriesRequest {
            filter: Some(filter),
            output_mask: None,
            page_size: MAX_ENTRIES,
            page_token: String::new(),
        };
        Ok(client.list_entries(request).await?.into_inner().entries)
    }

    /// Why the agent lacks `entry`.
    async fn missing(&self, entry: &types::Entry) -> Result<proto::Finding, Status> {
        let (id, entry_id, parent) =
            (id_text(entry.spiffe_id.as_ref()), &entry.id, id_text(entry.parent_id.as_ref()));
        if entry.expires_at != 0 && entry.expires_at <= self.now {
            let text = format!(
                "the server's entry {entry_id} for {id} fits, and expired at {}",
                go::rfc3339(entry.expires_at)
            );
            let next = format!(
                "`vouchsafe server entry update -entryID {entry_id} …` with a later -entryExpiry, or none"
            );
            return Ok(finding("entry-expired", text, next));
        }
        if !self.is_below_agent(entry).await? {
            let agent = &self.agent_id;
            let text = format!(
                "the server's entry {entry_id} for {id} fits, but its parent is {parent}, which is not this agent nor an alias of it"
            );
            let next = format!(
                "if it is meant for this agent: `vouchsafe server entry update -entryID {entry_id} -parentID {agent} …`; otherwise ask the agent that it belongs to"
            );
            return Ok(finding("entry-of-another-agent", text, next));
        }
        let text =
            format!("the server has the entry {entry_id} for {id}, and the agent does not have it yet");
        let next = "if the agent reaches its server, it arrives within seconds: ask again. What keeps it from its server is named below, or in its log".to_owned();
        Ok(finding("entry-not-synced", text, next))
    }

    /// Whether `entry` belongs to the agent: by its parent, or by what that is below.
    async fn is_below_agent(&self, entry: &types::Entry) -> Result<bool, Status> {
        let Some(agent) = &self.agent else { return Ok(false) };
        let mut parents = vec![entry.parent_id.clone()];
        for _ in 0..MAX_DEPTH {
            let mut above = Vec::new();
            for parent in parents {
                if id_text(parent.as_ref()) == self.agent_id {
                    return Ok(true);
                }
                for entry in self.entries(Filter { by_spiffe_id: parent, ..Filter::default() }).await? {
                    let path = entry.parent_id.as_ref().map(|id| id.path.as_str());
                    let own =
                        types::Selector { r#type: "spiffe_id".to_owned(), value: self.agent_id.clone() };
                    let has = |selector| agent.selectors.contains(selector) || *selector == own;
                    if path == Some(SERVER_PATH) && entry.selectors.iter().all(has) {
                        return Ok(true);
                    }
                    above.push(entry.parent_id);
                }
            }
            above.truncate(MAX_PARENTS);
            parents = above;
        }
        Ok(false)
    }
}

fn by_id(id: &str) -> Option<Filter> {
    Some(Filter { by_spiffe_id: Some(parse_id(id).ok()?), ..Filter::default() })
}

/// Entries all of whose selectors are among these.
fn by_selectors(texts: &[String]) -> Filter {
    let selectors = texts.iter().filter_map(|text| parse_selector(text).ok()).collect();
    let r#match = types::selector_match::MatchBehavior::MatchSubset.into();
    Filter { by_selectors: Some(types::SelectorMatch { selectors, r#match }), ..Filter::default() }
}

/// The path of a server's own identity, which aliases are below.
const SERVER_PATH: &str = "/spire/server";

/// Entries that are looked at; further ones are left out.
const MAX_ENTRIES: i32 = 100;

/// Entries above one another.
const MAX_DEPTH: usize = 4;

/// Parents that are looked at on one level.
const MAX_PARENTS: usize = 8;

/// Findings that the server adds.
const MAX_FINDINGS: usize = 4;
