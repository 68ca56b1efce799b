//! Registration entries.

use rusqlite::{Connection, OptionalExtension, Row, params};
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::fail::Fail;
use super::feed::Tx;
use super::text::{self, Columns};
use crate::change::Position;
use crate::error::Kind;
use crate::store::{CreateOutcome, EntryChange};

macro_rules! select {
    () => {
        "SELECT id, spiffe_id, parent_id, selectors, x509_svid_ttl, jwt_svid_ttl, federates_with, admin, downstream,
         store_svid, expires_at, dns_names, hint, disable_x509_svid_prefetch, jwt_svid_include_jti, revision_number,
         created_at FROM entries"
    };
}
pub(super) fn create(tx: &Tx<'_>, entry: &Entry) -> Result<CreateOutcome, Fail> {
    if let Some(similar) = similar(tx.conn, entry)? {
        return Ok(CreateOutcome::Similar(similar));
    }
    if find(tx.conn, &entry.id)?.is_some() {
        return Err(Fail::already_exists(Kind::Entry, &entry.id));
    }
    let stored = Entry { revision_number: 0, created_at: tx.now, ..entry.clone() };
    write(tx.conn, INSERT, &stored)?;
    let position = tx.changed(Kind::Entry, stored.id.as_str())?;
    Ok(CreateOutcome::Created(stored, position))
}

/// Adds an entry with the history that it has.
pub(super) fn restore(tx: &Tx<'_>, entry: &Entry) -> Result<Position, Fail> {
    if find(tx.conn, &entry.id)?.is_some() {
        return Err(Fail::already_exists(Kind::Entry, &entry.id));
    }
    write(tx.conn, INSERT, entry)?;
    tx.changed(Kind::Entry, entry.id.as_str())
}

pub(super) fn update(tx: &Tx<'_>, id: &EntryId, change: &EntryChange) -> Result<(Entry, Position), Fail> {
    let before = find(tx.conn, id)?.ok_or_else(|| Fail::not_found(Kind::Entry, id))?;
    let mut after = before.clone();
    change(&mut after)?;
    after.id = before.id;
    after.created_at = before.created_at;
    after.revision_number = before.revision_number + 1;
    write(tx.conn, UPDATE, &after)?;
    let position = tx.changed(Kind::Entry, id.as_str())?;
    Ok((after, position))
}

pub(super) fn delete(tx: &Tx<'_>, id: &EntryId) -> Result<(Entry, Position), Fail> {
    let entry = find(tx.conn, id)?.ok_or_else(|| Fail::not_found(Kind::Entry, id))?;
    let position = remove(tx, id)?;
    Ok((entry, position))
}

pub(super) fn prune(tx: &Tx<'_>, now: i64, most: usize) -> Result<Vec<EntryId>, Fail> {
    let sql = "SELECT id FROM entries WHERE expires_at <> 0 AND expires_at < ?1 ORDER BY seq LIMIT ?2";
    let expired: Vec<EntryId> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(params![now, text::count(most)], |row| Columns::of(row).parsed())?
        .collect::<Result<_, _>>()?;
    for id in &expired {
        remove(tx, id)?;
    }
    Ok(expired)
}

/// Removes what [`super::join_tokens::create`] made for an agent: the entry parented to it whose only selector is
/// the agent's own id.
pub(super) fn delete_alias_of(tx: &Tx<'_>, agent: &SpiffeId) -> Result<(), Fail> {
    let own_id = Selector::new("spiffe_id", agent.as_str()).map_err(|error| Fail::Bug(error.to_string()))?;
    let selectors = text::selectors(&SelectorSet::from_iter([own_id]))?;
    let aliases: Vec<EntryId> = tx
        .conn
        .prepare_cached("SELECT id FROM entries WHERE parent_id = ?1 AND selectors = ?2")?
        .query_map(params![agent.as_str(), selectors], |row| Columns::of(row).parsed())?
        .collect::<Result<_, _>>()?;
    for id in &aliases {
        remove(tx, id)?;
    }
    Ok(())
}

/// The entries that federate with a trust domain. Reads all rows; only for the removal of a bundle.
pub(super) fn federating_with(conn: &Connection, trust_domain: &str) -> Result<Vec<EntryId>, Fail> {
    let sql = "SELECT id FROM entries WHERE federates_with <> '[]'
               AND EXISTS (SELECT 1 FROM json_each(federates_with) AS t WHERE t.value = ?1) ORDER BY seq";
    let mut statement = conn.prepare_cached(sql)?;
    let ids = statement.query_map([trust_domain], |row| Columns::of(row).parsed())?;
    Ok(ids.collect::<Result<_, _>>()?)
}

