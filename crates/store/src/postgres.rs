//! PostgreSQL, for several servers on one registry.
//!
//! # Policy
//!
//! * **No leader.** Every server writes and reads on its own. A write is one transaction that locks what it touches by
//!   name, and raises the feed's counter last, in the message that commits ([`tx`]). So positions have no holes and come
//!   in the order of the commits; a reader needs no waiting for stragglers.
//! * **Told, not asked.** Whoever commits notifies; [`keeper`] listens, and asks every few seconds in case a notice was
//!   lost. Engines that speak the protocol but cannot notify are asked twice a second.
//! * **Never waits for a database that is away.** [`Postgres::open`] does not contact it. One task knows whether it
//!   answers; while it does not, calls fail at once. All others have a deadline ([`WRITE_DEADLINE`], [`READ_DEADLINE`]),
//!   and the database has shorter ones of its own, so that the cause is reported.
//! * **Never backwards.** A standby is read only while it has everything that this server knows of; else the primary.
//! * **A schema of its own,** `vouchsafe`, so that SPIRE's tables, or another program's, may be in the same database. One
//!   that is foreign or newer is refused and not touched ([`migrate`]).
//! * **Compact rows,** as in SQLite: lists are JSON in a text column, because they are read and replaced as a whole.
//! * **No secret leaves.** The driver's messages are taken without their details, which quote rows.
//! * **Bounded.** `max_open_conns` connections, of which one listens; [`MAX_TRIES`] for a transaction that another was in
//!   the way of.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::change::{Changes, Position, Record};
use crate::error::{Error, Kind, Rejected};
use crate::store::{
    Admission, AgentChange, AgentWrite, AgentsWritten, BundleChange, BundleUpdate, BundleWrite, Contents,
    CreateOutcome, DeleteMode, EntryChange, FederationChange, JournalRecord, MAX_JOURNAL_BYTES, Store,
    check_count,
};

mod agents;
mod attempt;
mod bundles;
mod connection_string;
mod deadlines;
mod entries;
pub(crate) mod fail;
mod federation;
mod feed;
mod join_tokens;
mod journals;
mod keeper;
mod load;
mod migrate;
mod pool;
mod restore;
pub(crate) mod session;
pub(crate) mod settings;
mod shared;
mod tls;
mod tx;
pub(crate) mod value;

pub use attempt::MAX_TRIES;
pub use deadlines::{
    LOAD_DEADLINE, MAX_PRUNED, READ_DEADLINE, RESTORE_DEADLINE, RETRY_AFTER, WRITE_DEADLINE,
};
pub use migrate::RefusedSchema;
pub use settings::{
    CONNECT_DEADLINE, DEFAULT_MAX_IDLE, DEFAULT_MAX_OPEN, MAX_CONNECT_DEADLINE, MIN_OPEN, Settings,
    SettingsError, check_connection_string,
};
pub use shared::REPLICA_DEADLINE;

use attempt::{Attempt, read, write};
use deadlines::MAX_CHANGES_PRUNED;
use shared::Shared;
use tx::Tx;

/// A registry in PostgreSQL. Dropping it closes its connections.
pub struct Postgres {
    shared: Arc<Shared>,
    /// The keeper, which ends with this value.
    _tasks: JoinSet<()>,
}

impl Postgres {
    /// Takes note of the database. It is contacted from then on, by a task of this value; calls wait until that has
    /// succeeded or failed once. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] says what is wrong with the settings.
    pub fn open(settings: &Settings, clock: Clock, entropy: Entropy) -> Result<Self, SettingsError> {
        let shared = Arc::new(Shared::new(settings, clock)?);
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper::keep(Arc::clone(&shared), entropy));
        Ok(Self { shared, _tasks: tasks })
    }
}

