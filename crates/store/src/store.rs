//! The contract of every database engine.
//!
//! Written for many servers on one database: nothing here supposes that this process is the only writer, that
//! positions are dense, or that a lock is held between two calls. Each write is one transaction.

use async_trait::async_trait;
use tokio::sync::watch;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::change::{Changes, Position, Record};
use crate::error::{Error, Rejected};

/// A registry of entries, agents, bundles, federation relationships, join tokens and journals.
///
/// # Errors
///
/// Every call may fail with [`Error::Unavailable`], [`Error::DiskFull`] (writes), [`Error::Corrupt`] and
/// [`Error::Failed`]; only further ones are listed below. A write that fails changes nothing, unless the error
/// is `Unavailable` with [`Outcome::Unknown`](crate::Outcome::Unknown): then it may still take effect, wholly.
///
/// # Cancel safety
///
/// A dropped write either never happens or happens wholly. A dropped read has no effect.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A number drawn when the database was created. Positions of different epochs do not compare.
    async fn epoch(&self) -> Result<u64, Error>;

    /// Streams every object to `sink` as of one moment, and returns the position of that moment.
    /// Entries come in order of creation. After an error, what `sink` got is incomplete: drop it.
    async fn load(&self, sink: &mut (dyn FnMut(Record) + Send)) -> Result<Position, Error>;

    /// The changes after `after`: from at most `limit` events (at least 1, at most
    /// [`MAX_CHANGES_PER_READ`]), one change per object. Reading on until `complete` misses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Pruned`] and [`Error::Rewound`]: load everything again.
    async fn changes_after(&self, after: Position, limit: usize) -> Result<Changes, Error>;

    /// What tells the change at `at`, as this store has read it, from the one that another history has there. `None` if it did
    /// not read so far, or histories cannot be told apart.
    fn mark(&self, at: Position) -> Option<i64>;

    /// From now on [`Store::changes_after`] `at` tells ([`Error::Rewound`]) if the change there is not the one with this `mark`, which
    /// an earlier run has read in the same epoch.
    fn recall(&self, at: Position, mark: i64);

    /// The newest position this store knows of. A write through this store is seen here before it returns.
    fn watch(&self) -> watch::Receiver<Position>;

    /// Adds an entry. `created_at` and `revision_number` (0) are set here. An entry with the same SPIFFE ID,
    /// parent and exact selectors is returned instead, and nothing is written.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] when the id is taken by an entry that is not similar.
    async fn create_entry(&self, entry: Entry) -> Result<CreateOutcome, Error>;

    /// Applies `change` to an entry. `id` and `created_at` stay, `revision_number` grows by one, always.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Rejected`] by `change`.
    async fn update_entry(&self, id: &EntryId, change: EntryChange) -> Result<(Entry, Position), Error>;

    /// Removes an entry and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    async fn delete_entry(&self, id: &EntryId) -> Result<(Entry, Position), Error>;

    /// Removes the entries that expired before `now` (Unix seconds) and names them.
    async fn prune_entries(&self, now: i64) -> Result<Vec<EntryId>, Error>;

    /// Adds an agent or replaces it.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] when the agent is banned: a ban ends by eviction only, so that an attestation that
    /// runs while the ban is set cannot undo it.
    async fn put_agent(&self, agent: Agent) -> Result<Position, Error>;

    /// Applies `change` to an agent. `id` stays. A change that changes nothing writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Rejected`] by `change`.
    async fn update_agent(&self, id: &SpiffeId, change: AgentChange) -> Result<(Agent, Position), Error>;

    /// Does [`Store::update_agent`] for each of `writes` (at most [`MAX_AGENT_WRITES`], of different agents), in one
    /// transaction, and adds those that do not exist and come with an agent. One that is refused, does not exist or is
    /// damaged holds up none of the others; what became of each is told in their order.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] when there are too many. After any error nothing was written.
    async fn update_agents(&self, writes: Vec<AgentWrite>) -> Result<AgentsWritten, Error>;

    /// Removes an agent and returns it. With an agent that was attested by join token goes the alias entry that
    /// [`Store::create_join_token`] made for it: parented to it, with `spiffe_id:<agent id>` as only selector.
    /// Other entries parented to it are an operator's and stay.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    async fn delete_agent(&self, id: &SpiffeId) -> Result<(Agent, Position), Error>;

    /// Adds a join token, and in the same transaction the alias entry for the agent that will use it. A similar
    /// entry that exists is kept.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] when the token, or the id of the alias, is taken.
    async fn create_join_token(&self, token: JoinToken, alias: Option<Entry>) -> Result<Position, Error>;

    /// Uses up a join token for `agent`: removes the token and does [`Store::put_agent`], in one transaction, so that
    /// a token never goes without its agent. Of any number of concurrent callers one is admitted. A token that
    /// expired before `now` (Unix seconds) is removed and admits nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] when the agent is banned; the token stays.
    async fn admit_by_token(&self, token: &str, now: i64, agent: Agent) -> Result<Admission, Error>;

    /// Removes the join tokens that expired before `now` (Unix seconds) and says how many.
    async fn prune_join_tokens(&self, now: i64) -> Result<usize, Error>;

    /// Applies `change` to the bundle of a trust domain; to an empty one when there is none. `trust_domain`
    /// stays; `sequence_number` grows by one when something else changed, and nothing is written otherwise.
    /// A bundle that did not exist counts as changed.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] by `change`.
    async fn update_bundle(
        &self,
        trust_domain: &TrustDomain,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error>;

    /// Writes the bundle of a foreign trust domain: applies `change` to what is held, or to an empty bundle.
    /// `trust_domain` stays. The sequence number is the foreign domain's and is stored as `change` leaves it.
    /// Nothing is written when nothing changed.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] and [`Error::NotFound`] as `write` says; [`Error::Rejected`] by `change`.
    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        write: BundleWrite,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error>;

    /// Removes the bundle of a trust domain and returns it; does to the entries that federate with it what `mode` says,
    /// in the same transaction. Entries that change have their `revision_number` raised by one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Rejected`] with [`DeleteMode::Restrict`] while an entry federates with the trust
    /// domain.
    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(Bundle, Position), Error>;

    /// Adds a federation relationship. With `bundle` goes [`Store::put_bundle`] in the same transaction.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] when there is one with this trust domain.
    async fn create_federation(
        &self,
        relationship: FederationRelationship,
        bundle: Option<Bundle>,
    ) -> Result<Position, Error>;

    /// Applies `change` to a federation relationship. `trust_domain` stays. With `bundle` goes [`Store::put_bundle`] in
    /// the same transaction.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Rejected`] by `change`.
    async fn update_federation(
        &self,
        trust_domain: &TrustDomain,
        change: FederationChange,
        bundle: Option<Bundle>,
    ) -> Result<(FederationRelationship, Position), Error>;

    /// Removes a federation relationship and returns it. The bundle of the trust domain stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    async fn delete_federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(FederationRelationship, Position), Error>;

    /// The authority journals of all servers, in order of key.
    async fn load_journals(&self) -> Result<Vec<JournalRecord>, Error>;

    /// Adds or replaces the journal `key`. Journals are not in the change feed: each server reads its own.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] when `data` exceeds [`MAX_JOURNAL_BYTES`].
    async fn save_journal(&self, key: &str, data: Vec<u8>) -> Result<(), Error>;

    /// Removes a journal if it still is what `record` says, and says whether it was.
    async fn delete_journal(&self, record: &JournalRecord) -> Result<bool, Error>;

    /// Fills an empty store with what another one had, wholly or not at all. Entries keep their creation time and
    /// revision, bundles their sequence number, so that agents see nothing go backwards.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] when there is anything in the store; [`Error::AlreadyExists`] when `contents` has something
    /// twice.
    async fn restore(&self, contents: Contents) -> Result<Position, Error>;

    /// Forgets events that were written before `older_than` (Unix seconds), and the oldest ones beyond
    /// [`MAX_CHANGES_KEPT`]. Says how many went. What remains has no holes.
    async fn prune_changes(&self, older_than: i64) -> Result<usize, Error>;

    /// Whether the database answers a read.
    async fn ping(&self) -> Result<(), Error>;
}

