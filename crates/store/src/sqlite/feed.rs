//! The change feed: an event row per change, written in its transaction, read with the objects as they are now.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::fail::Fail;
use super::{agents, bundles, entries, federation, join_tokens, text};
use crate::change::{Change, Changes, Position};
use crate::error::{Error, Kind};
use crate::store::{MAX_CHANGES_KEPT, MAX_CHANGES_PER_READ};

/// A write transaction.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    /// Unix seconds.
    pub(super) now: i64,
}

impl Tx<'_> {
    /// Records that the object `key` changed.
    pub(super) fn changed(&self, kind: Kind, key: &str) -> Result<Position, Fail> {
        self.conn
            .prepare_cached("INSERT INTO changes (at, kind, key) VALUES (?1, ?2, ?3)")?
            .execute(params![self.now, code(kind), key])?;
        position(self.conn.last_insert_rowid())
    }

    /// The newest position, this transaction's own events included.
    pub(super) fn newest(&self) -> Result<Position, Fail> {
        newest(self.conn)
    }
}

/// The newest position given so far; pruning does not change it.
pub(super) fn newest(conn: &Connection) -> Result<Position, Fail> {
    let sql = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0)";
    position(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

pub(super) fn changes_after(conn: &Connection, after: Position, limit: usize) -> Result<Changes, Fail> {
    let newest = newest(conn)?;
    if after > newest {
        return Err(Fail::Told(Error::Rewound { after, newest }));
    }
    let pruned = position(meta(conn, "pruned_through")?)?;
    if after < pruned {
        return Err(Fail::Told(Error::Pruned { after, pruned }));
    }
    let limit = limit.clamp(1, MAX_CHANGES_PER_READ);
    let events = events_after(conn, after, limit)?;
    let complete = events.len() < limit || events.last().is_some_and(|event| event.position == newest);
    let position = if complete { newest } else { events.last().map_or(after, |event| event.position) };

    // An object that changed twice is reported once, at the place of its last change.
    let last: HashMap<(i64, &str), Position> =
        events.iter().map(|event| ((event.kind, event.key.as_str()), event.position)).collect();
    let changes = events
        .iter()
        .filter(|event| last.get(&(event.kind, event.key.as_str())) == Some(&event.position))
        .map(|event| resolve(conn, event))
        .collect::<Result<_, _>>()?;
    Ok(Changes { changes, position, complete })
}

struct Event {
    position: Position,
    kind: i64,
    key: SecretText,
}

fn events_after(conn: &Connection, after: Position, limit: usize) -> Result<Vec<Event>, Fail> {
    let sql = "SELECT position, kind, key FROM changes WHERE position > ?1 ORDER BY position LIMIT ?2";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params![number(after)?, text::count(limit)])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(2)?;
        events.push(Event { position: position(row.get(0)?)?, kind: row.get(1)?, key: key.into() });
    }
    Ok(events)
}

fn resolve(conn: &Connection, event: &Event) -> Result<Change, Fail> {
    let key = event.key.as_str();
    let wrong = |detail: String| Fail::row("changes", &event.position.to_string(), detail);
    Ok(match event.kind {
        ENTRY => {
            let id = EntryId::parse(key).map_err(|error| wrong(error.to_string()))?;
            let now = entries::find(conn, &id)?;
            Change::Entry(id, now)
        }
        AGENT => {
            let id = SpiffeId::parse(key).map_err(|error| wrong(error.to_string()))?;
            let now = agents::find(conn, &id)?;
            Change::Agent(id, now)
        }
        BUNDLE => {
            let trust_domain = TrustDomain::parse(key).map_err(|error| wrong(error.to_string()))?;
            let now = bundles::find(conn, &trust_domain)?;
            Change::Bundle(trust_domain, now)
        }
        JOIN_TOKEN => Change::JoinToken(event.key.clone(), join_tokens::find(conn, &event.key)?),
        FEDERATION => {
            let trust_domain = TrustDomain::parse(key).map_err(|error| wrong(error.to_string()))?;
            let now = federation::find(conn, &trust_domain)?;
            Change::Federation(trust_domain, now)
        }
        other => return Err(wrong(format!("unknown kind {other}"))),
    })
}

/// Deletes a contiguous run from the oldest event on, and remembers how far, so that a reader who is behind is told.
/// The run ends at the first event that is young enough, even if a clock that jumped made later ones look older.
pub(super) fn prune(tx: &Tx<'_>, older_than: i64) -> Result<usize, Fail> {
    let newest = number(tx.newest()?)?;
    let young: Option<i64> = tx
        .conn
        .prepare_cached("SELECT min(position) FROM changes WHERE at >= ?1")?
        .query_row([older_than], |row| row.get(0))?;
    let by_age = young.map_or(newest, |first_kept| first_kept - 1);
    let by_number = newest.saturating_sub_unsigned(MAX_CHANGES_KEPT);
    let through = by_age.max(by_number);
    let gone = tx.conn.prepare_cached("DELETE FROM changes WHERE position <= ?1")?.execute([through])?;
    if gone > 0 {
        tx.conn
            .prepare_cached("UPDATE meta SET value = max(value, ?1) WHERE name = 'pruned_through'")?
            .execute([through])?;
    }
    Ok(gone)
}

pub(super) fn ping(conn: &Connection) -> Result<(), Fail> {
    newest(conn).map(drop)
}

/// A number in the table `meta`.
pub(super) fn meta(conn: &Connection, name: &'static str) -> Result<i64, Fail> {
    Ok(conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0))?)
}

fn position(number: i64) -> Result<Position, Fail> {
    let number = u64::try_from(number).map_err(|error| Fail::row("changes", "position", error))?;
    Ok(Position(number))
}

fn number(position: Position) -> Result<i64, Fail> {
    i64::try_from(position.0).map_err(|error| Fail::Bug(format!("position {position}: {error}")))
}

fn code(kind: Kind) -> Value {
    Value::Integer(match kind {
        Kind::Entry => ENTRY,
        Kind::Agent => AGENT,
        Kind::Bundle => BUNDLE,
        Kind::JoinToken => JOIN_TOKEN,
        Kind::Federation => FEDERATION,
    })
}

const ENTRY: i64 = 1;
const AGENT: i64 = 2;
const BUNDLE: i64 = 3;
const JOIN_TOKEN: i64 = 4;
const FEDERATION: i64 = 5;