pub(super) fn find(conn: &Connection, id: &EntryId) -> Result<Option<Entry>, Fail> {
    let sql = concat!(select!(), " WHERE id = ?1");
    Ok(conn.prepare_cached(sql)?.query_row([id.as_str()], read).optional()?)
}

/// Calls `each` for every entry, oldest first.
pub(super) fn scan(conn: &Connection, mut each: impl FnMut(Entry) -> Result<(), Fail>) -> Result<(), Fail> {
    let mut statement = conn.prepare(concat!(select!(), " ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry = read(row).map_err(|error| damaged(row, &error))?;
        each(entry)?;
    }
    Ok(())
}

fn similar(conn: &Connection, entry: &Entry) -> Result<Option<Entry>, Fail> {
    let sql = concat!(
        select!(),
        " WHERE spiffe_id = ?1 AND parent_id = ?2 AND selectors = ?3 ORDER BY seq LIMIT 1"
    );
    let selectors = text::selectors(&entry.selectors)?;
    let ids = params![entry.spiffe_id.as_str(), entry.parent_id.as_str(), selectors];
    Ok(conn.prepare_cached(sql)?.query_row(ids, read).optional()?)
}

fn remove(tx: &Tx<'_>, id: &EntryId) -> Result<Position, Fail> {
    tx.conn.prepare_cached("DELETE FROM entries WHERE id = ?1")?.execute([id.as_str()])?;
    tx.changed(Kind::Entry, id.as_str())
}

fn write(conn: &Connection, sql: &'static str, entry: &Entry) -> Result<(), Fail> {
    conn.prepare_cached(sql)?.execute(params![
        entry.id.as_str(),
        entry.spiffe_id.as_str(),
        entry.parent_id.as_str(),
        text::selectors(&entry.selectors)?,
        entry.x509_svid_ttl,
        entry.jwt_svid_ttl,
        text::list(entry.federates_with.iter().map(|td| td.as_str()))?,
        entry.admin,
        entry.downstream,
        entry.store_svid,
        entry.expires_at,
        text::list(entry.dns_names.iter().map(String::as_str))?,
        entry.hint,
        entry.disable_x509_svid_prefetch,
        entry.jwt_svid_include_jti,
        entry.revision_number,
        entry.created_at,
    ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let mut columns = Columns::of(row);
    Ok(Entry {
        id: columns.parsed()?,
        spiffe_id: columns.parsed()?,
        parent_id: columns.parsed()?,
        selectors: columns.selectors()?,
        x509_svid_ttl: columns.value()?,
        jwt_svid_ttl: columns.value()?,
        federates_with: columns.list()?,
        admin: columns.value()?,
        downstream: columns.value()?,
        store_svid: columns.value()?,
        expires_at: columns.value()?,
        dns_names: columns.list()?,
        hint: columns.value()?,
        disable_x509_svid_prefetch: columns.value()?,
        jwt_svid_include_jti: columns.value()?,
        revision_number: columns.value()?,
        created_at: columns.value()?,
    })
}

fn damaged(row: &Row<'_>, error: &rusqlite::Error) -> Fail {
    let id: String = row.get(0).unwrap_or_default();
    Fail::row("entries", &id, error)
}

const INSERT: &str = "INSERT INTO entries (id, spiffe_id, parent_id, selectors, x509_svid_ttl, jwt_svid_ttl,
    federates_with, admin, downstream, store_svid, expires_at, dns_names, hint, disable_x509_svid_prefetch,
    jwt_svid_include_jti, revision_number, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";

const UPDATE: &str = "UPDATE entries SET spiffe_id = ?2, parent_id = ?3, selectors = ?4, x509_svid_ttl = ?5,
    jwt_svid_ttl = ?6, federates_with = ?7, admin = ?8, downstream = ?9, store_svid = ?10, expires_at = ?11,
    dns_names = ?12, hint = ?13, disable_x509_svid_prefetch = ?14, jwt_svid_include_jti = ?15,
    revision_number = ?16, created_at = ?17 WHERE id = ?1";
