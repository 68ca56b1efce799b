//! Join tokens. Their values are secrets: no error here holds one.

use rusqlite::{Connection, OptionalExtension, Row, params};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::secret::SecretText;

use super::fail::Fail;
use super::feed::Tx;
use super::text;
use super::{agents, entries};
use crate::change::Position;
use crate::error::Kind;
use crate::store::{Admission, CreateOutcome};

pub(super) fn create(tx: &Tx<'_>, token: &JoinToken, alias: Option<&Entry>) -> Result<Position, Fail> {
    if find(tx.conn, &token.value)?.is_some() {
        return Err(Fail::already_exists(Kind::JoinToken, "of this value"));
    }
    if let Some(alias) = alias {
        let (CreateOutcome::Created(..) | CreateOutcome::Similar(_)) = entries::create(tx, alias)?;
    }
    tx.conn
        .prepare_cached("INSERT INTO join_tokens (value, expires_at) VALUES (?1, ?2)")?
        .execute(params![token.value.as_str(), token.expires_at])?;
    tx.changed(Kind::JoinToken, &token.value)
}

pub(super) fn admit(tx: &Tx<'_>, value: &SecretText, now: i64, agent: &Agent) -> Result<Admission, Fail> {
    let Some(token) = find(tx.conn, value)? else { return Ok(Admission::Unknown) };
    remove(tx, value)?;
    if token.is_expired(now) {
        return Ok(Admission::Expired);
    }
    Ok(Admission::Admitted(agents::put(tx, agent)?))
}

pub(super) fn prune(tx: &Tx<'_>, now: i64, most: usize) -> Result<usize, Fail> {
    let expired: Vec<JoinToken> = tx
        .conn
        .prepare_cached(
            "SELECT value, expires_at FROM join_tokens WHERE expires_at < ?1 ORDER BY seq LIMIT ?2",
        )?
        .query_map(params![now, text::count(most)], read)?
        .collect::<Result<_, _>>()?;
    for token in &expired {
        remove(tx, &token.value)?;
    }
    Ok(expired.len())
}

pub(super) fn find(conn: &Connection, value: &SecretText) -> Result<Option<JoinToken>, Fail> {
    let mut statement = conn.prepare_cached("SELECT value, expires_at FROM join_tokens WHERE value = ?1")?;
    Ok(statement.query_row([value.as_str()], read).optional()?)
}

/// Calls `each` for every join token, oldest first.
pub(super) fn scan(
    conn: &Connection,
    mut each: impl FnMut(JoinToken) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let mut statement = conn.prepare("SELECT value, expires_at FROM join_tokens ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(read(row)?)?;
    }
    Ok(())
}

fn remove(tx: &Tx<'_>, value: &SecretText) -> Result<Position, Fail> {
    tx.conn.prepare_cached("DELETE FROM join_tokens WHERE value = ?1")?.execute([value.as_str()])?;
    tx.changed(Kind::JoinToken, value)
}

fn read(row: &Row<'_>) -> rusqlite::Result<JoinToken> {
    let value: String = row.get(0)?;
    Ok(JoinToken { value: value.into(), expires_at: row.get(1)? })
}
