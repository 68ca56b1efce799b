//! One write transaction.
//!
//! What a write touches is locked by name first ([`Tx::begin`]), so that two servers do the same thing one after the
//! other. The feed's counter is raised last, in the message that commits: no wait for this program lies between the two, so
//! a server that stops in the middle of a write holds up nobody but those who want the same object.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future;
use tokio_postgres::Row;

use super::Shared;
use super::fail::Fail;
use super::feed::{code, position};
use super::pool::Lease;
use super::value::Value;
use crate::change::Position;
use crate::error::Kind;

/// A write transaction. Dropped before [`Tx::commit`], it is undone.
pub(super) struct Tx<'a> {
    shared: &'a Shared,
    lease: Lease,
    /// Unix seconds.
    pub(super) now: i64,
    events: Vec<(i64, String)>,
    /// Whether a statement is under way, whose answer a dropped call would leave behind.
    busy: AtomicBool,
}

impl<'a> Tx<'a> {
    /// Begins once the database is there, and waits for other writers of `names`.
    pub(super) async fn begin(shared: &'a Shared, names: &[(Kind, &str)]) -> Result<Self, Fail> {
        shared.ready().await?;
        let lease = shared.primary.take().await?;
        let now = shared.clock.unix_now();
        let tx = Self { shared, lease, now, events: Vec::new(), busy: AtomicBool::new(true) };
        // In one order for all, so that nobody waits in a circle.
        let mut keys: Vec<i64> = names.iter().map(|(kind, name)| lock_key(*kind, name)).collect();
        keys.sort_unstable();
        let session = tx.lease.session()?;
        let begun = session.batch("BEGIN ISOLATION LEVEL READ COMMITTED");
        let names = [keys.as_slice().into()];
        let locked = session.query("SELECT pg_advisory_xact_lock(key) FROM unnest($1) AS t(key)", &names);
        let (begun, locked) = future::join(begun, locked).await;
        tx.done();
        begun?;
        locked?;
        Ok(tx)
    }

    /// Runs a statement.
    pub(super) async fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fail> {
        self.busy.store(true, Ordering::Relaxed);
        let rows = self.lease.session()?.query(sql, values).await;
        self.done();
        rows
    }

    /// Runs a statement and says how many rows it touched.
    pub(super) async fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, Fail> {
        self.busy.store(true, Ordering::Relaxed);
        let touched = self.lease.session()?.execute(sql, values).await;
        self.done();
        touched
    }

    /// The database's name, for messages.
    pub(super) fn place(&self) -> &str {
        &self.shared.primary.target.place
    }

    /// Records that the object `key` changed.
    pub(super) fn changed(&mut self, kind: Kind, key: &str) {
        self.events.push((code(kind), key.to_owned()));
    }

    /// Commits, and gives the position at which everything above is done. From `sent` on, a connection that ends leaves the
    /// outcome open.
    pub(super) async fn commit(mut self, sent: &AtomicBool) -> Result<Position, Fail> {
        self.busy.store(true, Ordering::Relaxed);
        let kinds: Vec<i64> = self.events.iter().map(|(kind, _)| *kind).collect();
        let keys: Vec<&str> = self.events.iter().map(|(_, key)| key.as_str()).collect();
        let number = i64::try_from(kinds.len()).map_err(|error| Fail::Bug(error.to_string()))?;
        let values = [number.into(), self.now.into(), kinds.as_slice().into(), keys.as_slice().into()];
        let session = self.lease.session()?;
        // Without events too: a journal is no event.
        sent.store(true, Ordering::Relaxed);
        let (last, committed) = if self.events.is_empty() {
            let last = session.query("SELECT position FROM feed", &[]);
            future::join(last, session.batch("COMMIT")).await
        } else {
            let advance = if self.shared.listens() { ADVANCE_AND_TELL } else { ADVANCE };
            future::join(session.query(advance, &values), session.batch("COMMIT")).await
        };
        self.done();
        let last = last?;
        committed?;
        let last = last.first().ok_or_else(|| Fail::row("feed", "1", "it is missing"))?;
        let last = position(last.try_get(0)?)?;
        self.lease.give_back();
        self.shared.publish(last);
        Ok(last)
    }

    fn done(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if !*self.busy.get_mut() {
            self.lease.roll_back();
        }
    }
}

/// A number for a name. Two names with the same number wait for each other without need, and nothing else.
fn lock_key(kind: Kind, name: &str) -> i64 {
    // FNV-1a.
    let start = 0xcbf2_9ce4_8422_2325_u64 ^ code(kind).unsigned_abs();
    let hash = name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.cast_signed()
}

/// Positions are given under the lock of the feed's only row, which the commit that follows in the same message releases.
macro_rules! advance {
    ($answer:literal) => {
        concat!(
            "WITH moved AS (UPDATE feed SET position = position + $1 RETURNING position),
             noted AS (
                 INSERT INTO changes (position, at, kind, key, tag)
                 SELECT moved.position - $1 + event.place, $2, event.kind, event.key,
                        CAST(floor(random() * 9007199254740991) AS BIGINT)
                 FROM moved, unnest($3, $4) WITH ORDINALITY AS event(kind, key, place))
             SELECT ",
            $answer,
            " FROM moved"
        )
    };
}
const ADVANCE: &str = advance!("position");
const ADVANCE_AND_TELL: &str = advance!("position, pg_notify('vouchsafe_changes', position::text)::text");
