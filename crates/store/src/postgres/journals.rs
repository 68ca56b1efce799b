//! Authority journals: opaque here, one per server.

use super::fail::Fail;
use super::session::Session;
use super::tx::Tx;
use super::value::Value;
use crate::store::JournalRecord;

pub(super) async fn load(session: &Session) -> Result<Vec<JournalRecord>, Fail> {
    let rows = session.query("SELECT key, data FROM journals ORDER BY key", &[]).await?;
    rows.iter().map(|row| Ok(JournalRecord { key: row.try_get(0)?, data: row.try_get(1)? })).collect()
}

pub(super) async fn save(tx: &Tx<'_>, key: &str, data: &[u8]) -> Result<(), Fail> {
    let sql = "INSERT INTO journals (key, data) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET data = $2";
    tx.execute(sql, &[key.into(), Value::Bytes(data)]).await?;
    Ok(())
}

pub(super) async fn delete(tx: &Tx<'_>, record: &JournalRecord) -> Result<bool, Fail> {
    let values = [record.key.as_str().into(), Value::Bytes(&record.data)];
    Ok(tx.execute("DELETE FROM journals WHERE key = $1 AND data = $2", &values).await? > 0)
}
