//! Everything, streamed as of one moment.

use std::pin::pin;

use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::fail::Fail;
use super::feed::{Marks, Moment, number};
use super::{READ_DEADLINE, agents, bundles, entries, federation, join_tokens};
use crate::change::{Position, Record};

pub(super) async fn load(
    moment: &Moment,
    marks: &Marks,
    sink: &mut (dyn FnMut(Record) + Send),
) -> Result<Position, Fail> {
    let session = moment.session()?;
    let newest = moment.head.newest;
    session.batch("SET LOCAL statement_timeout = 120000").await?;
    let sql = "SELECT tag FROM changes WHERE position = $1";
    if let Some(row) = session.query(sql, &[number(newest)?.into()]).await?.first() {
        marks.add(newest, row.try_get(0)?);
    }
    scan(moment, entries::ALL, |row| Ok(Record::Entry(entries::read(row)?)), sink).await?;
    scan(moment, agents::ALL, |row| Ok(Record::Agent(agents::read(row)?)), sink).await?;
    bundles::all(session).await?.into_iter().map(Record::Bundle).for_each(&mut *sink);
    scan(moment, join_tokens::ALL, |row| Ok(Record::JoinToken(join_tokens::read(row)?)), sink).await?;
    scan(moment, federation::ALL, |row| Ok(Record::Federation(federation::read(row)?)), sink).await?;
    Ok(newest)
}

/// Hands over what `read` makes of every row of `sql`. The driver holds a few rows at a time, and the network the rest.
async fn scan(
    moment: &Moment,
    sql: &str,
    read: impl Fn(&Row) -> Result<Record, Fail>,
    sink: &mut (dyn FnMut(Record) + Send),
) -> Result<(), Fail> {
    let rows = wait(moment.session()?.stream(sql)).await?;
    let mut rows = pin!(rows);
    while let Some(row) = wait(async { rows.next().await.transpose().map_err(Fail::from) }).await? {
        sink(read(&row)?);
    }
    Ok(())
}

/// Waits for the next part of a reading.
async fn wait<T>(part: impl Future<Output = Result<T, Fail>>) -> Result<T, Fail> {
    timeout(READ_DEADLINE, part).await.unwrap_or(Err(Fail::Away(None)))
}
