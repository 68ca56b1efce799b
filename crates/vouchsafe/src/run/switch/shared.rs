//! The same for PostgreSQL: SPIRE's tables and this program's live in one database, in schemas of their own, so nothing is
//! moved away and what SPIRE had stays as it was.

use anyhow::{Context, bail};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::postgres::{Postgres, Settings};
use vouchsafe_store::spire;
use vouchsafe_store::{Snapshot, Store};

use super::{Import, Moved, count, for_spire, look_over, records};
use crate::config::server::Config;

/// Fills the empty schema `vouchsafe` with what SPIRE's tables in the same database hold.
pub(super) async fn import(config: &Config, settings: &Settings, options: Import) -> anyhow::Result<Moved> {
    let read = spire::shared::read(settings, &config.trust_domain).await;
    let read =
        read.context("cannot import (SPIRE's tables must be in this database, and its servers stopped)")?;
    let moved = look_over(config, &read).await?;
    options.check(&moved)?;
    if options.dry_run {
        return Ok(moved);
    }
    let store = open(settings)?;
    alone(&store).await?;
    store.restore(read.contents).await.context("cannot fill the new datastore")?;
    Ok(moved)
}

/// Writes what the schema `vouchsafe` holds into SPIRE's tables in the same database, in place of what they hold.
pub(super) async fn export(settings: &Settings) -> anyhow::Result<Moved> {
    let store = open(settings)?;
    alone(&store).await?;
    let held = Snapshot::load(&store).await.context("cannot read the datastore")?;
    let journals = store.load_journals().await.context("cannot read the journals of the signing keys")?;
    if held.entries.is_empty() && held.agents.is_empty() && held.bundles.is_empty() {
        bail!("the datastore is empty; nothing was exported");
    }
    let (records, journals) = (records(held), for_spire(&journals));
    spire::shared::write(settings, &records, &journals).await.context("cannot fill SPIRE's tables")?;
    Ok(Moved { keys_known: !journals.is_empty(), ..count(&records) })
}

/// Refuses while servers on other machines go on writing what would be copied, or would find it changed under them.
async fn alone(store: &Postgres) -> anyhow::Result<()> {
    match store.users().await.context("cannot look for other servers on this database")? {
        0 | 1 => Ok(()),
        users => bail!("{} other servers run on this database; stop them first", users - 1),
    }
}

fn open(settings: &Settings) -> anyhow::Result<Postgres> {
    let entropy = Entropy::from_os().context("the operating system gives no randomness")?;
    Postgres::open(settings, Clock::system(), entropy).context("cannot open the datastore")
}
