//! Attested agents.

use std::collections::HashMap;

use tokio_postgres::Row;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::entries;
use super::fail::Fail;
use super::session::Session;
use super::tx::Tx;
use super::value::{self, Columns};
use crate::error::{Error, Kind, Rejected};
use crate::store::{AgentChange, AgentWrite};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, attestation_type, serial_number, expires_at, new_serial_number, new_expires_at, can_reattest,
             selectors, agent_version FROM agents ",
            $rest
        )
    };
}

pub(super) async fn put(tx: &mut Tx<'_>, agent: &Agent) -> Result<(), Fail> {
    let banned = find(tx, &agent.id).await?.is_some_and(|known| known.is_banned());
    if banned && !agent.is_banned() {
        return Err(Rejected::new("agent is banned").into());
    }
    write(tx, agent).await
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &SpiffeId, change: &AgentChange) -> Result<Agent, Fail> {
    let before = find(tx, id).await?.ok_or_else(|| Fail::not_found(Kind::Agent, id))?;
    let mut after = before.clone();
    change(&mut after)?;
    after.id = id.clone();
    if after != before {
        write(tx, &after).await?;
    }
    Ok(after)
}

/// Two statements, however many there are.
pub(super) async fn update_all(
    tx: &mut Tx<'_>,
    writes: &[AgentWrite],
) -> Result<Vec<Result<(), Error>>, Fail> {
    let ids: Vec<&str> = writes.iter().map(|write| write.id.as_str()).collect();
    let rows = tx.query(select!("WHERE id = ANY ($1) FOR UPDATE"), &[ids.as_slice().into()]).await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in &rows {
        known.insert(row.try_get::<_, String>(0)?, row);
    }
    let mut changed = Vec::new();
    let mut outcomes = Vec::with_capacity(writes.len());
    for write in writes {
        let before = known.get(write.id.as_str()).map(|row| read(row)).transpose();
        outcomes.push(match before.and_then(|before| changed_by(write, before)) {
            Ok(after) => {
                changed.extend(after);
                Ok(())
            }
            Err(fail) => Err(fail.of_one("update agents", tx.place())?),
        });
    }
    if !changed.is_empty() {
        write_all(tx, &changed).await?;
    }
    Ok(outcomes)
}

/// The agent as it is to be written, if it is.
fn changed_by(write: &AgentWrite, before: Option<Agent>) -> Result<Option<Agent>, Fail> {
    let Some(before) = before else {
        let missing = || Fail::not_found(Kind::Agent, &write.id);
        return write.otherwise.clone().map(Some).ok_or_else(missing);
    };
    let mut after = before.clone();
    (write.change)(&mut after)?;
    after.id = write.id.clone();
    Ok((after != before).then_some(after))
}

pub(super) async fn delete(tx: &mut Tx<'_>, id: &SpiffeId) -> Result<Agent, Fail> {
    let agent = find(tx, id).await?.ok_or_else(|| Fail::not_found(Kind::Agent, id))?;
    if agent.attestation_type == JOIN_TOKEN {
        entries::delete_alias_of(tx, id).await?;
    }
    tx.execute("DELETE FROM agents WHERE id = $1", &[id.as_str().into()]).await?;
    tx.changed(Kind::Agent, id.as_str());
    Ok(agent)
}

pub(super) async fn find_all(session: &Session, ids: &[&str]) -> Result<Vec<Agent>, Fail> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.query(select!("WHERE id = ANY ($1)"), &[ids.into()]).await?;
    rows.iter().map(read).collect()
}

pub(super) fn read(row: &Row) -> Result<Agent, Fail> {
    let mut columns = Columns::of(row, "agents");
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

async fn find(tx: &Tx<'_>, id: &SpiffeId) -> Result<Option<Agent>, Fail> {
    let rows = tx.query(select!("WHERE id = $1 FOR UPDATE"), &[id.as_str().into()]).await?;
    rows.first().map(read).transpose()
}

async fn write(tx: &mut Tx<'_>, agent: &Agent) -> Result<(), Fail> {
    let values = [
        agent.id.as_str().into(),
        agent.attestation_type.as_str().into(),
        agent.serial_number.as_str().into(),
        agent.expires_at.into(),
        agent.new_serial_number.as_str().into(),
        agent.new_expires_at.into(),
        agent.can_reattest.into(),
        value::selectors(&agent.selectors)?.into(),
        agent.agent_version.as_str().into(),
    ];
    tx.execute(UPSERT, &values).await?;
    tx.changed(Kind::Agent, agent.id.as_str());
    Ok(())
}

/// Adds or replaces them in one statement.
async fn write_all(tx: &mut Tx<'_>, agents: &[Agent]) -> Result<(), Fail> {
    let selectors = agents.iter().map(|agent| value::selectors(&agent.selectors));
    let selectors = selectors.collect::<Result<Vec<String>, Fail>>()?;
    let selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
    let texts = |of: fn(&Agent) -> &str| -> Vec<&str> { agents.iter().map(of).collect() };
    let numbers = |of: fn(&Agent) -> i64| -> Vec<i64> { agents.iter().map(of).collect() };
    let ids = texts(|agent| agent.id.as_str());
    let types = texts(|agent| &agent.attestation_type);
    let (serials, new_serials) =
        (texts(|agent| &agent.serial_number), texts(|agent| &agent.new_serial_number));
    let (expiries, new_expiries) = (numbers(|agent| agent.expires_at), numbers(|agent| agent.new_expires_at));
    let reattest = numbers(|agent| agent.can_reattest.into());
    let versions = texts(|agent| &agent.agent_version);
    let values = [
        ids.as_slice().into(),
        types.as_slice().into(),
        serials.as_slice().into(),
        expiries.as_slice().into(),
        new_serials.as_slice().into(),
        new_expiries.as_slice().into(),
        reattest.as_slice().into(),
        selectors.as_slice().into(),
        versions.as_slice().into(),
    ];
    tx.execute(UPSERT_ALL, &values).await?;
    for id in ids {
        tx.changed(Kind::Agent, id);
    }
    Ok(())
}

/// The attestor whose agents have an alias entry of their own.
const JOIN_TOKEN: &str = "join_token";

/// Every agent, oldest first.
pub(super) const ALL: &str = select!("ORDER BY seq");

const UPSERT_ALL: &str = "INSERT INTO agents (id, attestation_type, serial_number, expires_at, new_serial_number,
    new_expires_at, can_reattest, selectors, agent_version)
    SELECT id, attestation_type, serial_number, expires_at, new_serial_number, new_expires_at, can_reattest <> 0,
           selectors, agent_version
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS t(id, attestation_type, serial_number, expires_at,
         new_serial_number, new_expires_at, can_reattest, selectors, agent_version)
    ON CONFLICT (id) DO UPDATE SET attestation_type = EXCLUDED.attestation_type,
    serial_number = EXCLUDED.serial_number, expires_at = EXCLUDED.expires_at,
    new_serial_number = EXCLUDED.new_serial_number, new_expires_at = EXCLUDED.new_expires_at,
    can_reattest = EXCLUDED.can_reattest, selectors = EXCLUDED.selectors, agent_version = EXCLUDED.agent_version";

const UPSERT: &str = "INSERT INTO agents (id, attestation_type, serial_number, expires_at, new_serial_number,
    new_expires_at, can_reattest, selectors, agent_version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (id) DO UPDATE SET attestation_type = $2, serial_number = $3, expires_at = $4,
    new_serial_number = $5, new_expires_at = $6, can_reattest = $7, selectors = $8, agent_version = $9";
