//! `entry create` and `entry update`.

use anyhow::bail;
use clap::Args;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, GetEntryRequest,
};
use vouchsafe_proto::spire::api::types::{self, entry::AdditionalAttributes};

use super::super::{ServerCall, is_ok, parse_id, parse_selector};
use super::{data_file, text};
use crate::cli::call::failed_to;
use crate::cli::grammar::{parse_bool, parse_number};
use crate::cli::proto_json;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::console::Console;
use crate::go;

/// The flags that `create` and `update` share.
#[derive(Args, Debug)]
struct EntryFlags {
    /// If set, the SPIFFE ID in this entry will be granted access to the SPIRE Server's management APIs
    #[arg(long = "admin")]
    admin: bool,
    /// Path to a file containing registration JSON (optional). If set to '-', read the JSON from stdin.
    #[arg(long = "data", value_name = "path")]
    data: Option<String>,
    /// A DNS name that will be included in SVIDs issued based on this entry, where appropriate. Can be used more than
    /// once
    #[arg(long = "dns", value_name = "name")]
    dns: Vec<String>,
    /// A boolean value that, when set, indicates that the entry describes a downstream SPIRE server
    #[arg(long = "downstream")]
    downstream: bool,
    /// An expiry, from epoch in seconds, for the resulting registration entry to be pruned
    #[arg(long = "entryExpiry", value_name = "seconds", default_value = "0", hide_default_value = true, value_parser = parse_number::<i64>)]
    entry_expiry: i64,
    /// SPIFFE ID of a trust domain to federate with. Can be used more than once
    #[arg(long = "federatesWith", value_name = "id")]
    federates_with: Vec<String>,
    /// The entry hint, used to disambiguate entries with the same SPIFFE ID
    #[arg(long = "hint", value_name = "text", default_value = "", hide_default_value = true)]
    hint: String,
    /// The lifetime, in seconds, for JWT-SVIDs issued based on this registration entry
    #[arg(long = "jwtSVIDTTL", value_name = "seconds", default_value = "0", hide_default_value = true, value_parser = parse_number::<i32>)]
    jwt_svid_ttl: i32,
    /// The SPIFFE ID of this record's parent
    #[arg(long = "parentID", value_name = "id", default_value = "", hide_default_value = true)]
    parent_id: String,
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "type:value")]
    selector: Vec<String>,
    /// The SPIFFE ID that this record represents
    #[arg(long = "spiffeID", value_name = "id", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// If set, the SVID that is issued from this entry must be stored through an SVIDStore plugin
    #[arg(long = "storeSVID")]
    store_svid: bool,
    /// The lifetime, in seconds, for x509-SVIDs issued based on this registration entry
    #[arg(long = "x509SVIDTTL", value_name = "seconds", default_value = "0", hide_default_value = true, value_parser = parse_number::<i32>)]
    x509_svid_ttl: i32,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct CreateArgs {
    /// A custom ID for this registration entry (optional). If not set, a new entry ID will be generated
    #[arg(long = "entryID", value_name = "id", default_value = "", hide_default_value = true)]
    entry_id: String,
    /// If set, this entry will be applied to matching nodes rather than workloads
    #[arg(long = "node")]
    node: bool,
    /// A boolean value that, when set, disables prefetching X509 SVID for this entry
    #[arg(long = "disableX509SVIDPrefetch")]
    disable_prefetch: bool,
    /// A boolean value that, when set, includes a unique 'jti' claim in JWT-SVIDs issued for this entry and bypasses
    /// the agent JWT-SVID cache
    #[arg(long = "jwtSVIDIncludeJTI")]
    include_jti: bool,
    #[command(flatten)]
    flags: EntryFlags,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct UpdateArgs {
    /// The Registration Entry ID of the record to update
    #[arg(long = "entryID", value_name = "id", default_value = "", hide_default_value = true)]
    entry_id: String,
    /// A boolean value that, when set, disables prefetching X509 SVID for this entry
    #[arg(long = "disableX509SVIDPrefetch", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "true|false", value_parser = parse_bool)]
    disable_prefetch: Option<bool>,
    /// A boolean value that, when set, includes a unique 'jti' claim in JWT-SVIDs issued for this entry and bypasses
    /// the agent JWT-SVID cache
    #[arg(long = "jwtSVIDIncludeJTI", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "true|false", value_parser = parse_bool)]
    include_jti: Option<bool>,
    #[command(flatten)]
    flags: EntryFlags,
}

pub(super) async fn create(arguments: CreateArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let entries = match arguments.flags.data.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => data_file::entries(path, console)?,
        None => vec![new_entry(&arguments)?],
    };
    let flags = arguments.flags;
    let request = BatchCreateEntryRequest { entries: entries.clone(), output_mask: None };
    let answer = flags.call.call("", console, async |channel| {
        EntryClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .batch_create_entry(request)
            .await
    });
    let mut response = answer.await?;
    for (result, entry) in response.results.iter_mut().zip(entries) {
        // What failed is not in the answer.
        if !is_ok(&result.status) {
            result.entry = Some(entry);
        }
    }
    let results = response.results.iter().map(|result| (&result.status, &result.entry));
    let json = || proto_json::created(&response);
    flags.call.output.print(console, json, |console| print_results(results, "create", console))
}

