//! Filling an empty database with what another one had.

use super::fail::Fail;
use super::tx::Tx;
use super::{agents, bundles, entries, federation, join_tokens, journals};
use crate::change::Record;
use crate::error::Rejected;
use crate::store::Contents;

/// Other writers wait at the feed from the beginning, so that nobody adds something in between.
pub(super) async fn restore(tx: &mut Tx<'_>, contents: &Contents) -> Result<(), Fail> {
    tx.execute("SET LOCAL statement_timeout = 120000", &[]).await?;
    tx.query("SELECT position FROM feed FOR UPDATE", &[]).await?;
    let filled = tx.query(IS_FILLED, &[]).await?;
    if filled.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(true) {
        return Err(Rejected::new("the datastore is not empty").into());
    }
    for record in &contents.records {
        match record {
            Record::Entry(entry) => entries::restore(tx, entry).await,
            Record::Agent(agent) => agents::put(tx, agent).await,
            Record::Bundle(bundle) => bundles::write(tx, bundle).await,
            Record::JoinToken(token) => join_tokens::create(tx, token, None).await,
            Record::Federation(relationship) => federation::create(tx, relationship, None).await,
        }?;
    }
    for journal in &contents.journals {
        journals::save(tx, &journal.key, &journal.data).await?;
    }
    Ok(())
}

const IS_FILLED: &str = "SELECT EXISTS (SELECT 1 FROM entries) OR EXISTS (SELECT 1 FROM agents)
    OR EXISTS (SELECT 1 FROM bundles) OR EXISTS (SELECT 1 FROM join_tokens)
    OR EXISTS (SELECT 1 FROM federation) OR EXISTS (SELECT 1 FROM journals)";
