//! Everything, streamed: a blocking thread reads ahead by at most [`PARTS_AHEAD`] parts, so a large store is never
//! held twice.

use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::fail::Fail;
use super::readers::{Readers, late};
use super::{agents, bundles, entries, federation, feed, join_tokens};
use crate::change::{Position, Record};
use crate::error::Error;

/// Records handed over together.
const PART: usize = 256;
/// Parts that wait for the reader.
const PARTS_AHEAD: usize = 2;

pub(super) async fn load(
    readers: &Readers,
    sink: &mut (dyn FnMut(Record) + Send),
) -> Result<Position, Error> {
    let (sender, mut parts) = mpsc::channel(PARTS_AHEAD);
    let reading = readers.start(OPERATION, move |conn| stream(conn, sender)).await?;
    loop {
        match timeout(readers.deadlines().read, parts.recv()).await {
            Ok(Some(part)) => part.into_iter().for_each(&mut *sink),
            Ok(None) => break,
            Err(_) => return Err(late(OPERATION)),
        }
    }
    match timeout(readers.deadlines().read, reading).await {
        Ok(ended) => readers.result(OPERATION, ended),
        Err(_) => Err(late(OPERATION)),
    }
}

fn stream(conn: &Connection, sender: mpsc::Sender<Vec<Record>>) -> Result<Position, Fail> {
    let position = feed::newest(conn)?;
    let mut parts = Parts { sender, part: Vec::with_capacity(PART) };
    entries::scan(conn, |entry| parts.push(Record::Entry(entry)))?;
    agents::scan(conn, |agent| parts.push(Record::Agent(agent)))?;
    bundles::scan(conn, |bundle| parts.push(Record::Bundle(bundle)))?;
    join_tokens::scan(conn, |token| parts.push(Record::JoinToken(token)))?;
    federation::scan(conn, |relationship| parts.push(Record::Federation(relationship)))?;
    parts.hand_over()?;
    // The page cache has seen the whole file; the feed needs little of it.
    conn.execute_batch("PRAGMA shrink_memory")?;
    Ok(position)
}

struct Parts {
    sender: mpsc::Sender<Vec<Record>>,
    part: Vec<Record>,
}

impl Parts {
    fn push(&mut self, record: Record) -> Result<(), Fail> {
        self.part.push(record);
        if self.part.len() < PART {
            return Ok(());
        }
        self.hand_over()
    }

    fn hand_over(&mut self) -> Result<(), Fail> {
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART));
        let left = || Fail::Bug("load was cancelled".to_owned());
        match self.sender.try_send(part) {
            // A small database is handed over without waiting for the caller.
            Ok(()) => Ok(()),
            Err(TrySendError::Full(part)) => self.sender.blocking_send(part).map_err(|_| left()),
            // The caller left; nobody sees this.
            Err(TrySendError::Closed(_)) => Err(left()),
        }
    }
}

const OPERATION: &str = "load everything";
