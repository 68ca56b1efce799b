//! The datastore.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_store::{
    Admission, AgentChange, AgentWrite, AgentsWritten, BundleChange, BundleUpdate, BundleWrite, Changes,
    Contents, CreateOutcome, DeleteMode, EntryChange, Error, FederationChange, JournalRecord, Position,
    Record, Store,
};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::{Calls, status_of};

/// A store whose calls are `datastore_<object>_<verb>`.
///
/// The server reads from memory, so there are no calls that fetch or list a single kind of object: everything is read by one
/// call (`datastore_registration_entry_list`) at start and after a lost feed. `entry_cache_reload` is one look at the change
/// feed, which is what keeps the memory current.
pub(in crate::run) struct MeasuredStore {
    inner: Arc<dyn Store>,
    calls: Calls,
}

impl MeasuredStore {
    pub(in crate::run) fn new(inner: Arc<dyn Store>, registry: Registry) -> Self {
        Self { inner, calls: Calls(registry) }
    }

    fn count<T>(&self, name: &str, began: Instant, result: Result<T, Error>) -> Result<T, Error> {
        let status = match &result {
            Ok(_) => "OK",
            Err(Error::NotFound { .. }) => "NotFound",
            Err(Error::AlreadyExists { .. }) => "AlreadyExists",
            Err(error) => status_of(error.class()),
        };
        self.calls.observe(name, status, began.elapsed());
        result
    }
}

/// Forwards a method and counts it.
macro_rules! counted {
    ($self:ident, $name:literal, $call:expr) => {{
        let began = Instant::now();
        let result = $call.await;
        $self.count(concat!("datastore_", $name), began, result)
    }};
}

#[async_trait]
impl Store for MeasuredStore {
    async fn epoch(&self) -> Result<u64, Error> {
        self.inner.epoch().await
    }

    async fn load(&self, sink: &mut (dyn FnMut(Record) + Send)) -> Result<Position, Error> {
        counted!(self, "registration_entry_list", self.inner.load(sink))
    }

    async fn changes_after(&self, after: Position, limit: usize) -> Result<Changes, Error> {
        let began = Instant::now();
        let result = counted!(self, "registration_entry_event_list", self.inner.changes_after(after, limit));
        self.count("entry_cache_reload", began, result)
    }

    fn mark(&self, at: Position) -> Option<i64> {
        self.inner.mark(at)
    }

    fn recall(&self, at: Position, mark: i64) {
        self.inner.recall(at, mark);
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.inner.watch()
    }

    async fn create_entry(&self, entry: Entry) -> Result<CreateOutcome, Error> {
        counted!(self, "registration_entry_create", self.inner.create_entry(entry))
    }

    async fn update_entry(&self, id: &EntryId, change: EntryChange) -> Result<(Entry, Position), Error> {
        counted!(self, "registration_entry_update", self.inner.update_entry(id, change))
    }

    async fn delete_entry(&self, id: &EntryId) -> Result<(Entry, Position), Error> {
        counted!(self, "registration_entry_delete", self.inner.delete_entry(id))
    }

    async fn prune_entries(&self, now: i64) -> Result<Vec<EntryId>, Error> {
        counted!(self, "registration_entry_prune", self.inner.prune_entries(now))
    }

    async fn put_agent(&self, agent: Agent) -> Result<Position, Error> {
        counted!(self, "node_create", self.inner.put_agent(agent))
    }

    async fn update_agent(&self, id: &SpiffeId, change: AgentChange) -> Result<(Agent, Position), Error> {
        counted!(self, "node_update", self.inner.update_agent(id, change))
    }

    async fn update_agents(&self, writes: Vec<AgentWrite>) -> Result<AgentsWritten, Error> {
        counted!(self, "node_update", self.inner.update_agents(writes))
    }

    async fn delete_agent(&self, id: &SpiffeId) -> Result<(Agent, Position), Error> {
        counted!(self, "node_delete", self.inner.delete_agent(id))
    }

    async fn create_join_token(&self, token: JoinToken, alias: Option<Entry>) -> Result<Position, Error> {
        counted!(self, "join_token_create", self.inner.create_join_token(token, alias))
    }

    async fn admit_by_token(&self, token: &str, now: i64, agent: Agent) -> Result<Admission, Error> {
        let began = Instant::now();
        let admit = self.inner.admit_by_token(token, now, agent);
        let admitted = counted!(self, "join_token_delete", admit)?;
        match admitted {
            Admission::Admitted(_) => self.count("datastore_node_create", began, Ok(admitted)),
            Admission::Expired | Admission::Unknown => Ok(admitted),
        }
    }

    async fn prune_join_tokens(&self, now: i64) -> Result<usize, Error> {
        counted!(self, "join_token_prune", self.inner.prune_join_tokens(now))
    }

    async fn update_bundle(
        &self,
        trust_domain: &TrustDomain,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        counted!(self, "bundle_update", self.inner.update_bundle(trust_domain, change))
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        write: BundleWrite,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        counted!(self, "bundle_set", self.inner.put_bundle(trust_domain, write, change))
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(Bundle, Position), Error> {
        counted!(self, "bundle_delete", self.inner.delete_bundle(trust_domain, mode))
    }

    async fn create_federation(
        &self,
        relationship: FederationRelationship,
        bundle: Option<Bundle>,
    ) -> Result<Position, Error> {
        counted!(self, "federation_relationship_create", self.inner.create_federation(relationship, bundle))
    }

    async fn update_federation(
        &self,
        trust_domain: &TrustDomain,
        change: FederationChange,
        bundle: Option<Bundle>,
    ) -> Result<(FederationRelationship, Position), Error> {
        counted!(
            self,
            "federation_relationship_update",
            self.inner.update_federation(trust_domain, change, bundle)
        )
    }

    async fn delete_federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(FederationRelationship, Position), Error> {
        counted!(self, "federation_relationship_delete", self.inner.delete_federation(trust_domain))
    }

    async fn load_journals(&self) -> Result<Vec<JournalRecord>, Error> {
        counted!(self, "ca_journal_fetch", self.inner.load_journals())
    }

    async fn save_journal(&self, key: &str, data: Vec<u8>) -> Result<(), Error> {
        counted!(self, "ca_journal_set", self.inner.save_journal(key, data))
    }

    async fn delete_journal(&self, record: &JournalRecord) -> Result<bool, Error> {
        counted!(self, "ca_journal_prune", self.inner.delete_journal(record))
    }

    async fn prune_changes(&self, older_than: i64) -> Result<usize, Error> {
        counted!(self, "registration_entry_event_prune", self.inner.prune_changes(older_than))
    }

    async fn restore(&self, contents: Contents) -> Result<Position, Error> {
        self.inner.restore(contents).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.inner.ping().await
    }
}
