//! Agents as they are now, including what is not in the database yet.
//!
//! An attestation that its attestor proved, a renewal, the promotion of a renewed SVID and a reported version are decided
//! from memory and written back later, so no agent waits for the database. What must survive a crash (the agent holds the
//! new SVID as soon as it is answered) is in a sealed journal file before the answer leaves. An update leaves memory and
//! journal when the read model shows it.
//!
//! The number of pending updates is bounded by the number of agents, because a later one merges into an earlier one, and
//! by [`MAX_PENDING`]; beyond that an agent that has none yet does not attest.

mod kept;
mod replaced;
mod update;
mod write_back;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use imbl::HashMap;
use tokio::sync::Notify;
use tracing::info;
use vouchsafe_lastgood::SealedFile;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::authorize::{Registry, is_admin, is_downstream};
use crate::journal::{Journal, JournalError};
use crate::model::ReadModel;
use replaced::Replaced;
pub(crate) use update::{AgentUpdate, Attested, latest_expiry};

/// Most agents with updates that the database does not have.
pub(crate) const MAX_PENDING: usize = 100_000;

/// Agents by what memory holds.
pub(crate) struct Agents {
    model: Arc<ReadModel>,
    clock: Clock,
    admin_ids: Vec<SpiffeId>,
    pending: Mutex<Pending>,
    journal: Option<Journal>,
    wake: Notify,
    returned: Notify,
    replaced: Replaced,
}

/// An attestation that cannot be taken down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// The agent is banned.
    #[error("agent is banned")]
    Banned,
    /// [`MAX_PENDING`] is reached.
    #[error("{MAX_PENDING} agents wait for the database already")]
    Full,
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(JournalError),
}

/// Pending updates with the generation of their last change.
#[derive(Debug, Default)]
struct Pending {
    generation: u64,
    /// Copied at no cost, for who writes it to the disk.
    by_agent: HashMap<SpiffeId, PendingAgent>,
}

/// What the database does not have of one agent.
#[derive(Clone, Debug, Default)]
struct PendingAgent {
    /// The generation of its last change.
    generation: u64,
    attested: Option<Attested>,
    /// On top of that.
    update: AgentUpdate,
    /// Whether it was said that the database does not take it.
    told_stuck: bool,
}

impl PendingAgent {
    /// The agent as it is, given what is `stored`.
    fn over(&self, stored: Option<&Agent>) -> Option<Agent> {
        let mut agent = self.base(stored)?;
        // A banned agent refuses the update and is returned as it is.
        self.update.apply(&mut agent).unwrap_or_default();
        Some(agent)
    }

    /// The same without the update.
    fn base(&self, stored: Option<&Agent>) -> Option<Agent> {
        match &self.attested {
            Some(attested) => attested.over(stored),
            None => stored.cloned(),
        }
    }
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
            let (opened, (updates, attested)) = Journal::open(file, clock.clone())?;
            for each in attested {
                let id = each.agent.id.clone();
                pending.at(&id).attested = Some(each);
            }
            for (id, update) in updates {
                pending.at(&id).update = update;
            }
            journal = Some(opened);
        }
        if !pending.by_agent.is_empty() {
            info!(count = pending.by_agent.len(), "Restored agent updates that were not in the database");
        }
        let pending = Mutex::new(pending);
        Ok(Self {
            model,
            clock,
            admin_ids,
            pending,
            journal,
            wake: Notify::new(),
            returned: Notify::new(),
            replaced: Replaced::default(),
        })
    }

    /// The agents that the read model does not have yet.
    pub(crate) fn new_ids(&self) -> BTreeSet<SpiffeId> {
        let pending = self.lock();
        let snapshot = self.model.load();
        let new = pending
            .by_agent
            .iter()
            .filter(|(id, held)| held.attested.is_some() && !snapshot.agents.contains_key(*id));
        new.map(|(id, _)| id.clone()).collect()
    }

    /// The database answers again: what waits for it is written now.
    pub(crate) fn database_returned(&self) {
        self.returned.notify_one();
    }

    /// Notes the version that an agent reported.
    pub(crate) fn reported(&self, id: &SpiffeId, version: String) {
        self.change(id, |agent| agent.agent_version = version);
    }

    /// Whether the configuration makes `id` an administrator.
    pub(crate) fn is_configured_admin(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id)
    }

    /// How many agents have updates that are not in the database.
    pub(crate) fn backlog(&self) -> usize {
        self.lock().by_agent.len()
    }

    /// Applies `change` to the agent as memory has it and keeps the result for the database.
    /// An agent that is gone or banned stays so.
    fn change(&self, id: &SpiffeId, change: impl FnOnce(&mut Agent)) -> u64 {
        // In this order: what is no longer pending is in the model.
        let mut pending = self.lock();
        let stored = self.model.load().agents.get(id).cloned();
        let held = pending.by_agent.get(id).cloned().unwrap_or_default();
        let base = held.base(stored.as_deref()).filter(|agent| !agent.is_banned());
        let Some(base) = base else { return pending.generation };
        let update = held.update.after(&base, change);
        let entry = pending.at(id);
        entry.update = update;
        let generation = entry.generation;
        drop(pending);
        self.wake.notify_one();
        generation
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for Agents {
    fn agent(&self, id: &SpiffeId) -> Option<Agent> {
        // In this order: what is no longer pending is in the model.
        let pending = self.lock();
        let stored = self.model.load().agents.get(id).cloned();
        match pending.by_agent.get(id) {
            Some(held) => held.over(stored.as_deref()),
            None => stored.map(Arc::unwrap_or_clone),
        }
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
                self.replaced.note(id, &agent.serial_number);
                agent.serial_number = std::mem::take(&mut agent.new_serial_number);
                agent.expires_at = std::mem::take(&mut agent.new_expires_at);
            }
        });
    }

    fn adopt(&self, id: &SpiffeId, serial: &str, expires_at: i64) {
        self.change(id, |agent| {
            if !agent.owns_serial(serial) {
                self.replaced.note(id, &agent.serial_number);
                serial.clone_into(&mut agent.serial_number);
                agent.expires_at = expires_at;
                agent.new_serial_number.clear();
                agent.new_expires_at = 0;
            }
        });
    }

    fn has_replaced(&self, id: &SpiffeId, serial: &str) -> bool {
        self.replaced.has(id, serial)
    }
}

impl Pending {
    /// What is pending for one agent, as of a new generation.
    fn at(&mut self, id: &SpiffeId) -> &mut PendingAgent {
        self.generation += 1;
        let held = self.by_agent.entry(id.clone()).or_default();
        held.generation = self.generation;
        held
    }
}

#[cfg(test)]
mod tests;
