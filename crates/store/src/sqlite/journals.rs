//! Authority journals: opaque here, one per server.

use rusqlite::{Connection, params};

use super::fail::Fail;
use super::feed::Tx;
use crate::store::JournalRecord;

pub(super) fn load(conn: &Connection) -> Result<Vec<JournalRecord>, Fail> {
    let mut statement = conn.prepare_cached("SELECT key, data FROM journals ORDER BY key")?;
    let rows = statement.query_map([], |row| Ok(JournalRecord { key: row.get(0)?, data: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn save(tx: &Tx<'_>, key: &str, data: &[u8]) -> Result<(), Fail> {
    tx.conn
        .prepare_cached(
            "INSERT INTO journals (key, data) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET data = ?2",
        )?
        .execute(params![key, data])?;
    Ok(())
}

pub(super) fn delete(tx: &Tx<'_>, record: &JournalRecord) -> Result<bool, Fail> {
    let mut delete = tx.conn.prepare_cached("DELETE FROM journals WHERE key = ?1 AND data = ?2")?;
    Ok(delete.execute(params![record.key, record.data])? > 0)
}