/// A change to an entry. May be called more than once (an engine retries conflicting transactions), so it
/// computes from its argument and does nothing else.
pub type EntryChange = Box<dyn Fn(&mut Entry) -> Result<(), Rejected> + Send + Sync>;

/// A change to an agent; as [`EntryChange`].
pub type AgentChange = Box<dyn Fn(&mut Agent) -> Result<(), Rejected> + Send + Sync>;

/// One of the writes of [`Store::update_agents`].
pub struct AgentWrite {
    /// Which agent.
    pub id: SpiffeId,
    /// What is done to it, if it exists.
    pub change: AgentChange,
    /// What is added if it does not.
    pub otherwise: Option<Agent>,
}

/// What [`Store::update_agents`] did.
#[derive(Debug)]
pub struct AgentsWritten {
    /// What became of each: [`Error::NotFound`], [`Error::Rejected`] or [`Error::Corrupt`] for those that were left out.
    pub outcomes: Vec<Result<(), Error>>,
    /// A position at which the others are written.
    pub position: Position,
}

/// Refuses more than one transaction takes.
pub(crate) fn check_count(writes: &[AgentWrite]) -> Result<(), Error> {
    if writes.len() > MAX_AGENT_WRITES {
        let reason = format!("{} agents exceed the {MAX_AGENT_WRITES} of one transaction", writes.len());
        return Err(Rejected::new(reason).into());
    }
    Ok(())
}

