//! A store that fails on demand.
//!
//! Wraps any store. Without faults it is that store; with them, chosen methods fail, stall until told otherwise,
//! answer late, or do their work and lose the answer. Every call is counted, so a test can show that a path does
//! not touch the store at all.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use vouchsafe_store::{
    Admission, AgentChange, AgentWrite, AgentsWritten, BundleChange, BundleUpdate, BundleWrite, Changes,
    Contents, CreateOutcome, DeleteMode, EntryChange, Error, FederationChange, JournalRecord, Outcome,
    Position, Record, Store,
};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

/// The methods of [`Store`] that reach the database.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "named after the methods")]
pub enum Method {
    Epoch,
    Load,
    ChangesAfter,
    LoadJournals,
    Ping,
    CreateEntry,
    UpdateEntry,
    DeleteEntry,
    PruneEntries,
    PutAgent,
    UpdateAgent,
    UpdateAgents,
    DeleteAgent,
    CreateJoinToken,
    AdmitByToken,
    PruneJoinTokens,
    UpdateBundle,
    PutBundle,
    DeleteBundle,
    CreateFederation,
    UpdateFederation,
    DeleteFederation,
    SaveJournal,
    DeleteJournal,
    Restore,
    PruneChanges,
}

impl Method {
    /// Methods that only read.
    pub const READS: &[Self] = &[Self::Epoch, Self::Load, Self::ChangesAfter, Self::LoadJournals, Self::Ping];

    /// Methods that write.
    pub const WRITES: &[Self] = &[
        Self::CreateEntry,
        Self::UpdateEntry,
        Self::DeleteEntry,
        Self::PruneEntries,
        Self::PutAgent,
        Self::UpdateAgent,
        Self::UpdateAgents,
        Self::DeleteAgent,
        Self::CreateJoinToken,
        Self::AdmitByToken,
        Self::PruneJoinTokens,
        Self::UpdateBundle,
        Self::PutBundle,
        Self::DeleteBundle,
        Self::CreateFederation,
        Self::UpdateFederation,
        Self::DeleteFederation,
        Self::SaveJournal,
        Self::DeleteJournal,
        Self::Restore,
        Self::PruneChanges,
    ];
}

/// What goes wrong with calls of a method.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with this error and does nothing.
    Fail(Error),
    /// This many calls fail as [`Fault::unavailable`], then calls work again.
    FailTimes(u32),
    /// The call waits until the fault is changed or cleared, then goes on under whatever holds then.
    Stall,
    /// The call waits this long first.
    Delay(Duration),
    /// The call waits this long, then fails as [`Fault::unavailable`].
    FailAfter(Duration),
    /// The call does its work, then fails as unavailable with an unknown outcome.
    LoseAnswer,
}

impl Fault {
    /// The database is out of reach; nothing was written.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::Fail(unavailable(Outcome::NotWritten))
    }

    /// There is no space left.
    #[must_use]
    pub fn disk_full() -> Self {
        Self::Fail(Error::DiskFull {
            operation: OPERATION,
            place: "the test's disk".to_owned(),
            source: None,
        })
    }
}

/// Sets faults and reads counts. Clones steer the same store.
#[derive(Clone, Debug)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    /// Tells stalled calls to look again.
    changed: watch::Sender<()>,
    inner: Arc<Inner>,
}

/// Where calls go.
struct Inner(Mutex<Arc<dyn Store>>);

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inner")
    }
}

#[derive(Debug, Default)]
struct State {
    faults: HashMap<Method, Fault>,
    calls: HashMap<Method, u64>,
    /// See [`Faults::history`].
    history: Option<i64>,
    parted_at: Option<Position>,
    /// See [`Faults::choke_on`].
    indigestible: Option<SpiffeId>,
}

impl Faults {
    /// Gives `methods` the fault `fault`, in place of any other.
    pub fn set(&self, methods: &[Method], fault: &Fault) {
        self.lock().faults.extend(methods.iter().map(|method| (*method, fault.clone())));
        self.changed.send_replace(());
    }

    /// Gives all methods the fault `fault`: the database is gone, or hangs.
    pub fn set_all(&self, fault: &Fault) {
        self.set(Method::READS, fault);
        self.set(Method::WRITES, fault);
    }

