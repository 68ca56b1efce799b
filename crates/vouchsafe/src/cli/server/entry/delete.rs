//! `entry delete`.

use anyhow::bail;
use clap::Args;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchDeleteEntryRequest, BatchDeleteEntryResponse};

use super::super::{ServerCall, is_ok};
use super::data_file;
use crate::cli::proto_json;
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct DeleteArgs {
    /// The Registration Entry ID of the record to delete
    #[arg(long = "entryID", value_name = "id", default_value = "", hide_default_value = true)]
    entry_id: String,
    /// Path to a file containing a JSON structure for batch deletion (optional). If set to '-', read from stdin.
    #[arg(long = "file", value_name = "path")]
    file: Option<String>,
    #[command(flatten)]
    call: ServerCall,
}

pub(super) async fn delete(arguments: DeleteArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let ids = match arguments.file.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => data_file::ids(path, console)?,
        None if arguments.entry_id.is_empty() => bail!("an entry ID is required"),
        None => vec![arguments.entry_id],
    };
    let answer = arguments.call.call("", console, async |channel| {
        EntryClient::new(channel).batch_delete_entry(BatchDeleteEntryRequest { ids }).await
    });
    let response = answer.await?;
    let json = || proto_json::deleted(&response);
    arguments.call.output.print(console, json, |console| print(&response, console))
}

fn print(response: &BatchDeleteEntryResponse, console: &mut Console<'_>) -> anyhow::Result<()> {
    let (succeeded, failed): (Vec<_>, Vec<_>) =
        response.results.iter().partition(|result| is_ok(&result.status));
    for result in &succeeded {
        writeln!(console.stdout, "Deleted entry with ID: {}", result.id)?;
    }
    if !succeeded.is_empty() {
        write!(console.stdout, "\n\n")?;
    }
    for result in &failed {
        let (code, message) =
            result.status.as_ref().map(|s| (s.code, s.message.as_str())).unwrap_or_default();
        let (code, message) = (go::code_name(code), go::quote(message));
        writeln!(
            console.stderr,
            "Failed to delete entry with ID {} (code: {code}, msg: {message})",
            result.id
        )?;
    }
    let (done, not_done) = (succeeded.len(), failed.len());
    if failed.is_empty() {
        return Ok(write!(console.stdout, "Deleted {done} entries successfully")?);
    }
    write!(console.stdout, "\n\n")?;
    if succeeded.is_empty() {
        write!(console.stdout, "Failed to delete {not_done} entries")?;
    } else {
        write!(
            console.stdout,
            "Deleted {done} entries successfully, but failed to delete {not_done} entries"
        )?;
    }
    bail!("failed to delete one or more entries")
}
