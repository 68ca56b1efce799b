//! Registration entries.

use tokio_postgres::Row;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::fail::Fail;
use super::session::Session;
use super::tx::Tx;
use super::value::{self, Columns, Value};
use crate::error::Kind;
use crate::store::EntryChange;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, spiffe_id, parent_id, selectors, x509_svid_ttl, jwt_svid_ttl, federates_with, admin,
             downstream, store_svid, expires_at, dns_names, hint, disable_x509_svid_prefetch, jwt_svid_include_jti,
             revision_number, created_at FROM entries ",
            $rest
        )
    };
}

/// What [`create`] did.
pub(super) enum Created {
    New(Entry),
    Similar(Entry),
}

/// The name under which similar entries wait for each other.
pub(super) fn likeness(entry: &Entry) -> Result<String, Fail> {
    let selectors = value::selectors(&entry.selectors)?;
    Ok(format!("{} {} {selectors}", entry.spiffe_id.as_str(), entry.parent_id.as_str()))
}

pub(super) async fn create(tx: &mut Tx<'_>, entry: &Entry) -> Result<Created, Fail> {
    if let Some(similar) = similar(tx, entry).await? {
        return Ok(Created::Similar(similar));
    }
    let stored = Entry { revision_number: 0, created_at: tx.now, ..entry.clone() };
    restore(tx, &stored).await?;
    Ok(Created::New(stored))
}

/// Adds an entry with the history that it has.
pub(super) async fn restore(tx: &mut Tx<'_>, entry: &Entry) -> Result<(), Fail> {
    if write(tx, INSERT, entry).await? == 0 {
        return Err(Fail::already_exists(Kind::Entry, &entry.id));
    }
    tx.changed(Kind::Entry, entry.id.as_str());
    Ok(())
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &EntryId, change: &EntryChange) -> Result<Entry, Fail> {
    let before = held(tx, id).await?;
    let mut after = before.clone();
    change(&mut after)?;
    after.id = before.id;
    after.created_at = before.created_at;
    after.revision_number = before.revision_number + 1;
    write(tx, UPDATE, &after).await?;
    tx.changed(Kind::Entry, id.as_str());
    Ok(after)
}

pub(super) async fn delete(tx: &mut Tx<'_>, id: &EntryId) -> Result<Entry, Fail> {
    let entry = held(tx, id).await?;
    tx.execute("DELETE FROM entries WHERE id = $1", &[id.as_str().into()]).await?;
    tx.changed(Kind::Entry, id.as_str());
    Ok(entry)
}

/// Removes what expired. Rows that another server is about to remove are left to it.
pub(super) async fn prune(tx: &mut Tx<'_>, now: i64, most: usize) -> Result<Vec<EntryId>, Fail> {
    let sql =
        "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <> 0 AND expires_at < $1
               ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING id";
    remove(tx, sql, &[now.into(), value::count(most).into()]).await
}

/// Removes what [`super::join_tokens::create`] made for an agent: the entry parented to it whose only selector is
/// the agent's own id.
pub(super) async fn delete_alias_of(tx: &mut Tx<'_>, agent: &SpiffeId) -> Result<(), Fail> {
    let own_id = Selector::new("spiffe_id", agent.as_str()).map_err(|error| Fail::Bug(error.to_string()))?;
    let selectors = value::selectors(&SelectorSet::from_iter([own_id]))?;
    let sql = "DELETE FROM entries WHERE parent_id = $1 AND selectors = $2 RETURNING id";
    remove(tx, sql, &[agent.as_str().into(), selectors.into()]).await?;
    Ok(())
}

/// The entries that federate with a trust domain. Reads all rows; only for the removal of a bundle.
pub(super) async fn federating_with(tx: &Tx<'_>, trust_domain: &str) -> Result<Vec<EntryId>, Fail> {
    let sql = "SELECT id FROM entries WHERE federates_with <> '[]'
               AND CAST(federates_with AS JSONB) @> jsonb_build_array($1) ORDER BY seq FOR UPDATE";
    let rows = tx.query(sql, &[trust_domain.into()]).await?;
    rows.iter().map(|row| Columns::of(row, TABLE).parsed()).collect()
}

