//! Attested agents.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::entries;
use super::fail::Fail;
use super::feed::Tx;
use super::text::{self, Columns};
use crate::change::Position;
use crate::error::{Error, Kind, Rejected};
use crate::store::{AgentChange, AgentWrite, AgentsWritten};

macro_rules! select {
    () => {
        "SELECT id, attestation_type, serial_number, expires_at, new_serial_number, new_expires_at, can_reattest,
         selectors, agent_version FROM agents"
    };
}

pub(super) fn put(tx: &Tx<'_>, agent: &Agent) -> Result<Position, Fail> {
    let banned = find(tx.conn, &agent.id)?.is_some_and(|known| known.is_banned());
    if banned && !agent.is_banned() {
        return Err(Rejected::new("agent is banned").into());
    }
    write(tx.conn, agent)?;
    tx.changed(Kind::Agent, agent.id.as_str())
}

pub(super) fn update(tx: &Tx<'_>, id: &SpiffeId, change: &AgentChange) -> Result<(Agent, Position), Fail> {
    let before = find(tx.conn, id)?.ok_or_else(|| Fail::not_found(Kind::Agent, id))?;
    let mut after = before.clone();
    change(&mut after)?;
    after.id = id.clone();
    if after == before {
        return Ok((after, tx.newest()?));
    }
    write(tx.conn, &after)?;
    let position = tx.changed(Kind::Agent, id.as_str())?;
    Ok((after, position))
}

/// Nothing of one that fails was written, so the others go on; unless it is the database itself that failed.
pub(super) fn update_all(tx: &Tx<'_>, writes: &[AgentWrite]) -> Result<AgentsWritten, Fail> {
    let mut outcomes = Vec::with_capacity(writes.len());
    for AgentWrite { id, change, otherwise } in writes {
        let done = match (update(tx, id, change), otherwise) {
            (Err(Fail::Told(Error::NotFound { .. })), Some(agent)) => put(tx, agent).map(drop),
            (done, _) => done.map(drop),
        };
        outcomes.push(match done {
            Ok(()) => Ok(()),
            Err(fail) => Err(fail.of_one("update agents", Path::new(tx.conn.path().unwrap_or_default()))?),
        });
    }
    Ok(AgentsWritten { outcomes, position: tx.newest()? })
}

pub(super) fn delete(tx: &Tx<'_>, id: &SpiffeId) -> Result<(Agent, Position), Fail> {
    let agent = find(tx.conn, id)?.ok_or_else(|| Fail::not_found(Kind::Agent, id))?;
    if agent.attestation_type == JOIN_TOKEN {
        entries::delete_alias_of(tx, id)?;
    }
    tx.conn.prepare_cached("DELETE FROM agents WHERE id = ?1")?.execute([id.as_str()])?;
    let position = tx.changed(Kind::Agent, id.as_str())?;
    Ok((agent, position))
}

pub(super) fn find(conn: &Connection, id: &SpiffeId) -> Result<Option<Agent>, Fail> {
    let sql = concat!(select!(), " WHERE id = ?1");
    Ok(conn.prepare_cached(sql)?.query_row([id.as_str()], read).optional()?)
}

/// Calls `each` for every agent, oldest first.
pub(super) fn scan(conn: &Connection, mut each: impl FnMut(Agent) -> Result<(), Fail>) -> Result<(), Fail> {
    let mut statement = conn.prepare(concat!(select!(), " ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let agent = read(row).map_err(|error| damaged(row, &error))?;
        each(agent)?;
    }
    Ok(())
}

fn write(conn: &Connection, agent: &Agent) -> Result<(), Fail> {
    conn.prepare_cached(UPSERT)?.execute(params![
        agent.id.as_str(),
        agent.attestation_type,
        agent.serial_number,
        agent.expires_at,
        agent.new_serial_number,
        agent.new_expires_at,
        agent.can_reattest,
        text::selectors(&agent.selectors)?,
        agent.agent_version,
    ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Agent> {
    let mut columns = Columns::of(row);
    Ok(Agent {
        id: columns.parsed()?,
        attestation_type: columns.value()?,
        serial_number: columns.value()?,
        expires_at: columns.value()?,
        new_serial_number: columns.value()?,
        new_expires_at: columns.value()?,
        can_reattest: columns.value()?,
        selectors: columns.selectors()?,
        agent_version: columns.value()?,
    })
}

fn damaged(row: &Row<'_>, error: &rusqlite::Error) -> Fail {
    let id: String = row.get(0).unwrap_or_default();
    Fail::row("agents", &id, error)
}

/// The attestor whose agents have an alias entry of their own.
const JOIN_TOKEN: &str = "join_token";

const UPSERT: &str = "INSERT INTO agents (id, attestation_type, serial_number, expires_at, new_serial_number,
    new_expires_at, can_reattest, selectors, agent_version) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (id) DO UPDATE SET attestation_type = ?2, serial_number = ?3, expires_at = ?4,
    new_serial_number = ?5, new_expires_at = ?6, can_reattest = ?7, selectors = ?8, agent_version = ?9";
