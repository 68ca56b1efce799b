//! Agents as they are now, including what is not in the database yet.
//!
//! A renewal, the promotion of a renewed SVID and a reported version are decided from memory and written back later, so
//! no agent waits for the database. What must survive a crash (a renewal: the agent holds the new SVID as soon as it
//! is answered) is in a sealed journal file before the answer leaves. An update leaves memory and journal when the
//! read model shows it.
//!
//! The number of pending updates is bounded by the number of agents: a later one merges into an earlier one.

mod update;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_lastgood::SealedFile;
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::{Error as StoreError, Outcome, Position, Rejected, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::authorize::{Registry, is_admin, is_downstream};
use crate::journal::{Journal, JournalError};
use crate::model::ReadModel;
pub(crate) use update::AgentUpdate;

/// Agents by what memory holds.
pub(crate) struct Agents {
    model: Arc<ReadModel>,
    clock: Clock,
    admin_ids: Vec<SpiffeId>,
    pending: Mutex<Pending>,
    journal: Option<Journal>,
    wake: Notify,
}

/// Pending updates with the generation of their last change.
#[derive(Debug, Default)]
struct Pending {
    generation: u64,
    by_agent: HashMap<SpiffeId, (u64, AgentUpdate)>,
}

impl Agents {
    /// Agents over `model`, with the updates that `file` kept from an earlier run. Without a file a crash loses
    /// updates that are not in the database.
    ///
    /// # Errors
    ///
    /// The file is not what this server wrote.
    pub(crate) fn new(
        model: Arc<ReadModel>,
        clock: Clock,
        admin_ids: Vec<SpiffeId>,
        file: Option<SealedFile>,
    ) -> Result<Self, JournalError> {
        let mut pending = Pending::default();
        let mut journal = None;
        if let Some(file) = file {
            let (opened, updates) = Journal::open(file, clock.clone())?;
            for (id, update) in updates {
                pending.set(&id, update);
            }
            journal = Some(opened);
        }
        if !pending.by_agent.is_empty() {
            info!(count = pending.by_agent.len(), "Restored agent renewals that were not in the database");
        }
        Ok(Self { model, clock, admin_ids, pending: Mutex::new(pending), journal, wake: Notify::new() })
    }

    /// Notes a renewal. When this returns, a crash does not lose it.
    ///
    /// # Errors
    ///
    /// The journal cannot be written; the caller must not hand out the SVID.
    pub(crate) async fn renewed(
        &self,
        id: &SpiffeId,
        serial: String,
        expires_at: i64,
    ) -> Result<(), JournalError> {
        let generation = self.change(id, |agent| {
            agent.new_serial_number = serial;
            agent.new_expires_at = expires_at;
        });
        match &self.journal {
            Some(journal) => journal.save(generation, || self.list()).await,
            None => Ok(()),
        }
    }

    /// Notes the version that an agent reported.
    pub(crate) fn reported(&self, id: &SpiffeId, version: String) {
        self.change(id, |agent| agent.agent_version = version);
    }

    /// Forgets what is pending for an agent that was attested anew or evicted.
    pub(crate) fn forget(&self, id: &SpiffeId) {
        self.lock().by_agent.remove(id);
    }

    /// Whether the configuration makes `id` an administrator.
    pub(crate) fn is_configured_admin(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id)
    }

    /// How many agents have updates that are not in the database.
    pub(crate) fn backlog(&self) -> usize {
        self.lock().by_agent.len()
    }

    /// Writes pending updates to `store` until `cancel`.
    pub(crate) async fn write_back(
        &self,
        store: Arc<dyn Store>,
        mut entropy: Entropy,
        cancel: CancellationToken,
    ) {
        let mut failures = 0_u32;
        loop {
            // Dropped half-way it has written an update or not: the journal still has it.
            let Some(outcome) = cancel.run_until_cancelled(self.write_all(&*store)).await else { return };
            let wait = match outcome {
                Ok(()) => {
                    failures = 0;
                    None
                }
                Err(cause) => {
                    if failures == 0 {
                        warn!(error = %cause, backlog = self.backlog(), "Cannot write agent updates; keeping them");
                    }
                    failures = failures.saturating_add(1);
                    let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
                    Some(backoff.map_or(RETRY_MAX, |b| b.delay(failures - 1, entropy.fraction())))
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wake.notified(), if wait.is_none() => {}
                () = tokio::time::sleep(wait.unwrap_or(RETRY_MAX)) => {}
            }
        }
    }

    async fn write_all(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut written = Vec::new();
        let mut newest = Position::START;
        for id in self.pending_ids() {
            let Some((generation, update, news)) = self.offer(&id) else { continue };
            match store
                .update_agent(&id, Box::new(move |agent| update.apply(agent).map_err(Rejected::new)))
                .await
            {
                Ok((_, position)) => newest = newest.max(position),
                Err(cause) if cause.class() == Class::Caller => {
                    info!(agent = %id, %cause, "Dropped an update of an agent that is gone or banned");
                }
                Err(cause) => {
                    let unknown = matches!(cause, StoreError::Unavailable { outcome: Outcome::Unknown, .. });
                    if news && !unknown {
                        self.not_written(&id, generation);
                    }
                    return Err(cause);
                }
            }
            written.push((id, generation));
        }
        if written.is_empty() || !self.model.settled(newest).await {
            return Ok(());
        }
        let generation = {
            let mut pending = self.lock();
            for (id, generation) in &written {
                if pending.by_agent.get(id).is_some_and(|(held, _)| held == generation) {
                    pending.by_agent.remove(id);
                }
            }
            pending.generation += 1;
            pending.generation
        };
        if let Some(journal) = &self.journal
            && let Err(cause) = journal.save(generation, || self.list()).await
        {
            warn!(error = %cause, "Cannot shorten the journal of agent renewals");
        }
        Ok(())
    }

    /// Applies `change` to the agent as memory has it and keeps the result for the database.
    /// An agent that is gone or banned stays so.
    fn change(&self, id: &SpiffeId, change: impl FnOnce(&mut Agent)) -> u64 {
        // In this order: what is no longer pending is in the model.
        let mut pending = self.lock();
        let stored = self.model.load().agents.get(id).cloned();
        let Some(stored) = stored.filter(|agent| !agent.is_banned()) else { return pending.generation };
        let held = pending.by_agent.get(id).map(|(_, update)| update.clone()).unwrap_or_default();
        let update = held.after(&stored, change);
        let generation = pending.set(id, update);
        drop(pending);
        self.wake.notify_one();
        generation
    }

    fn list(&self) -> (u64, Vec<(SpiffeId, AgentUpdate)>) {
        let pending = self.lock();
        let updates = pending.by_agent.iter().map(|(id, (_, update))| (id.clone(), update.clone()));
        (pending.generation, updates.collect())
    }

    fn pending_ids(&self) -> Vec<SpiffeId> {
        self.lock().by_agent.keys().cloned().collect()
    }

    /// The pending update of an agent, which from now on the database may have, and whether that is news.
    fn offer(&self, id: &SpiffeId) -> Option<(u64, AgentUpdate, bool)> {
        let mut pending = self.lock();
        let (generation, update) = pending.by_agent.get_mut(id)?;
        let news = update.offer();
        Some((*generation, update.clone(), news))
    }

    /// The database does not have what it was offered.
    fn not_written(&self, id: &SpiffeId, generation: u64) {
        if let Some((held, update)) = self.lock().by_agent.get_mut(id)
            && *held == generation
        {
            update.withdraw();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for Agents {
    fn agent(&self, id: &SpiffeId) -> Option<Agent> {
        // In this order: what is no longer pending is in the model.
        let pending = self.lock();
        let mut agent = Agent::clone(self.model.load().agents.get(id)?);
        if let Some((_, update)) = pending.by_agent.get(id) {
            // A banned agent refuses the update and is returned as it is.
            update.apply(&mut agent).unwrap_or_default();
        }
        Some(agent)
    }

    fn is_admin(&self, id: &SpiffeId) -> bool {
        self.is_configured_admin(id) || is_admin(&self.model.load().entries, id, self.clock.unix_now())
    }

    fn is_downstream(&self, id: &SpiffeId) -> bool {
        is_downstream(&self.model.load().entries, id, self.clock.unix_now())
    }

    fn promote(&self, id: &SpiffeId, serial: &str) {
        self.change(id, |agent| {
            if agent.new_serial_number == serial {
                agent.serial_number = std::mem::take(&mut agent.new_serial_number);
                agent.expires_at = std::mem::take(&mut agent.new_expires_at);
            }
        });
    }
}

impl Pending {
    fn set(&mut self, id: &SpiffeId, update: AgentUpdate) -> u64 {
        self.generation += 1;
        self.by_agent.insert(id.clone(), (self.generation, update));
        self.generation
    }
}

/// First delay after a failed write.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest delay after a failed write.
const RETRY_MAX: Duration = Duration::from_secs(10);
