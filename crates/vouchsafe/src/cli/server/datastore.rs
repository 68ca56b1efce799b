//! `datastore accept`: the operator's word on a database that the server does not believe. Not in SPIRE.

use anyhow::Context;
use clap::Subcommand;
use vouchsafe_server::acceptance;

use super::switch::SwitchArgs;
use crate::console::Console;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DatastoreCommand {
    /// Accepts a database that lacks what the server holds, such as a backup that was restored; for the next start
    #[command(after_help = "Example:\n  vouchsafe server datastore accept -config /etc/spire/server.conf")]
    Accept(SwitchArgs),
}

pub(super) fn execute(command: DatastoreCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    let DatastoreCommand::Accept(arguments) = command;
    let data_dir = arguments.load(console)?.data_dir;
    acceptance::accept(&data_dir).with_context(|| {
        format!(
            "cannot write to the data directory {}; run this as the user of the server",
            data_dir.display()
        )
    })?;
    writeln!(
        console.stdout,
        "The server takes the database as it is when it starts the next time: restart it. What it holds until then is kept as \
         {}{}",
        data_dir.join("read-model.sealed").display(),
        acceptance::ASIDE,
    )?;
    Ok(())
}