fn new_entry(arguments: &CreateArgs) -> anyhow::Result<types::Entry> {
    let flags = &arguments.flags;
    if flags.selector.is_empty() {
        bail!("at least one selector is required");
    }
    if arguments.node && !flags.federates_with.is_empty() {
        bail!("node entries can not federate");
    }
    if flags.parent_id.is_empty() && !arguments.node {
        bail!("a parent ID is required if the node flag is not set");
    }
    check_common(flags)?;
    let spiffe_id = parse_id(&flags.spiffe_id)?;
    let parent_id = if arguments.node {
        types::Spiffeid { trust_domain: spiffe_id.trust_domain.clone(), path: "/spire/server".to_owned() }
    } else {
        parse_id(&flags.parent_id)?
    };
    let mut entry = entry_of(flags, &arguments.entry_id, spiffe_id, parent_id)?;
    if arguments.disable_prefetch || arguments.include_jti {
        entry.additional_attributes = Some(AdditionalAttributes {
            disable_x509_svid_prefetch: arguments.disable_prefetch,
            jwt_svid_include_jti: arguments.include_jti,
        });
    }
    Ok(entry)
}

const MERGE: &str = "failed to fetch existing entry to merge additional attributes";

pub(super) async fn update(arguments: UpdateArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let path = arguments.flags.data.clone().filter(|path| !path.is_empty());
    let mut entries = match &path {
        Some(path) => data_file::entries(path, console)?,
        None => vec![changed_entry(&arguments)?],
    };
    let flags = &arguments.flags;
    let attributes_given = arguments.disable_prefetch.is_some() || arguments.include_jti.is_some();
    let merge = path.is_none() && attributes_given;
    let connected = flags.call.connect(console).await?;
    let channel = connected.map_err(failed_to(if merge { MERGE } else { "" }))?;
    let mut client = EntryClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    if merge {
        // The attributes are written as a whole: those that were not given keep their values only if they are sent.
        let existing =
            client.get_entry(GetEntryRequest { id: arguments.entry_id.clone(), output_mask: None }).await;
        let existing = existing.map_err(failed_to(MERGE))?;
        let mut attributes = existing.into_inner().additional_attributes.unwrap_or_default();
        if let Some(disable) = arguments.disable_prefetch {
            attributes.disable_x509_svid_prefetch = disable;
        }
        if let Some(include) = arguments.include_jti {
            attributes.jwt_svid_include_jti = include;
        }
        for entry in &mut entries {
            entry.additional_attributes = Some(attributes);
        }
    }
    let request = BatchUpdateEntryRequest { entries: entries.clone(), input_mask: None, output_mask: None };
    let mut response = client.batch_update_entry(request).await.map_err(failed_to(""))?.into_inner();
    for (result, entry) in response.results.iter_mut().zip(entries) {
        if !is_ok(&result.status) {
            result.entry = Some(entry);
        }
    }
    let results = response.results.iter().map(|result| (&result.status, &result.entry));
    let json = || proto_json::updated(&response);
    flags.call.output.print(console, json, |console| print_results(results, "update", console))
}

fn changed_entry(arguments: &UpdateArgs) -> anyhow::Result<types::Entry> {
    let flags = &arguments.flags;
    if arguments.entry_id.is_empty() {
        bail!("entry ID is required");
    }
    if flags.selector.is_empty() {
        bail!("at least one selector is required");
    }
    if flags.parent_id.is_empty() {
        bail!("a parent ID is required");
    }
    check_common(flags)?;
    let parent_id = parse_id(&flags.parent_id)?;
    let spiffe_id = parse_id(&flags.spiffe_id)?;
    entry_of(flags, &arguments.entry_id, spiffe_id, parent_id)
}

fn check_common(flags: &EntryFlags) -> anyhow::Result<()> {
    if flags.spiffe_id.is_empty() {
        bail!("a SPIFFE ID is required");
    }
    if flags.x509_svid_ttl < 0 {
        bail!("a positive x509-SVID TTL is required");
    }
    if flags.jwt_svid_ttl < 0 {
        bail!("a positive JWT-SVID TTL is required");
    }
    Ok(())
}

fn entry_of(
    flags: &EntryFlags,
    id: &str,
    spiffe_id: types::Spiffeid,
    parent_id: types::Spiffeid,
) -> anyhow::Result<types::Entry> {
    Ok(types::Entry {
        id: id.to_owned(),
        spiffe_id: Some(spiffe_id),
        parent_id: Some(parent_id),
        selectors: flags.selector.iter().map(|text| parse_selector(text)).collect::<anyhow::Result<_>>()?,
        x509_svid_ttl: flags.x509_svid_ttl,
        jwt_svid_ttl: flags.jwt_svid_ttl,
        federates_with: flags.federates_with.clone(),
        admin: flags.admin,
        downstream: flags.downstream,
        expires_at: flags.entry_expiry,
        dns_names: flags.dns.clone(),
        store_svid: flags.store_svid,
        hint: flags.hint.clone(),
        ..types::Entry::default()
    })
}

/// What succeeded on standard output, then what failed on standard error.
fn print_results<'r>(
    results: impl Iterator<Item = (&'r Option<types::Status>, &'r Option<types::Entry>)> + Clone,
    verb: &str,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let nothing = types::Entry::default();
    for (status, entry) in results.clone() {
        if is_ok(status) {
            write!(console.stdout, "{}", text::render(entry.as_ref().unwrap_or(&nothing)))?;
        }
    }
    console.stdout.flush()?;
    let mut failed = false;
    for (status, entry) in results {
        if is_ok(status) {
            continue;
        }
        failed = true;
        let (code, message) = status.as_ref().map(|s| (s.code, s.message.as_str())).unwrap_or_default();
        let (code, message) = (go::code_name(code), go::quote(message));
        writeln!(console.stderr, "Failed to {verb} the following entry (code: {code}, msg: {message}):")?;
        write!(console.stderr, "{}", text::render(entry.as_ref().unwrap_or(&nothing)))?;
    }
    if failed {
        bail!("failed to {verb} one or more entries");
    }
    Ok(())
}
