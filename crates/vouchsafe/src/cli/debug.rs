//! `debug getinfo` of both parts.

use std::time::Duration;

use clap::Subcommand;
use vouchsafe_proto::spire::agent::debug::v1 as agent;
use vouchsafe_proto::spire::api::server::debug::v1 as server;
use vouchsafe_proto::spire::api::types;

use super::call::CallArgs;
use super::proto_json;
use super::server::id_text;
use super::socket::{AdminSocketArgs, ServerSocketArgs, SocketArgs};
use crate::console::Console;
use crate::go;

#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand<S: SocketArgs> {
    /// Prints debug information
    Getinfo(CallArgs<S>),
}

pub(super) async fn server(
    command: DebugCommand<ServerSocketArgs>,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let DebugCommand::Getinfo(arguments) = command;
    let info = arguments.call("", console, async |channel| {
        server::debug_client::DebugClient::new(channel).get_info(server::GetInfoRequest {}).await
    });
    let info = info.await?;
    let print = |console: &mut Console<'_>| {
        writeln!(console.stdout, "Server Debug Info:")?;
        print_lines(
            25,
            &[
                ("Uptime:", uptime(info.uptime)),
                ("Registered Agents:", info.agents_count.to_string()),
                ("Registration Entries:", info.entries_count.to_string()),
                ("Federated Bundles:", info.federated_bundles_count.to_string()),
            ],
            console,
        )?;
        let chain = info.svid_chain.iter().map(|cert| (cert.id.as_ref(), &*cert.subject, cert.expires_at));
        print_chain(chain, console)
    };
    arguments.output.print(console, || proto_json::server_info(&info), print)
}

pub(super) async fn agent(
    command: DebugCommand<AdminSocketArgs>,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let DebugCommand::Getinfo(arguments) = command;
    let info = arguments.call("", console, async |channel| {
        agent::debug_client::DebugClient::new(channel).get_info(agent::GetInfoRequest {}).await
    });
    let info = info.await?;
    let last_sync = match info.last_sync_success {
        0 => "(never)".to_owned(),
        at => go::rfc3339(at),
    };
    let print = |console: &mut Console<'_>| {
        writeln!(console.stdout, "Agent Debug Info:")?;
        print_lines(
            33,
            &[
                ("Uptime:", uptime(info.uptime)),
                ("Last Sync Success:", last_sync),
                ("Cached X.509 SVIDs:", info.cached_x509_svids_count.to_string()),
                ("Cached JWT SVIDs:", info.cached_jwt_svids_count.to_string()),
                ("Cached SVID Store X.509 SVIDs:", info.cached_svidstore_x509_svids_count.to_string()),
            ],
            console,
        )?;
        let chain = info.svid_chain.iter().map(|cert| (cert.id.as_ref(), &*cert.subject, cert.expires_at));
        print_chain(chain, console)
    };
    arguments.output.print(console, || proto_json::agent_info(&info), print)
}

fn uptime(seconds: i32) -> String {
    go::format_duration(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Labels and values, which stand after `width` columns.
fn print_lines(width: usize, lines: &[(&str, String)], console: &mut Console<'_>) -> anyhow::Result<()> {
    for (label, value) in lines {
        writeln!(console.stdout, "  {label:<width$}{value}")?;
    }
    Ok(())
}

fn print_chain<'c>(
    chain: impl Iterator<Item = (Option<&'c types::Spiffeid>, &'c str, i64)>,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    for (index, (id, subject, expires_at)) in chain.enumerate() {
        if index == 0 {
            writeln!(console.stdout, "  SVID Chain:")?;
        }
        let id = if id.is_some() { id_text(id) } else { "(none)".to_owned() };
        writeln!(console.stdout, "    [{index}] SPIFFE ID:  {id}")?;
        writeln!(console.stdout, "        Subject:    {subject}")?;
        writeln!(console.stdout, "        Expires At: {}", go::rfc3339(expires_at))?;
    }
    Ok(())
}
