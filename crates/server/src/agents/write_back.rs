//! Writes what is pending to the database, as soon as it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::store::MAX_AGENT_WRITES;
use vouchsafe_store::{AgentWrite, AgentsWritten, Error as StoreError, Outcome, Position, Rejected, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::{Agents, Attested, PendingAgent};
use crate::status::Chain;

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
                Ok(Progress::Stuck) => {
                    (failures, behind) = (0, 0);
                    Some(RETRY_MAX)
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
        let Some(offered) = self.offer(id) else { return Ok(()) };
        let AgentWrite { change, otherwise, .. } = offered.write();
        match (store.update_agent(id, change).await, otherwise) {
            (Err(StoreError::NotFound { .. }), Some(new)) => drop(store.put_agent(new).await?),
            (updated, _) => drop(updated?),
        }
        self.written(id);
        Ok(())
    }

    /// Writes what is pending, [`MAX_AGENT_WRITES`] agents at a time.
    pub(super) async fn write_all(&self, store: &dyn Store) -> Result<Progress, StoreError> {
        let mut round = Round::default();
        for part in self.pending_ids().chunks(MAX_AGENT_WRITES) {
            let offered: Vec<Offered> = part.iter().filter_map(|id| self.offer(id)).collect();
            self.write_part(store, &offered, &mut round).await?;
        }
        self.settle(&round).await;
        Ok(round.progress)
    }

    /// Writes a part in one transaction; one by one, if the database does not take something in it.
    async fn write_part(
        &self,
        store: &dyn Store,
        offered: &[Offered],
        round: &mut Round,
    ) -> Result<(), StoreError> {
        match self.write(store, offered, round).await {
            Err(cause) if cause.class() != Class::Transient => {}
            done => return done,
        }
        for each in offered.iter().filter_map(|each| self.offer(&each.id)) {
            let one = std::slice::from_ref(&each);
            if let Err(cause) = self.write(store, one, round).await {
                if cause.class() == Class::Transient || round.failed >= MAX_FAILED {
                    return Err(cause);
                }
                self.left_out(&each, &cause, round);
            }
        }
        Ok(())
    }

    /// Writes what was offered in one transaction.
    async fn write(
        &self,
        store: &dyn Store,
        offered: &[Offered],
        round: &mut Round,
    ) -> Result<(), StoreError> {
        let known = self.model.load().position();
        let AgentsWritten { outcomes, position } =
            match store.update_agents(offered.iter().map(Offered::write).collect()).await {
                Ok(written) => written,
                Err(cause) => {
                    if !matches!(cause, StoreError::Unavailable { outcome: Outcome::Unknown, .. }) {
                        offered.iter().for_each(|each| self.not_written(each));
                    }
                    return Err(cause);
                }
            };
        // It was set back, and what is written there is not what is served: only the update says so.
        let behind = position < known;
        for (each, outcome) in offered.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    self.written(&each.id);
                    if behind {
                        round.progress = Progress::Behind;
                    } else {
                        round.newest = round.newest.max(position);
                        round.done(each);
                    }
                }
                Err(cause) if cause.class() != Class::Caller => self.left_out(each, &cause, round),
                // Until then the update keeps the agent from looking like one that was replaced.
                Err(_) if !self.shows_gone(&each.id) => round.progress = Progress::Behind,
                Err(cause) => {
                    info!(agent = %each.id, %cause, "Dropped an update of an agent that is gone or banned");
                    round.done(each);
                }
            }
        }
        Ok(())
    }

    /// Forgets what was written as soon as the read model shows it.
    async fn settle(&self, round: &Round) {
        if round.done.is_empty() || !self.model.settled(round.newest).await {
            return;
        }
        let generation = {
            let mut pending = self.lock();
            for (id, generation) in &round.done {
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
    }

    /// The database does not take this one: it is kept, and the others go on.
    fn left_out(&self, each: &Offered, cause: &StoreError, round: &mut Round) {
        round.failed += 1;
        round.progress = Progress::Stuck;
        let first = self
            .lock()
            .by_agent
            .get_mut(&each.id)
            .is_some_and(|held| !std::mem::replace(&mut held.told_stuck, true));
        if first {
            let error = Chain(cause).to_string();
            warn!(agent = %each.id, error, "Cannot write an update of this agent; keeping it, and writing the others");
        }
    }

    /// Whether the read model shows too that an agent is gone or banned; or it never showed it.
    fn shows_gone(&self, id: &SpiffeId) -> bool {
        self.model.load().agents.get(id).is_none_or(|agent| agent.is_banned())
    }

    fn pending_ids(&self) -> Vec<SpiffeId> {
        self.lock().by_agent.keys().cloned().collect()
    }

    /// The pending update of an agent, which from now on the database may have.
    fn offer(&self, id: &SpiffeId) -> Option<Offered> {
        let mut pending = self.lock();
        let held = pending.by_agent.get_mut(id)?;
        let news = held.update.offer();
        Some(Offered { id: id.clone(), held: held.clone(), news })
    }

    /// The database does not have what it was offered.
    fn not_written(&self, each: &Offered) {
        if each.news
            && let Some(held) = self.lock().by_agent.get_mut(&each.id)
            && held.generation == each.held.generation
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Progress {
    /// It has it.
    #[default]
    Done,
    /// It has something newer that the read model does not show yet, or is older than that.
    Behind,
    /// It does not take something of it.
    Stuck,
}

/// What one round has come to.
#[derive(Debug, Default)]
struct Round {
    progress: Progress,
    /// Where the feed shows what was written.
    newest: Position,
    /// Agents of which the database has everything, as of a generation.
    done: Vec<(SpiffeId, u64)>,
    failed: usize,
}

impl Round {
    fn done(&mut self, each: &Offered) {
        self.done.push((each.id.clone(), each.held.generation));
    }
}

/// What the database is offered of one agent.
struct Offered {
    id: SpiffeId,
    held: PendingAgent,
    /// Whether it was not offered that before.
    news: bool,
}

impl Offered {
    fn write(&self) -> AgentWrite {
        // Nobody knew it when it attested, and if nobody knows it now it is added.
        let new = self.held.attested.as_ref().and_then(Attested::new_to_all);
        let pending = self.held.clone();
        let change = move |agent: &mut Agent| {
            if agent.is_banned() {
                return Err(Rejected::new("agent is banned"));
            }
            if let Some(now) = pending.over(Some(agent)) {
                *agent = now;
            }
            Ok(())
        };
        let otherwise = new.and_then(|_| self.held.over(None));
        AgentWrite { id: self.id.clone(), change: Box::new(change), otherwise }
    }
}

/// Agents that fail one by one in a round; with more it is not the agents.
const MAX_FAILED: usize = 8;
/// First delay after a failed write.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest delay until the read model and the database are looked at again that do not show the same.
const RETRY_BEHIND: Duration = Duration::from_secs(5);
/// Longest delay after a failed write.
const RETRY_MAX: Duration = Duration::from_secs(10);
