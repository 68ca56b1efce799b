//! SQLite, inside the process: one file, no server to run.
//!
//! # Policy
//!
//! * **Durable.** Write-ahead log with `synchronous=FULL`: `NORMAL` would lose acknowledged writes on power loss.
//!   What that costs is shared: writes that arrive together are committed together ([`writer`]).
//! * **One writer, few readers.** Writes run one group at a time on a blocking thread; reads run beside them on
//!   their own connections and see one consistent state each ([`readers`]). Nothing runs on the async runtime.
//! * **Refuse what is not ours.** A file that is foreign, damaged, empty or of a newer version is refused at open
//!   with a text that says so, and is not touched ([`open`]).
//! * **Compact rows.** One row per entry. Selectors, DNS names and federated trust domains are JSON arrays in a
//!   column, not child tables: they are read and replaced only as a whole, because searches run in the server's
//!   memory. That makes a create one insert instead of a dozen, and a load one scan without joins. The one
//!   question that the database is asked, "is there a similar entry", is equality of sorted texts, narrowed by the
//!   index on the SPIFFE ID. JSON rather than a binary packing, so that an operator with a SQL prompt can read it.
//!   Authorities of bundles are child rows, because they are few, large and binary.
//! * **Bounded.** [`MAX_QUEUED_WRITES`], [`MAX_BATCH`], [`READERS`], and a deadline on every call ([`Deadlines`]).
//!
//! One process at a time: the server holds a lock file on its data directory. Other programs may look, and a lock
//! that they hold for longer than the busy timeout makes writes fail as unavailable, not hang.
//!
//! A blocking thread is taken from tokio's pool per burst of work instead of keeping a thread of our own: tokio's
//! paused test clock stands still while pool threads work, and would fire every deadline at once otherwise.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::change::{Changes, Position, Record};
use crate::error::{Error, Rejected};
use crate::store::{
    Admission, AgentChange, AgentWrite, AgentsWritten, BundleChange, BundleUpdate, BundleWrite, Contents,
    CreateOutcome, DeleteMode, EntryChange, FederationChange, JournalRecord, MAX_JOURNAL_BYTES, Store,
    check_count,
};

mod agents;
mod bundles;
mod entries;
mod fail;
mod federation;
mod feed;
mod join_tokens;
mod journals;
mod load;
mod migrate;
mod open;
mod readers;
mod restore;
mod text;
mod writer;

pub use open::OpenError;
pub use readers::READERS;
pub use writer::{MAX_BATCH, MAX_QUEUED_WRITES};

use readers::Readers;
use writer::Writer;

/// The embedded engine. Dropping it closes the file once the calls that are under way have ended.
#[derive(Debug)]
pub struct Sqlite {
    writer: Writer,
    readers: Readers,
    epoch: u64,
}

impl Sqlite {
    /// Opens the database file at `path`, or creates it (mode 0600) when there is none; its directory must exist.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the file and what to do. A file that is refused is left as it was.
    pub async fn open(path: impl Into<PathBuf>, clock: Clock) -> Result<Self, OpenError> {
        Self::open_with(path.into(), clock, Deadlines::default()).await
    }

    /// Ends the calls that are under way and closes the file. Not needed for safety: a process that just ends loses
    /// nothing, and the next one reads the log.
    pub async fn close(self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn open_with(path: PathBuf, clock: Clock, deadlines: Deadlines) -> Result<Self, OpenError> {
        let file = path.clone();
        let busy = deadlines.busy;
        let opened = match blocking::run(move || open::open(&file, busy)).await {
            Ok(opened) => opened?,
            Err(gone) => return Err(OpenError::interrupted(path, gone)),
        };
        Ok(Self {
            writer: Writer::new(opened.conn, &path, clock, deadlines.write, opened.newest),
            readers: Readers::new(path, deadlines),
            epoch: opened.epoch,
        })
    }
}

/// How long calls wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// For a write, from the call to the commit, queueing included.
    pub(crate) write: Duration,
    /// For a read, and for each part of a streamed one.
    pub(crate) read: Duration,
    /// For another program's lock. Shorter than the others, so that its cause is reported.
    pub(crate) busy: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { write: WRITE_DEADLINE, read: READ_DEADLINE, busy: BUSY_TIMEOUT }
    }
}

/// Longest that a write is waited for. Then one that has not begun is taken back, and never runs; one that has
/// begun is left to end by itself, and its caller is told that the outcome is unknown.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Longest that a read, or the next part of a streamed read, is waited for.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Longest that SQLite waits for a lock that another program holds on the file.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest that a restore is waited for: about a million entries.
pub const RESTORE_DEADLINE: Duration = Duration::from_secs(120);
/// Most objects that one transaction prunes, so that other writes get their turn in between.
pub const MAX_PRUNED: usize = 1000;
/// What callers are told to wait after [`Error::Unavailable`].
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

#[async_trait]
impl Store for Sqlite {
    async fn epoch(&self) -> Result<u64, Error> {
        Ok(self.epoch)
    }

    async fn load(&self, sink: &mut (dyn FnMut(Record) + Send)) -> Result<Position, Error> {
        load::load(&self.readers, sink).await
    }

    async fn changes_after(&self, after: Position, limit: usize) -> Result<Changes, Error> {
        self.readers.read("read changes", move |conn| feed::changes_after(conn, after, limit)).await
    }

    fn mark(&self, _: Position) -> Option<i64> {
        None
    }

    fn recall(&self, _: Position, _: i64) {}

    fn watch(&self) -> watch::Receiver<Position> {
        self.writer.watch()
    }

    async fn create_entry(&self, entry: Entry) -> Result<CreateOutcome, Error> {
        self.writer.write("create entry", move |tx| entries::create(tx, &entry)).await
    }

