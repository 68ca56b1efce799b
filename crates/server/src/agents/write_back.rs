//! Writes what is pending to the database, as soon as it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::{Error as StoreError, Outcome, Position, Rejected, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::{Agents, Attested, PendingAgent};

impl Agents {
    /// Writes pending updates to `store` until `cancel`.
    pub(crate) async fn write_back(
        &self,
        store: Arc<dyn Store>,
        mut entropy: Entropy,
        cancel: CancellationToken,
    ) {
        let (mut failures, mut behind) = (0_u32, 0_u32);
        loop {
            // Dropped half-way it has written an update or not: the journal still has it.
            let Some(outcome) = cancel.run_until_cancelled(self.write_all(&*store)).await else { return };
            let wait = match outcome {
                Ok(Progress::Done) => {
                    (failures, behind) = (0, 0);
                    None
                }
                Ok(Progress::Behind) => {
                    behind = behind.saturating_add(1);
                    Some(RETRY_MIN.saturating_mul(behind).min(RETRY_BEHIND))
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
                () = self.returned.notified(), if wait.is_some() => {}
                () = tokio::time::sleep(wait.unwrap_or(RETRY_MAX)) => {}
            }
        }
    }

    /// Writes what is pending for one agent now, so that an operator's change finds it in the database.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn write_now(&self, store: &dyn Store, id: &SpiffeId) -> Result<(), StoreError> {
        let Some((held, _)) = self.offer(id) else { return Ok(()) };
        write(store, id, &held).await?;
        self.written(id);
        Ok(())
    }

    pub(super) async fn write_all(&self, store: &dyn Store) -> Result<Progress, StoreError> {
        let mut written = Vec::new();
        let mut newest = Position::START;
        let mut progress = Progress::Done;
        for id in self.pending_ids() {
            let Some((held, news)) = self.offer(&id) else { continue };
            let known = self.model.load().position();
            match write(store, &id, &held).await {
                // It was set back, and what is written there is not what is served: only this update says so.
                Ok(position) if position < known => {
                    self.written(&id);
                    progress = Progress::Behind;
                    continue;
                }
                Ok(position) => {
                    self.written(&id);
                    newest = newest.max(position);
                }
                Err(cause) if cause.class() == Class::Caller => {
                    if !self.shows_gone(&id) {
                        // Until then the update keeps the agent from looking like one that was replaced.
                        progress = Progress::Behind;
                        continue;
                    }
                    info!(agent = %id, %cause, "Dropped an update of an agent that is gone or banned");
                }
                Err(cause) => {
                    let unknown = matches!(cause, StoreError::Unavailable { outcome: Outcome::Unknown, .. });
                    if news && !unknown {
                        self.not_written(&id, held.generation);
                    }
                    return Err(cause);
                }
            }
            written.push((id, held.generation));
        }
        if written.is_empty() || !self.model.settled(newest).await {
            return Ok(progress);
        }
        let generation = {
            let mut pending = self.lock();
            for (id, generation) in &written {
                if pending.by_agent.get(id).is_some_and(|held| held.generation == *generation) {
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
        Ok(progress)
    }

    /// Whether the read model shows too that an agent is gone or banned; or it never showed it.
    fn shows_gone(&self, id: &SpiffeId) -> bool {
        self.model.load().agents.get(id).is_none_or(|agent| agent.is_banned())
    }

    fn pending_ids(&self) -> Vec<SpiffeId> {
        self.lock().by_agent.keys().cloned().collect()
    }

    /// The pending update of an agent, which from now on the database may have, and whether that is news.
    fn offer(&self, id: &SpiffeId) -> Option<(PendingAgent, bool)> {
        let mut pending = self.lock();
        let held = pending.by_agent.get_mut(id)?;
        let news = held.update.offer();
        Some((held.clone(), news))
    }

    /// The database does not have what it was offered.
    fn not_written(&self, id: &SpiffeId, generation: u64) {
        if let Some(held) = self.lock().by_agent.get_mut(id)
            && held.generation == generation
        {
            held.update.withdraw();
        }
    }

    fn written(&self, id: &SpiffeId) {
        if let Some(attested) = self.lock().by_agent.get_mut(id).and_then(|held| held.attested.as_mut()) {
            attested.written = true;
        }
    }
}

/// How far the database is with what was pending.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// It has it.
    Done,
    /// It has something newer that the read model does not show yet, or is older than that.
    Behind,
}

/// Writes what is pending for one agent; says where the feed shows it.
async fn write(store: &dyn Store, id: &SpiffeId, held: &PendingAgent) -> Result<Position, StoreError> {
    let new = held.attested.as_ref().and_then(Attested::new_to_all).and_then(|_| held.over(None));
    let pending = held.clone();
    let change = move |agent: &mut Agent| {
        if agent.is_banned() {
            return Err(Rejected::new("agent is banned"));
        }
        if let Some(now) = pending.over(Some(agent)) {
            *agent = now;
        }
        Ok(())
    };
    match (store.update_agent(id, Box::new(change)).await, new) {
        // Nobody knew it when it attested, and nobody knows it now.
        (Err(StoreError::NotFound { .. }), Some(new)) => store.put_agent(new).await,
        (updated, _) => updated.map(|(_, position)| position),
    }
}

/// First delay after a failed write.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest delay until the read model and the database are looked at again that do not show the same.
const RETRY_BEHIND: Duration = Duration::from_secs(5);
/// Longest delay after a failed write.
const RETRY_MAX: Duration = Duration::from_secs(10);