impl Postgres {
    /// How many programs use this database as a registry at this moment, this one included. 0 if the database cannot tell.
    ///
    /// # Errors
    ///
    /// As of [`Store::ping`].
    pub async fn users(&self) -> Result<u64, Error> {
        read!(self, "count the users", READ_DEADLINE, {
            let mut lease = self.shared.primary().await?;
            let count: i64 = lease.session()?.one(keeper::COUNT_PRESENT, &[]).await?.try_get(0)?;
            lease.give_back();
            Ok(count.unsigned_abs())
        })
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("place", &self.shared.primary.target.place).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Postgres {
    async fn epoch(&self) -> Result<u64, Error> {
        read!(self, "read the epoch", READ_DEADLINE, {
            self.shared.ready().await?;
            Ok(self.shared.epoch.load(Ordering::Relaxed))
        })
    }

    async fn load(&self, sink: &mut (dyn FnMut(Record) + Send)) -> Result<Position, Error> {
        let moment = read!(self, "load everything", READ_DEADLINE, { self.shared.moment().await })?;
        let attempt = Attempt::new(&self.shared, "load everything", LOAD_DEADLINE);
        // Not done again: the sink has a part of it.
        let loaded = attempt.within(load::load(&moment, &self.shared.marks, sink)).await;
        let position = attempt.end(loaded)?;
        moment.end();
        Ok(position)
    }

    async fn changes_after(&self, after: Position, limit: usize) -> Result<Changes, Error> {
        read!(self, "read changes", READ_DEADLINE, {
            let moment = self.shared.moment().await?;
            let changes = feed::changes_after(&moment, &self.shared.marks, after, limit).await?;
            moment.end();
            Ok(changes)
        })
    }

    fn mark(&self, at: Position) -> Option<i64> {
        self.shared.marks.of(at)
    }

    fn recall(&self, at: Position, mark: i64) {
        self.shared.marks.add(at, mark);
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.shared.newest.subscribe()
    }

    async fn create_entry(&self, entry: Entry) -> Result<CreateOutcome, Error> {
        let likeness = entries::likeness(&entry).map_err(|fail| fail.at("create entry", ""))?;
        let locks = [(Kind::Entry, entry.id.as_str()), (Kind::Entry, likeness.as_str())];
        let (created, position) = write!(self, "create entry", locks, |tx| entries::create(&mut tx, &entry))?;
        Ok(match created {
            entries::Created::New(entry) => CreateOutcome::Created(entry, position),
            entries::Created::Similar(entry) => CreateOutcome::Similar(entry),
        })
    }

    async fn update_entry(&self, id: &EntryId, change: EntryChange) -> Result<(Entry, Position), Error> {
        let locks = [(Kind::Entry, id.as_str())];
        write!(self, "update entry", locks, |tx| entries::update(&mut tx, id, &change))
    }

    async fn delete_entry(&self, id: &EntryId) -> Result<(Entry, Position), Error> {
        let locks = [(Kind::Entry, id.as_str())];
        write!(self, "delete entry", locks, |tx| entries::delete(&mut tx, id))
    }

    async fn prune_entries(&self, now: i64) -> Result<Vec<EntryId>, Error> {
        let mut pruned = Vec::new();
        loop {
            let part = write!(self, "prune entries", [], |tx| entries::prune(&mut tx, now, MAX_PRUNED))?.0;
            let complete = part.len() < MAX_PRUNED;
            pruned.extend(part);
            if complete {
                return Ok(pruned);
            }
        }
    }

    async fn put_agent(&self, agent: Agent) -> Result<Position, Error> {
        let locks = [(Kind::Agent, agent.id.as_str())];
        Ok(write!(self, "put agent", locks, |tx| agents::put(&mut tx, &agent))?.1)
    }

    async fn update_agent(&self, id: &SpiffeId, change: AgentChange) -> Result<(Agent, Position), Error> {
        let locks = [(Kind::Agent, id.as_str())];
        write!(self, "update agent", locks, |tx| agents::update(&mut tx, id, &change))
    }

    async fn update_agents(&self, writes: Vec<AgentWrite>) -> Result<AgentsWritten, Error> {
        check_count(&writes)?;
        let locks: Vec<_> = writes.iter().map(|write| (Kind::Agent, write.id.as_str())).collect();
        let (outcomes, position) =
            write!(self, "update agents", locks, |tx| agents::update_all(&mut tx, &writes))?;
        Ok(AgentsWritten { outcomes, position })
    }

    async fn delete_agent(&self, id: &SpiffeId) -> Result<(Agent, Position), Error> {
        let locks = [(Kind::Agent, id.as_str())];
        write!(self, "delete agent", locks, |tx| agents::delete(&mut tx, id))
    }

    async fn create_join_token(&self, token: JoinToken, alias: Option<Entry>) -> Result<Position, Error> {
        let likeness = alias.as_ref().map(entries::likeness).transpose();
        let likeness = likeness.map_err(|fail| fail.at("create join token", ""))?;
        let mut locks = vec![(Kind::JoinToken, token.value.as_str())];
        locks.extend(likeness.iter().map(|likeness| (Kind::Entry, likeness.as_str())));
        let create = write!(self, "create join token", locks, |tx| join_tokens::create(
            &mut tx,
            &token,
            alias.as_ref()
        ));
        Ok(create?.1)
    }

    async fn admit_by_token(&self, token: &str, now: i64, agent: Agent) -> Result<Admission, Error> {
        let locks = [(Kind::JoinToken, token), (Kind::Agent, agent.id.as_str())];
        let admit =
            write!(self, "admit by join token", locks, |tx| join_tokens::admit(&mut tx, token, now, &agent));
        let (admitted, position) = admit?;
        Ok(match admitted {
            join_tokens::Admitted::Yes => Admission::Admitted(position),
            join_tokens::Admitted::Expired => Admission::Expired,
            join_tokens::Admitted::Unknown => Admission::Unknown,
        })
    }

    async fn prune_join_tokens(&self, now: i64) -> Result<usize, Error> {
        let mut pruned = 0;
        loop {
            let prune =
                write!(self, "prune join tokens", [], |tx| join_tokens::prune(&mut tx, now, MAX_PRUNED));
            let part = prune?.0;
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
        let locks = [(Kind::Bundle, trust_domain.as_str())];
        let update =
            write!(self, "update bundle", locks, |tx| bundles::update(&mut tx, trust_domain, &change));
        let ((bundle, changed), position) = update?;
        Ok(BundleUpdate { bundle, changed, position })
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        how: BundleWrite,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        let locks = [(Kind::Bundle, trust_domain.as_str())];
        let put = write!(self, "put bundle", locks, |tx| bundles::put(&mut tx, trust_domain, how, &change));
        let ((bundle, changed), position) = put?;
        Ok(BundleUpdate { bundle, changed, position })
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(Bundle, Position), Error> {
        let locks = [(Kind::Bundle, trust_domain.as_str())];
        write!(self, "delete bundle", locks, |tx| bundles::delete(&mut tx, trust_domain, mode))
    }

    async fn create_federation(
        &self,
        relationship: FederationRelationship,
        bundle: Option<Bundle>,
    ) -> Result<Position, Error> {
        let name = relationship.trust_domain.as_str();
        let locks = [(Kind::Federation, name), (Kind::Bundle, name)];
        let create = write!(self, "create federation relationship", locks, |tx| federation::create(
            &mut tx,
            &relationship,
            bundle.as_ref()
        ));
        Ok(create?.1)
    }

    async fn update_federation(
        &self,
        trust_domain: &TrustDomain,
        change: FederationChange,
        bundle: Option<Bundle>,
    ) -> Result<(FederationRelationship, Position), Error> {
        let name = trust_domain.as_str();
        let locks = [(Kind::Federation, name), (Kind::Bundle, name)];
        write!(self, "update federation relationship", locks, |tx| federation::update(
            &mut tx,
            trust_domain,
            &change,
            bundle.as_ref()
        ))
    }

    async fn delete_federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(FederationRelationship, Position), Error> {
        let locks = [(Kind::Federation, trust_domain.as_str())];
        write!(self, "delete federation relationship", locks, |tx| federation::delete(&mut tx, trust_domain))
    }

    async fn load_journals(&self) -> Result<Vec<JournalRecord>, Error> {
        read!(self, "load journals", READ_DEADLINE, {
            // Not from the standby: what a server wrote last is what it has to find.
            let mut lease = self.shared.primary().await?;
            let journals = journals::load(lease.session()?).await?;
            lease.give_back();
            Ok(journals)
        })
    }

    async fn save_journal(&self, key: &str, data: Vec<u8>) -> Result<(), Error> {
        if data.len() > MAX_JOURNAL_BYTES {
            let reason = format!("journal of {} bytes exceeds {MAX_JOURNAL_BYTES}", data.len());
            return Err(Rejected::new(reason).into());
        }
        write!(self, "save journal", [], |tx| journals::save(&tx, key, &data))?;
        Ok(())
    }

    async fn delete_journal(&self, record: &JournalRecord) -> Result<bool, Error> {
        Ok(write!(self, "delete journal", [], |tx| journals::delete(&tx, record))?.0)
    }

    async fn restore(&self, contents: Contents) -> Result<Position, Error> {
        let deadline = RESTORE_DEADLINE;
        Ok(write!(self, "restore", [], |tx| restore::restore(&mut tx, &contents), deadline)?.1)
    }

    async fn prune_changes(&self, older_than: i64) -> Result<usize, Error> {
        let mut pruned = 0;
        loop {
            let prune =
                write!(self, "prune changes", [], |tx| feed::prune(&tx, older_than, MAX_CHANGES_PRUNED));
            let part = prune?.0;
            pruned += part;
            if part < MAX_CHANGES_PRUNED {
                return Ok(pruned);
            }
        }
    }

    async fn ping(&self) -> Result<(), Error> {
        read!(self, "ping", READ_DEADLINE, {
            let mut lease = self.shared.primary().await?;
            feed::head(lease.session()?).await?;
            lease.give_back();
            Ok(())
        })
    }
}