    async fn update_entry(&self, id: &EntryId, change: EntryChange) -> Result<(Entry, Position), Error> {
        let id = id.clone();
        self.writer.write("update entry", move |tx| entries::update(tx, &id, &change)).await
    }

    async fn delete_entry(&self, id: &EntryId) -> Result<(Entry, Position), Error> {
        let id = id.clone();
        self.writer.write("delete entry", move |tx| entries::delete(tx, &id)).await
    }

    async fn prune_entries(&self, now: i64) -> Result<Vec<EntryId>, Error> {
        let mut pruned = Vec::new();
        loop {
            let part =
                self.writer.write("prune entries", move |tx| entries::prune(tx, now, MAX_PRUNED)).await?;
            let complete = part.len() < MAX_PRUNED;
            pruned.extend(part);
            if complete {
                return Ok(pruned);
            }
        }
    }

    async fn put_agent(&self, agent: Agent) -> Result<Position, Error> {
        self.writer.write("put agent", move |tx| agents::put(tx, &agent)).await
    }

    async fn update_agent(&self, id: &SpiffeId, change: AgentChange) -> Result<(Agent, Position), Error> {
        let id = id.clone();
        self.writer.write("update agent", move |tx| agents::update(tx, &id, &change)).await
    }

    async fn update_agents(&self, writes: Vec<AgentWrite>) -> Result<AgentsWritten, Error> {
        check_count(&writes)?;
        self.writer.write("update agents", move |tx| agents::update_all(tx, &writes)).await
    }

    async fn delete_agent(&self, id: &SpiffeId) -> Result<(Agent, Position), Error> {
        let id = id.clone();
        self.writer.write("delete agent", move |tx| agents::delete(tx, &id)).await
    }

    async fn create_join_token(&self, token: JoinToken, alias: Option<Entry>) -> Result<Position, Error> {
        self.writer
            .write("create join token", move |tx| join_tokens::create(tx, &token, alias.as_ref()))
            .await
    }

    async fn admit_by_token(&self, token: &str, now: i64, agent: Agent) -> Result<Admission, Error> {
        let token = token.into();
        self.writer.write("admit by join token", move |tx| join_tokens::admit(tx, &token, now, &agent)).await
    }

    async fn prune_join_tokens(&self, now: i64) -> Result<usize, Error> {
        let mut pruned = 0;
        loop {
            let prune = move |tx: &feed::Tx<'_>| join_tokens::prune(tx, now, MAX_PRUNED);
            let part = self.writer.write("prune join tokens", prune).await?;
            pruned += part;
            if part < MAX_PRUNED {
                return Ok(pruned);
            }
        }
    }

    async fn update_bundle(
        &self,
        trust_domain: &TrustDomain,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        let trust_domain = trust_domain.clone();
        self.writer.write("update bundle", move |tx| bundles::update(tx, &trust_domain, &change)).await
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        write: BundleWrite,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        let trust_domain = trust_domain.clone();
        let put = move |tx: &feed::Tx<'_>| bundles::put(tx, &trust_domain, write, &change);
        self.writer.write("put bundle", put).await
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(Bundle, Position), Error> {
        let trust_domain = trust_domain.clone();
        self.writer.write("delete bundle", move |tx| bundles::delete(tx, &trust_domain, mode)).await
    }

    async fn create_federation(
        &self,
        relationship: FederationRelationship,
        bundle: Option<Bundle>,
    ) -> Result<Position, Error> {
        let create = move |tx: &feed::Tx<'_>| federation::create(tx, &relationship, bundle.as_ref());
        self.writer.write("create federation relationship", create).await
    }

    async fn update_federation(
        &self,
        trust_domain: &TrustDomain,
        change: FederationChange,
        bundle: Option<Bundle>,
    ) -> Result<(FederationRelationship, Position), Error> {
        let trust_domain = trust_domain.clone();
        let update = move |tx: &feed::Tx<'_>| federation::update(tx, &trust_domain, &change, bundle.as_ref());
        self.writer.write("update federation relationship", update).await
    }

    async fn delete_federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(FederationRelationship, Position), Error> {
        let trust_domain = trust_domain.clone();
        let delete = move |tx: &feed::Tx<'_>| federation::delete(tx, &trust_domain);
        self.writer.write("delete federation relationship", delete).await
    }

    async fn load_journals(&self) -> Result<Vec<JournalRecord>, Error> {
        self.readers.read("load journals", journals::load).await
    }

    async fn save_journal(&self, key: &str, data: Vec<u8>) -> Result<(), Error> {
        if data.len() > MAX_JOURNAL_BYTES {
            let reason = format!("journal of {} bytes exceeds {MAX_JOURNAL_BYTES}", data.len());
            return Err(Rejected::new(reason).into());
        }
        let key = key.to_owned();
        self.writer.write("save journal", move |tx| journals::save(tx, &key, &data)).await
    }

    async fn delete_journal(&self, record: &JournalRecord) -> Result<bool, Error> {
        let record = record.clone();
        self.writer.write("delete journal", move |tx| journals::delete(tx, &record)).await
    }

    async fn restore(&self, contents: Contents) -> Result<Position, Error> {
        let restore = move |tx: &feed::Tx<'_>| restore::restore(tx, &contents);
        self.writer.write_within(RESTORE_DEADLINE, "restore", restore).await
    }

    async fn prune_changes(&self, older_than: i64) -> Result<usize, Error> {
        self.writer.write("prune changes", move |tx| feed::prune(tx, older_than)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.readers.read("ping", feed::ping).await
    }
}

#[cfg(test)]
mod tests;
