//! Agents as they are now, including what is not in the database yet.
//!
//! A renewal, the promotion of a renewed SVID and a reported version are decided from memory and written back later, so
//! no agent waits for the database. What must survive a crash (a renewal: the agent holds the new SVID as soon as it
//! is answered) is in a sealed journal file before the answer leaves. An update leaves memory and journal when the
//! read model shows it.
//!
//! The number of pending updates is bounded by the number of agents: a later one merges into an earlier one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_lastgood::SealedFile;
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::{Error as StoreError, Position, Rejected, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::authorize::{Registry, is_admin};
use crate::journal::{Journal, JournalError};
use crate::model::ReadModel;

/// Agents by what memory holds.
pub(crate) struct Agents {
    model: Arc<ReadModel>,
    clock: Clock,
    admin_ids: Vec<SpiffeId>,
    pending: Mutex<Pending>,
    journal: Option<Journal>,
    wake: Notify,
}

/// What has become of an agent since the database last heard of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct AgentUpdate {
    serials: Option<Serials>,
    /// The version that the agent reported.
    version: Option<String>,
}

/// The SVIDs that an agent may use, as memory has them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Serials {
    /// The serial number that the database has; another one means that the agent was attested anew meanwhile.
    base: String,
    serial: String,
    expires_at: i64,
    new_serial: String,
    new_expires_at: i64,
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
            let wait = match self.write_all(&*store).await {
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
        for (id, generation, update) in self.numbered() {
            match store
                .update_agent(&id, Box::new(move |agent| update.apply(agent).map_err(Rejected::new)))
                .await
            {
                Ok((_, position)) => newest = newest.max(position),
                Err(cause) if cause.class() == Class::Caller => {
                    info!(agent = %id, %cause, "Dropped an update of an agent that is gone or banned");
                }
                Err(cause) => return Err(cause),
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
        let stored = self.model.load().agents.get(id).cloned();
        let mut pending = self.lock();
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

    fn numbered(&self) -> Vec<(SpiffeId, u64, AgentUpdate)> {
        let pending = self.lock();
        pending
            .by_agent
            .iter()
            .map(|(id, (generation, update))| (id.clone(), *generation, update.clone()))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for Agents {
    fn agent(&self, id: &SpiffeId) -> Option<Agent> {
        let mut agent = Agent::clone(self.model.load().agents.get(id)?);
        if let Some((_, update)) = self.lock().by_agent.get(id) {
            // A banned agent refuses the update and is returned as it is.
            update.apply(&mut agent).unwrap_or_default();
        }
        Some(agent)
    }

    fn is_admin(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id) || is_admin(&self.model.load().entries, id, self.clock.unix_now())
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

impl AgentUpdate {
    /// Brings `agent` up to date. Applying it twice does no harm; an agent that was attested anew keeps its SVID.
    ///
    /// # Errors
    ///
    /// The agent is banned: it stays as it is.
    fn apply(&self, agent: &mut Agent) -> Result<(), &'static str> {
        if agent.is_banned() {
            return Err("agent is banned");
        }
        if let Some(now) = &self.serials
            && (agent.serial_number == now.base || agent.serial_number == now.serial)
        {
            agent.serial_number.clone_from(&now.serial);
            agent.expires_at = now.expires_at;
            agent.new_serial_number.clone_from(&now.new_serial);
            agent.new_expires_at = now.new_expires_at;
        }
        if let Some(version) = &self.version {
            agent.agent_version.clone_from(version);
        }
        Ok(())
    }

    /// This update and `change` after it, for an agent of which the database has `stored`.
    fn after(self, stored: &Agent, change: impl FnOnce(&mut Agent)) -> Self {
        let mut now = stored.clone();
        // Refused for a banned agent only, which the caller has excluded.
        self.apply(&mut now).unwrap_or_default();
        let before = now.clone();
        change(&mut now);
        let base =
            self.serials.as_ref().map_or_else(|| stored.serial_number.clone(), |held| held.base.clone());
        let moved =
            now.serial_number != before.serial_number || now.new_serial_number != before.new_serial_number;
        let serials = Serials {
            base,
            serial: now.serial_number,
            expires_at: now.expires_at,
            new_serial: now.new_serial_number,
            new_expires_at: now.new_expires_at,
        };
        Self {
            serials: if moved { Some(serials) } else { self.serials },
            version: (now.agent_version != stored.agent_version).then_some(now.agent_version),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_types::selector::SelectorSet;

    fn agent(serial: &str) -> Agent {
        Agent {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap(),
            attestation_type: "join_token".into(),
            serial_number: serial.into(),
            expires_at: 10,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: false,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        }
    }

    fn renew(serial: &'static str) -> impl Fn(&mut Agent) + Clone {
        move |agent| agent.new_serial_number = serial.into()
    }

    fn promote(agent: &mut Agent) {
        agent.serial_number = std::mem::take(&mut agent.new_serial_number);
    }

    /// Whatever part of the history the database has seen, the last update brings it up to date.
    #[test]
    fn an_update_holds_all_that_happened_before_it() {
        type Change = Box<dyn Fn(&mut Agent)>;
        let steps: [Change; 5] = [
            Box::new(renew("2")),
            Box::new(promote),
            Box::new(renew("3")),
            Box::new(promote),
            Box::new(renew("4")),
        ];
        let stored = agent("1");
        let (mut expected, mut update) = (stored.clone(), AgentUpdate::default());
        for step in steps {
            step(&mut expected);
            let earlier = update.clone();
            update = update.after(&stored, step);
            for seen in [AgentUpdate::default(), earlier, update.clone()] {
                let mut database = stored.clone();
                seen.apply(&mut database).unwrap();
                if database.serial_number == "1" || database.serial_number == expected.serial_number {
                    update.apply(&mut database).unwrap();
                    assert_eq!(database, expected);
                }
            }
        }
        assert_eq!((expected.serial_number.as_str(), expected.new_serial_number.as_str()), ("3", "4"));
    }

    #[test]
    fn an_agent_that_was_attested_anew_keeps_its_svid() {
        let update = AgentUpdate::default().after(&agent("1"), renew("2"));
        let mut anew = agent("7");
        update.apply(&mut anew).unwrap();
        assert_eq!(anew, agent("7"));
    }

    #[test]
    fn a_reported_version_leaves_the_serials_alone() {
        let update = AgentUpdate::default().after(&agent("1"), |it| it.agent_version = "v".into());
        assert_eq!(update, AgentUpdate { serials: None, version: Some("v".into()) });
    }

    #[test]
    fn a_banned_agent_stays_banned() {
        let update = AgentUpdate::default().after(&agent("1"), renew("2"));
        let mut it = agent("");
        assert!(update.apply(&mut it).is_err());
        assert_eq!(it, agent(""));
    }
}