pub(super) async fn find_all(session: &Session, ids: &[&str]) -> Result<Vec<Entry>, Fail> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.query(select!("WHERE id = ANY ($1)"), &[ids.into()]).await?;
    rows.iter().map(read).collect()
}

pub(super) fn read(row: &Row) -> Result<Entry, Fail> {
    let mut columns = Columns::of(row, TABLE);
    Ok(Entry {
        id: columns.parsed()?,
        spiffe_id: columns.parsed()?,
        parent_id: columns.parsed()?,
        selectors: columns.selectors()?,
        x509_svid_ttl: columns.narrow()?,
        jwt_svid_ttl: columns.narrow()?,
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

/// The entry, which nobody else changes until this transaction ends.
async fn held(tx: &Tx<'_>, id: &EntryId) -> Result<Entry, Fail> {
    let rows = tx.query(select!("WHERE id = $1 FOR UPDATE"), &[id.as_str().into()]).await?;
    rows.first().map(read).unwrap_or_else(|| Err(Fail::not_found(Kind::Entry, id)))
}

async fn similar(tx: &Tx<'_>, entry: &Entry) -> Result<Option<Entry>, Fail> {
    let sql = select!("WHERE spiffe_id = $1 AND parent_id = $2 AND selectors = $3 ORDER BY seq LIMIT 1");
    let selectors = value::selectors(&entry.selectors)?;
    let values = [entry.spiffe_id.as_str().into(), entry.parent_id.as_str().into(), selectors.into()];
    tx.query(sql, &values).await?.first().map(read).transpose()
}

async fn remove(tx: &mut Tx<'_>, sql: &str, values: &[Value<'_>]) -> Result<Vec<EntryId>, Fail> {
    let mut removed: Vec<EntryId> = Vec::new();
    for row in tx.query(sql, values).await? {
        removed.push(Columns::of(&row, TABLE).parsed()?);
    }
    for id in &removed {
        tx.changed(Kind::Entry, id.as_str());
    }
    Ok(removed)
}

async fn write(tx: &Tx<'_>, sql: &str, entry: &Entry) -> Result<u64, Fail> {
    let values = [
        entry.id.as_str().into(),
        entry.spiffe_id.as_str().into(),
        entry.parent_id.as_str().into(),
        value::selectors(&entry.selectors)?.into(),
        entry.x509_svid_ttl.into(),
        entry.jwt_svid_ttl.into(),
        value::list(entry.federates_with.iter().map(|td| td.as_str()))?.into(),
        entry.admin.into(),
        entry.downstream.into(),
        entry.store_svid.into(),
        entry.expires_at.into(),
        value::list(entry.dns_names.iter().map(String::as_str))?.into(),
        entry.hint.as_str().into(),
        entry.disable_x509_svid_prefetch.into(),
        entry.jwt_svid_include_jti.into(),
        entry.revision_number.into(),
        entry.created_at.into(),
    ];
    tx.execute(sql, &values).await
}

const TABLE: &str = "entries";

/// Every entry, oldest first.
pub(super) const ALL: &str = select!("ORDER BY seq");

const INSERT: &str = "INSERT INTO entries (id, spiffe_id, parent_id, selectors, x509_svid_ttl, jwt_svid_ttl,
    federates_with, admin, downstream, store_svid, expires_at, dns_names, hint, disable_x509_svid_prefetch,
    jwt_svid_include_jti, revision_number, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE entries SET spiffe_id = $2, parent_id = $3, selectors = $4, x509_svid_ttl = $5,
    jwt_svid_ttl = $6, federates_with = $7, admin = $8, downstream = $9, store_svid = $10, expires_at = $11,
    dns_names = $12, hint = $13, disable_x509_svid_prefetch = $14, jwt_svid_include_jti = $15,
    revision_number = $16, created_at = $17 WHERE id = $1";
