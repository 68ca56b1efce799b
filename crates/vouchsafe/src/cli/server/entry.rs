//! Registration entries.

mod change;
mod data_file;
mod delete;
mod filter;
mod text;

use clap::Subcommand;

use crate::console::Console;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum EntryCommand {
    /// Creates registration entries
    #[command(after_help = "Examples:\n  \
        spire-server entry create -parentID spiffe://example.org/node-1 \\\n    \
        -spiffeID spiffe://example.org/web -selector unix:uid:1000\n  \
        spire-server entry create -data entries.json")]
    Create(Box<change::CreateArgs>),
    /// Updates registration entries
    #[command(after_help = "Example:\n  \
        spire-server entry update -entryID 6837984a-bc44-462b-9ca6-5cd59be35066 \\\n    \
        -parentID spiffe://example.org/node-1 -spiffeID spiffe://example.org/web -selector unix:uid:1001")]
    Update(Box<change::UpdateArgs>),
    /// Deletes registration entries
    #[command(
        after_help = "Example:\n  spire-server entry delete -entryID 6837984a-bc44-462b-9ca6-5cd59be35066"
    )]
    Delete(delete::DeleteArgs),
    /// Displays configured registration entries
    #[command(after_help = "Example:\n  spire-server entry show -selector unix:uid:1000")]
    Show(filter::ShowArgs),
    /// Count registration entries
    Count(filter::CountArgs),
}

pub(super) async fn execute(command: EntryCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    match command {
        EntryCommand::Create(arguments) => change::create(*arguments, console).await,
        EntryCommand::Update(arguments) => change::update(*arguments, console).await,
        EntryCommand::Delete(arguments) => delete::delete(arguments, console).await,
        EntryCommand::Show(arguments) => filter::show(arguments, console).await,
        EntryCommand::Count(arguments) => filter::count(arguments, console).await,
    }
}