    /// From now on calls go to `store`: the database was exchanged under whoever uses it. [`Store::watch`] follows the first.
    pub fn lead_to(&self, store: Arc<dyn Store>) {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// The store is in the history `number`: whoever recalls another one hears that it went another way.
    pub fn history(&self, number: i64) {
        self.lock().history = Some(number);
    }

    /// Every [`Store::update_agents`] with this agent fails, as with a text that the database cannot store.
    pub fn choke_on(&self, agent: SpiffeId) {
        self.lock().indigestible = Some(agent);
    }

    /// Removes all faults. Stalled calls go on.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.indigestible = None;
        drop(state);
        self.changed.send_replace(());
    }

    /// Calls of `method` so far, failed and stalled ones included.
    #[must_use]
    pub fn calls(&self, method: Method) -> u64 {
        self.lock().calls.get(&method).copied().unwrap_or(0)
    }

    /// Calls of all reading methods so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        Method::READS.iter().map(|method| self.calls(*method)).sum()
    }

    /// Calls of all writing methods so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        Method::WRITES.iter().map(|method| self.calls(*method)).sum()
    }

    async fn before(&self, method: Method) -> Result<(), Error> {
        let mut changed = self.changed.subscribe();
        *self.lock().calls.entry(method).or_default() += 1;
        loop {
            match self.next(method) {
                None | Some(Fault::LoseAnswer) => return Ok(()),
                Some(Fault::Fail(error)) => return Err(error),
                Some(Fault::FailTimes(_)) => return Err(unavailable(Outcome::NotWritten)),
                Some(Fault::Delay(delay)) => {
                    tokio::time::sleep(delay).await;
                    return Ok(());
                }
                Some(Fault::FailAfter(delay)) => {
                    tokio::time::sleep(delay).await;
                    return Err(unavailable(Outcome::NotWritten));
                }
                // The sender lives in `self`, so this ends only by a change.
                Some(Fault::Stall) => drop(changed.changed().await),
            }
        }
    }

    /// The fault for a call that starts now; uses up one of a counted one.
    fn next(&self, method: Method) -> Option<Fault> {
        let mut state = self.lock();
        let fault = state.faults.get(&method).cloned();
        match fault {
            Some(Fault::FailTimes(0)) => {
                state.faults.remove(&method);
                None
            }
            Some(Fault::FailTimes(left)) => {
                state.faults.insert(method, Fault::FailTimes(left - 1));
                fault
            }
            _ => fault,
        }
    }

    fn after<T>(&self, method: Method, result: Result<T, Error>) -> Result<T, Error> {
        match self.lock().faults.get(&method) {
            Some(Fault::LoseAnswer) if result.is_ok() => Err(unavailable(Outcome::Unknown)),
            _ => result,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store with faults.
pub struct FaultStore {
    faults: Faults,
}

impl FaultStore {
    /// `inner`, and what steers it. No faults at first.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> (Self, Faults) {
        let inner = Arc::new(Inner(Mutex::new(inner)));
        let faults = Faults { state: Arc::default(), changed: watch::Sender::new(()), inner };
        (Self { faults: faults.clone() }, faults)
    }

    /// The store without the faults.
    #[must_use]
    pub fn inner(&self) -> Arc<dyn Store> {
        self.faults.inner.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn around<T: Send>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        self.faults.before(method).await?;
        self.faults.after(method, call.await)
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore").field("faults", &self.faults).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for FaultStore {
    async fn epoch(&self) -> Result<u64, Error> {
        self.around(Method::Epoch, self.inner().epoch()).await
    }

    async fn load(&self, sink: &mut (dyn FnMut(Record) + Send)) -> Result<Position, Error> {
        self.around(Method::Load, self.inner().load(sink)).await
    }

    async fn changes_after(&self, after: Position, limit: usize) -> Result<Changes, Error> {
        if self.faults.lock().parted_at == Some(after) {
            return Err(Error::Rewound { after, newest: *self.watch().borrow() });
        }
        self.around(Method::ChangesAfter, self.inner().changes_after(after, limit)).await
    }

    fn mark(&self, at: Position) -> Option<i64> {
        self.faults.lock().history.or_else(|| self.inner().mark(at))
    }

    fn recall(&self, at: Position, mark: i64) {
        let mut state = self.faults.lock();
        match state.history {
            Some(history) => state.parted_at = Some(at).filter(|_| history != mark),
            None => self.inner().recall(at, mark),
        }
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.inner().watch()
    }

    async fn create_entry(&self, entry: Entry) -> Result<CreateOutcome, Error> {
        self.around(Method::CreateEntry, self.inner().create_entry(entry)).await
    }

    async fn update_entry(&self, id: &EntryId, change: EntryChange) -> Result<(Entry, Position), Error> {
        self.around(Method::UpdateEntry, self.inner().update_entry(id, change)).await
    }

    async fn delete_entry(&self, id: &EntryId) -> Result<(Entry, Position), Error> {
        self.around(Method::DeleteEntry, self.inner().delete_entry(id)).await
    }

    async fn prune_entries(&self, now: i64) -> Result<Vec<EntryId>, Error> {
        self.around(Method::PruneEntries, self.inner().prune_entries(now)).await
    }

    async fn put_agent(&self, agent: Agent) -> Result<Position, Error> {
        self.around(Method::PutAgent, self.inner().put_agent(agent)).await
    }

    async fn update_agent(&self, id: &SpiffeId, change: AgentChange) -> Result<(Agent, Position), Error> {
        self.around(Method::UpdateAgent, self.inner().update_agent(id, change)).await
    }

    async fn update_agents(&self, writes: Vec<AgentWrite>) -> Result<AgentsWritten, Error> {
        let indigestible = self.faults.lock().indigestible.clone();
        if writes.iter().any(|write| Some(&write.id) == indigestible.as_ref()) {
            let (place, source) = ("the test's database".to_owned(), Arc::new(std::fmt::Error));
            return Err(Error::Failed { operation: OPERATION, place, source });
        }
        self.around(Method::UpdateAgents, self.inner().update_agents(writes)).await
    }

    async fn delete_agent(&self, id: &SpiffeId) -> Result<(Agent, Position), Error> {
        self.around(Method::DeleteAgent, self.inner().delete_agent(id)).await
    }

    async fn create_join_token(&self, token: JoinToken, alias: Option<Entry>) -> Result<Position, Error> {
        self.around(Method::CreateJoinToken, self.inner().create_join_token(token, alias)).await
    }

    async fn admit_by_token(&self, token: &str, now: i64, agent: Agent) -> Result<Admission, Error> {
        self.around(Method::AdmitByToken, self.inner().admit_by_token(token, now, agent)).await
    }

    async fn prune_join_tokens(&self, now: i64) -> Result<usize, Error> {
        self.around(Method::PruneJoinTokens, self.inner().prune_join_tokens(now)).await
    }

    async fn update_bundle(
        &self,
        trust_domain: &TrustDomain,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        self.around(Method::UpdateBundle, self.inner().update_bundle(trust_domain, change)).await
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        write: BundleWrite,
        change: BundleChange,
    ) -> Result<BundleUpdate, Error> {
        self.around(Method::PutBundle, self.inner().put_bundle(trust_domain, write, change)).await
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(Bundle, Position), Error> {
        self.around(Method::DeleteBundle, self.inner().delete_bundle(trust_domain, mode)).await
    }

    async fn create_federation(
        &self,
        relationship: FederationRelationship,
        bundle: Option<Bundle>,
    ) -> Result<Position, Error> {
        self.around(Method::CreateFederation, self.inner().create_federation(relationship, bundle)).await
    }

    async fn update_federation(
        &self,
        trust_domain: &TrustDomain,
        change: FederationChange,
        bundle: Option<Bundle>,
    ) -> Result<(FederationRelationship, Position), Error> {
        let inner = self.inner();
        let update = inner.update_federation(trust_domain, change, bundle);
        self.around(Method::UpdateFederation, update).await
    }

    async fn delete_federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(FederationRelationship, Position), Error> {
        self.around(Method::DeleteFederation, self.inner().delete_federation(trust_domain)).await
    }

    async fn load_journals(&self) -> Result<Vec<JournalRecord>, Error> {
        self.around(Method::LoadJournals, self.inner().load_journals()).await
    }

    async fn save_journal(&self, key: &str, data: Vec<u8>) -> Result<(), Error> {
        self.around(Method::SaveJournal, self.inner().save_journal(key, data)).await
    }

    async fn delete_journal(&self, record: &JournalRecord) -> Result<bool, Error> {
        self.around(Method::DeleteJournal, self.inner().delete_journal(record)).await
    }

    async fn restore(&self, contents: Contents) -> Result<Position, Error> {
        self.around(Method::Restore, self.inner().restore(contents)).await
    }

    async fn prune_changes(&self, older_than: i64) -> Result<usize, Error> {
        self.around(Method::PruneChanges, self.inner().prune_changes(older_than)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.around(Method::Ping, self.inner().ping()).await
    }
}

fn unavailable(outcome: Outcome) -> Error {
    Error::Unavailable { operation: OPERATION, outcome, retry_after: RETRY_AFTER, source: None }
}

const OPERATION: &str = "fault";
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
