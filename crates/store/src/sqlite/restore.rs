//! Filling an empty database with what another one had.

use rusqlite::Connection;

use super::fail::Fail;
use super::feed::Tx;
use super::{agents, bundles, entries, federation, feed, join_tokens, journals};
use crate::change::{Position, Record};
use crate::error::Rejected;
use crate::store::Contents;

pub(super) fn restore(tx: &Tx<'_>, contents: &Contents) -> Result<Position, Fail> {
    if !is_empty(tx.conn)? {
        return Err(Rejected::new("the datastore is not empty").into());
    }
    for record in &contents.records {
        match record {
            Record::Entry(entry) => entries::restore(tx, entry),
            Record::Agent(agent) => agents::put(tx, agent),
            Record::Bundle(bundle) => bundles::restore(tx, bundle),
            Record::JoinToken(token) => join_tokens::create(tx, token, None),
            Record::Federation(relationship) => federation::create(tx, relationship, None),
        }?;
    }
    for journal in &contents.journals {
        journals::save(tx, &journal.key, &journal.data)?;
    }
    feed::newest(tx.conn)
}

fn is_empty(conn: &Connection) -> Result<bool, Fail> {
    let sql = "SELECT NOT (EXISTS (SELECT 1 FROM entries) OR EXISTS (SELECT 1 FROM agents)
               OR EXISTS (SELECT 1 FROM bundles) OR EXISTS (SELECT 1 FROM join_tokens)
               OR EXISTS (SELECT 1 FROM federation) OR EXISTS (SELECT 1 FROM journals))";
    Ok(conn.query_row(sql, [], |row| row.get(0))?)
}
