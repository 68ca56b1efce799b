//! Join tokens. Their values are secrets: no error here holds one.

use tokio_postgres::Row;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::join_token::JoinToken;

use super::fail::Fail;
use super::session::Session;
use super::tx::Tx;
use super::value::{self, Columns};
use super::{agents, entries};
use crate::error::Kind;

/// What [`admit`] did.
#[derive(Clone, Copy)]
pub(super) enum Admitted {
    Yes,
    Expired,
    Unknown,
}

pub(super) async fn create(tx: &mut Tx<'_>, token: &JoinToken, alias: Option<&Entry>) -> Result<(), Fail> {
    let sql = "INSERT INTO join_tokens (value, expires_at) VALUES ($1, $2) ON CONFLICT (value) DO NOTHING";
    let values = [token.value.as_str().into(), token.expires_at.into()];
    if tx.execute(sql, &values).await? == 0 {
        return Err(Fail::already_exists(Kind::JoinToken, "of this value"));
    }
    if let Some(alias) = alias {
        drop(entries::create(tx, alias).await?);
    }
    tx.changed(Kind::JoinToken, &token.value);
    Ok(())
}

pub(super) async fn admit(tx: &mut Tx<'_>, value: &str, now: i64, agent: &Agent) -> Result<Admitted, Fail> {
    let sql = "DELETE FROM join_tokens WHERE value = $1 RETURNING value, expires_at";
    let rows = tx.query(sql, &[value.into()]).await?;
    let Some(token) = rows.first().map(read).transpose()? else { return Ok(Admitted::Unknown) };
    tx.changed(Kind::JoinToken, value);
    if token.is_expired(now) {
        return Ok(Admitted::Expired);
    }
    agents::put(tx, agent).await?;
    Ok(Admitted::Yes)
}

pub(super) async fn prune(tx: &mut Tx<'_>, now: i64, most: usize) -> Result<usize, Fail> {
    let sql = "DELETE FROM join_tokens WHERE value IN (SELECT value FROM join_tokens WHERE expires_at < $1
               ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING value, expires_at";
    let rows = tx.query(sql, &[now.into(), value::count(most).into()]).await?;
    for row in &rows {
        tx.changed(Kind::JoinToken, &read(row)?.value);
    }
    Ok(rows.len())
}

pub(super) async fn find_all(session: &Session, values: &[&str]) -> Result<Vec<JoinToken>, Fail> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT value, expires_at FROM join_tokens WHERE value = ANY ($1)";
    session.query(sql, &[values.into()]).await?.iter().map(read).collect()
}

pub(super) fn read(row: &Row) -> Result<JoinToken, Fail> {
    let mut columns = Columns::of(row, "join_tokens");
    Ok(JoinToken { value: columns.value::<String>()?.into(), expires_at: columns.value()? })
}

/// Every join token, oldest first.
pub(super) const ALL: &str = "SELECT value, expires_at FROM join_tokens ORDER BY seq";
