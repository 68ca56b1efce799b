//! What must survive a crash: it is in the journal before anybody hears of it, and out of it before anybody is told that
//! it is gone.

use tracing::warn;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::{AgentUpdate, Agents, Attested, MAX_PENDING, NotAdmitted, PendingAgent};
use crate::authorize::Registry;
use crate::journal::{self, JournalError};

impl Agents {
    /// Takes down an agent that has proven itself. When this returns, a crash does not lose it.
    ///
    /// # Errors
    ///
    /// [`NotAdmitted`]; the caller must not hand out the SVID, and the agent may use those that it has.
    pub(crate) async fn attested(&self, agent: Agent) -> Result<(), NotAdmitted> {
        let id = agent.id.clone();
        self.note_replaced(&id);
        let (generation, before) = {
            let mut pending = self.lock();
            let stored = self.model.load().agents.get(&id).cloned();
            if stored.as_ref().is_some_and(|stored| stored.is_banned()) {
                return Err(NotAdmitted::Banned);
            }
            let before = pending.by_agent.get(&id).cloned();
            if before.is_none() && pending.by_agent.len() >= MAX_PENDING {
                return Err(NotAdmitted::Full);
            }
            let held = pending.at(&id);
            let on_top_of = (held.attested.as_ref(), Some(&held.update));
            let attested = Attested::new(agent, stored.as_deref(), on_top_of);
            (held.attested, held.update) = (Some(attested), AgentUpdate::default());
            (held.generation, before)
        };
        if let Err(cause) = self.keep(generation).await {
            self.take_back(&id, generation, before);
            return Err(NotAdmitted::Journal(cause));
        }
        self.wake.notify_one();
        Ok(())
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
        let before = self.lock().by_agent.get(id).cloned();
        let generation = self.change(id, |agent| {
            self.replaced.note(id, &agent.new_serial_number);
            agent.new_serial_number = serial;
            agent.new_expires_at = expires_at;
        });
        let kept = self.keep(generation).await;
        if kept.is_err() {
            self.take_back(id, generation, before);
        }
        kept
    }

    /// Forgets what is pending for an agent that was attested anew, banned or evicted. In the journal too: what is left
    /// there would bring an evicted agent back with the next start.
    pub(crate) async fn forget(&self, id: &SpiffeId) {
        self.note_replaced(id);
        let generation = {
            let mut pending = self.lock();
            if pending.by_agent.remove(id).is_some() {
                pending.generation += 1;
            }
            pending.generation
        };
        if let Err(cause) = self.keep(generation).await {
            warn!(agent = %id, error = %cause, "Cannot take an agent out of the journal of agent renewals");
        }
    }

    /// Another server's operator has evicted the agent: whatever it attests to be later, it does so with another SVID.
    pub(crate) fn evicted(&self, id: &SpiffeId) {
        self.note_replaced(id);
    }

    /// The SVIDs that the agent has now are former ones from here on.
    fn note_replaced(&self, id: &SpiffeId) {
        if let Some(agent) = self.agent(id) {
            self.replaced.note(id, &agent.new_serial_number);
            self.replaced.note(id, &agent.serial_number);
        }
    }

    /// Undoes a change that is not in the journal, so that nothing counts that nobody was told of, and a journal that is
    /// full stays large enough for the others.
    fn take_back(&self, id: &SpiffeId, generation: u64, before: Option<PendingAgent>) {
        let mut pending = self.lock();
        if pending.by_agent.get(id).is_none_or(|held| held.generation != generation) {
            return;
        }
        match before {
            Some(before) => drop(pending.by_agent.insert(id.clone(), before)),
            None => drop(pending.by_agent.remove(id)),
        }
        pending.generation += 1;
    }

    async fn keep(&self, generation: u64) -> Result<(), JournalError> {
        match &self.journal {
            Some(journal) => journal.save(generation, || self.list()).await,
            None => Ok(()),
        }
    }

    /// What is pending, to be listed where that blocks nobody.
    pub(super) fn list(&self) -> (u64, impl FnOnce() -> journal::Content + Send + use<>) {
        let (generation, by_agent) = {
            let pending = self.lock();
            (pending.generation, pending.by_agent.clone())
        };
        let list = move || {
            let updates = by_agent.iter().map(|(id, held)| (id.clone(), held.update.clone()));
            let attested = by_agent.values().filter_map(|held| held.attested.clone());
            (updates.collect(), attested.collect())
        };
        (generation, list)
    }
}