/// A change to a bundle; as [`EntryChange`].
pub type BundleChange = Box<dyn Fn(&mut Bundle) -> Result<(), Rejected> + Send + Sync>;

/// A change to a federation relationship; as [`EntryChange`].
pub type FederationChange = Box<dyn Fn(&mut FederationRelationship) -> Result<(), Rejected> + Send + Sync>;

/// What [`Store::put_bundle`] supposes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BundleWrite {
    /// There is no bundle yet.
    Create,
    /// There is one.
    Update,
    /// Either.
    Set,
}

/// What [`Store::delete_bundle`] does with the entries that federate with the trust domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeleteMode {
    /// Refuses while there are any.
    Restrict,
    /// Removes them.
    Delete,
    /// Lets them federate with the others only.
    Dissociate,
}

/// What [`Store::admit_by_token`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// The agent is stored and the token is gone.
    Admitted(Position),
    /// The token is gone; the agent was not stored.
    Expired,
    /// There is no such token; nothing was written.
    Unknown,
}

/// What [`Store::create_entry`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CreateOutcome {
    /// The entry as stored.
    Created(Entry, Position),
    /// The entry that was there already; nothing was written.
    Similar(Entry),
}

/// What [`Store::update_bundle`] or [`Store::put_bundle`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleUpdate {
    /// The bundle as stored.
    pub bundle: Bundle,
    /// Whether something was written.
    pub changed: bool,
    /// A position at which the bundle is as above.
    pub position: Position,
}

/// Everything that a store holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contents {
    /// Each kind in order of creation.
    pub records: Vec<Record>,
    /// The journals of all servers.
    pub journals: Vec<JournalRecord>,
}

/// The journal of one server's authorities.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalRecord {
    /// Which server's.
    pub key: String,
    /// Its content, opaque here.
    pub data: Vec<u8>,
}

/// Most events that one [`Store::changes_after`] reads; a larger limit means this one.
pub const MAX_CHANGES_PER_READ: usize = 10_000;

/// Most events that survive [`Store::prune_changes`]. A reader that is further behind loads everything.
pub const MAX_CHANGES_KEPT: u64 = 200_000;

/// Most agents that one [`Store::update_agents`] writes.
pub const MAX_AGENT_WRITES: usize = 500;

/// Largest journal.
pub const MAX_JOURNAL_BYTES: usize = 1 << 20;
