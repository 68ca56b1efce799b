//! `entry show` and `entry count`.

use std::cmp::Ordering;

use anyhow::{Context, bail};
use clap::Args;
use tonic::Status;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    CountEntriesRequest, GetEntryRequest, ListEntriesRequest, count_entries_request, list_entries_request,
};
use vouchsafe_proto::spire::api::types;

use super::super::{ServerCall, parse_id, parse_match, parse_selector};
use super::text;
use crate::cli::call::failed_to;
use crate::cli::output::counted;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::cli::{pages, proto_json};
use crate::console::Console;
use crate::go;

/// Entries asked for at once.
const PAGE_SIZE: i32 = 500;

#[derive(Args, Debug)]
struct FilterArgs {
    /// A boolean value that, when set, indicates that the entry describes a downstream SPIRE server
    #[arg(long = "downstream")]
    downstream: bool,
    /// SPIFFE ID of a trust domain an entry is federate with. Can be used more than once
    #[arg(long = "federatesWith", value_name = "id")]
    federates_with: Vec<String>,
    /// The Hint of the records (optional)
    #[arg(long = "hint", value_name = "text")]
    hint: Option<String>,
    /// The match mode used when filtering by federates with. Options: exact, any, superset and subset
    #[arg(long = "matchFederatesWithOn", value_name = "mode", default_value = "superset")]
    match_federates_with_on: String,
    /// The match mode used when filtering by selectors. Options: exact, any, superset and subset
    #[arg(long = "matchSelectorsOn", value_name = "mode", default_value = "superset")]
    match_selectors_on: String,
    /// The Parent ID of the records
    #[arg(long = "parentID", value_name = "id")]
    parent_id: Option<String>,
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "type:value")]
    selector: Vec<String>,
    /// The SPIFFE ID of the records
    #[arg(long = "spiffeID", value_name = "id")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ShowArgs {
    /// The Entry ID of the records to show
    #[arg(long = "entryID", value_name = "id")]
    entry_id: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct CountArgs {
    #[command(flatten)]
    filter: FilterArgs,
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl FilterArgs {
    fn filter(&self) -> anyhow::Result<list_entries_request::Filter> {
        let by_parent_id = given(&self.parent_id)
            .map(|id| parse_id(id).with_context(|| format!("error parsing parent ID {}", go::quote(id))))
            .transpose()?;
        let by_spiffe_id = given(&self.spiffe_id)
            .map(|id| parse_id(id).with_context(|| format!("error parsing SPIFFE ID {}", go::quote(id))))
            .transpose()?;
        Ok(list_entries_request::Filter {
            by_spiffe_id,
            by_parent_id,
            by_selectors: self.selectors()?,
            by_federates_with: self.trust_domains()?,
            by_hint: given(&self.hint).map(str::to_owned),
            by_downstream: Some(self.downstream),
        })
    }

    fn selectors(&self) -> anyhow::Result<Option<types::SelectorMatch>> {
        if self.selector.is_empty() {
            return Ok(None);
        }
        let behaviour = match_behaviour(&self.match_selectors_on)?;
        let selectors =
            self.selector.iter().map(|text| parse_selector(text).context("error parsing selectors"));
        let selectors = selectors.collect::<anyhow::Result<_>>()?;
        Ok(Some(types::SelectorMatch { selectors, r#match: behaviour }))
    }

    fn trust_domains(&self) -> anyhow::Result<Option<types::FederatesWithMatch>> {
        if self.federates_with.is_empty() {
            return Ok(None);
        }
        // The two enumerations have the same numbers.
        let behaviour = match_behaviour(&self.match_federates_with_on)?;
        Ok(Some(types::FederatesWithMatch { trust_domains: self.federates_with.clone(), r#match: behaviour }))
    }
}

fn match_behaviour(text: &str) -> anyhow::Result<i32> {
    match parse_match(text) {
        Some(behaviour) => Ok(behaviour.into()),
        None => bail!("match behavior {} unknown", go::quote(text)),
    }
}

pub(super) async fn show(arguments: ShowArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let flags = &arguments.filter;
    let id = given(&arguments.entry_id);
    let others =
        given(&flags.parent_id).is_some() || given(&flags.spiffe_id).is_some() || !flags.selector.is_empty();
    if id.is_some() && others {
        bail!("the -entryID flag can't be combined with others");
    }
    let filter = if id.is_some() { None } else { Some(flags.filter()?) };
    let what =
        id.map_or_else(|| "error fetching entries".to_owned(), |id| format!("error fetching entry ID {id}"));
    let failed = failed_to(&what);
    let channel = flags.call.connect(console).await?.map_err(&failed)?;
    let mut client = EntryClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let entries = match id {
        Some(id) => {
            let request = GetEntryRequest { id: id.to_owned(), output_mask: None };
            client.get_entry(request).await.map(|entry| vec![entry.into_inner()])
        }
        None => list(&mut client, filter).await,
    };
    let mut entries = entries.map_err(failed)?;
    sort(&mut entries);
    flags.call.output.print(
        console,
        || proto_json::entries(&entries),
        |console| {
            writeln!(console.stdout, "Found {}", counted(entries.len(), "", "entry", "entries"))?;
            for entry in &entries {
                write!(console.stdout, "{}", text::render(entry))?;
            }
            Ok(())
        },
    )
}

async fn list(
    client: &mut EntryClient<Channel>,
    filter: Option<list_entries_request::Filter>,
) -> Result<Vec<types::Entry>, Status> {
    pages::all(async |page_token| {
        let filter = filter.clone();
        let request = ListEntriesRequest { filter, output_mask: None, page_size: PAGE_SIZE, page_token };
        let page = client.list_entries(request).await?.into_inner();
        Ok((page.entries, page.next_page_token))
    })
    .await
}

/// By SPIFFE ID, parent, lifetimes and selectors, so that the output does not depend on the database.
fn sort(entries: &mut [types::Entry]) {
    for entry in entries.iter_mut() {
        entry.selectors.sort_by(compare_selectors);
    }
    entries.sort_by(|a, b| {
        let id = |id: &Option<types::Spiffeid>| {
            id.clone().map(|id| (id.trust_domain, id.path)).unwrap_or_default()
        };
        id(&a.spiffe_id)
            .cmp(&id(&b.spiffe_id))
            .then_with(|| id(&a.parent_id).cmp(&id(&b.parent_id)))
            .then_with(|| (a.x509_svid_ttl, a.jwt_svid_ttl).cmp(&(b.x509_svid_ttl, b.jwt_svid_ttl)))
            .then_with(|| a.selectors.len().cmp(&b.selectors.len()))
            .then_with(|| {
                let pairs = a.selectors.iter().zip(&b.selectors);
                pairs
                    .map(|(a, b)| compare_selectors(a, b))
                    .find(|order| order.is_ne())
                    .unwrap_or(Ordering::Equal)
            })
    });
}

fn compare_selectors(a: &types::Selector, b: &types::Selector) -> Ordering {
    (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value))
}

pub(super) async fn count(arguments: CountArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let flags = arguments.filter;
    let filter = flags.filter()?;
    let filter = count_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    };
    let answer = flags.call.call("", console, async |channel| {
        EntryClient::new(channel).count_entries(CountEntriesRequest { filter: Some(filter) }).await
    });
    let count = answer.await?.count;
    flags.call.output.print(
        console,
        || proto_json::count(count),
        |console| {
            let text = counted(usize::try_from(count).unwrap_or(0), "registration ", "entry", "entries");
            Ok(writeln!(console.stdout, "{text}")?)
        },
    )
}
