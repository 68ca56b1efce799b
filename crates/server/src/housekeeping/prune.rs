//! Agents that are gone: those whose SVID expired long ago.
//!
//! Looked for once an hour, at a time of the hour that is the same after a restart and another one for each server. A batch
//! has a size, and agents are removed a few at a time, so that no operator's write waits behind a thousand of them. What
//! seems gone has [`SETTLE`] to show itself: when the clock jumps ahead, every agent looks expired until it has renewed.
//! Banned agents stay: a ban that went away by itself would be none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::spread;
use vouchsafe_runtime::metrics::Registry as Metrics;
use vouchsafe_store::{Error as StoreError, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::agents::Agents;
use crate::authorize::Registry;
use crate::config::admission::Prune;
use crate::model::ReadModel;

/// How often it looks.
pub(crate) const EVERY: Duration = Duration::from_secs(3600);
/// From the look to the removal: longer than agents take to find out that their SVID is not valid and to renew it.
pub(crate) const SETTLE: Duration = Duration::from_secs(600);
/// Pause between two removals: at most twenty a second.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes agents that are gone, until cancelled.
pub(crate) struct AgentPruning {
    pub(crate) settings: Prune,
    pub(crate) expired_for: Duration,
    /// What tells this server from others.
    pub(crate) key: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
}

impl AgentPruning {
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let Prune { tofu, .. } = self.settings;
        info!(expired_for = ?self.expired_for, include_tofu = tofu, "Periodic prune of expired nodes started");
        let mut wait = EVERY.mul_f64(spread(self.key.as_bytes()));
        loop {
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            wait = EVERY - SETTLE;
            let due = self.due();
            if cancel.run_until_cancelled(tokio::time::sleep(SETTLE)).await.is_none() {
                return;
            }
            let began = Instant::now();
            let Some(outcome) = cancel.run_until_cancelled(self.remove(due)).await else { return };
            let status = if outcome.is_ok() { "OK" } else { "Unknown" };
            self.metrics.call("node_manager_prune").observe(&[], status, began.elapsed());
            match outcome {
                Ok(count) => info!(count, "Pruned expired agents"),
                Err(cause) => {
                    warn!(error = %cause, "Failed during periodic pruning of expired nodes; trying again later");
                }
            }
        }
    }

    /// One batch of agents that seem gone.
    fn due(&self) -> Vec<SpiffeId> {
        let snapshot = self.model.load();
        let batch = if self.settings.batch == 0 { Prune::DEFAULT_BATCH } else { self.settings.batch };
        snapshot.agents.keys().filter(|id| self.is_due(id)).take(batch).cloned().collect()
    }

    /// Removes those of `due` that still seem gone, and says how many.
    async fn remove(&self, due: Vec<SpiffeId>) -> Result<usize, StoreError> {
        let mut count = 0;
        for id in due {
            if !self.is_due(&id) {
                continue;
            }
            match self.store.delete_agent(&id).await {
                Ok(_) => {
                    self.agents.forget(&id).await;
                    count += 1;
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(cause) => return Err(cause),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(count)
    }

    fn is_due(&self, id: &SpiffeId) -> bool {
        let keep = i64::try_from(self.expired_for.as_secs()).unwrap_or(i64::MAX);
        let before = self.clock.unix_now().saturating_sub(keep);
        self.agents.agent(id).is_some_and(|agent| is_gone(&agent, before, self.settings.tofu))
    }
}

/// Whether the last SVID of `agent` expired before `before`. Without `tofu` only agents count that can come back by
/// themselves.
fn is_gone(agent: &Agent, before: i64, tofu: bool) -> bool {
    let expired = agent.expires_at.max(agent.new_expires_at);
    !agent.is_banned() && expired < before && (tofu || agent.can_reattest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_runtime::clock::ClockHandle;
    use vouchsafe_types::selector::SelectorSet;

    fn agent(expires_at: i64, new_expires_at: i64, can_reattest: bool) -> Agent {
        Agent {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap(),
            attestation_type: "x509pop".into(),
            serial_number: "1".into(),
            expires_at,
            new_serial_number: String::new(),
            new_expires_at,
            can_reattest,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        }
    }

    #[test]
    fn only_agents_that_expired_long_ago_go() {
        assert!(is_gone(&agent(99, 0, true), 100, false));
        assert!(!is_gone(&agent(100, 0, true), 100, false));
        assert!(!is_gone(&agent(99, 100, true), 100, false), "renewed, and not used yet");
    }

    #[test]
    fn those_that_cannot_come_back_stay_unless_an_operator_says_so() {
        assert!(!is_gone(&agent(1, 0, false), 100, false));
        assert!(is_gone(&agent(1, 0, false), 100, true));
    }

    #[test]
    fn a_ban_has_no_end() {
        let banned = Agent { serial_number: String::new(), ..agent(1, 0, true) };
        assert!(!is_gone(&banned, 100, true));
    }

    async fn store_with(agents: Vec<Agent>) -> (tempfile::TempDir, Arc<dyn Store>, (Clock, ClockHandle)) {
        let folder = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::steerable(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let path = folder.path().join("registry.db");
        let store = vouchsafe_store::sqlite::Sqlite::open(path, clock.clone()).await.unwrap();
        for agent in agents {
            store.put_agent(agent).await.unwrap();
        }
        (folder, Arc::new(store), (clock, hand))
    }

    fn pruning(store: &Arc<dyn Store>, model: &Arc<ReadModel>, clock: &Clock) -> AgentPruning {
        AgentPruning {
            settings: Prune { expired_for: None, batch: 2, tofu: false },
            expired_for: Duration::from_secs(3600),
            key: "here".into(),
            store: store.clone(),
            model: model.clone(),
            agents: Arc::new(Agents::new(model.clone(), clock.clone(), Vec::new(), None).unwrap()),
            clock: clock.clone(),
            metrics: Metrics::new("spire_server", &[]),
        }
    }

    #[tokio::test]
    async fn a_batch_removes_what_is_due_and_no_more() {
        let named = |name: &str, agent: Agent| Agent {
            id: SpiffeId::parse(&format!("spiffe://example.org/spire/agent/{name}")).unwrap(),
            ..agent
        };
        let (_folder, store, (clock, _)) = store_with(vec![
            named("a", agent(1, 0, true)),
            named("b", agent(1, 0, true)),
            named("c", agent(1, 0, true)),
            named("tofu", agent(1, 0, false)),
            named("young", agent(999_999, 0, true)),
        ])
        .await;
        let model = Arc::new(ReadModel::read(&*store).await.unwrap());
        let pruning = pruning(&store, &model, &clock);
        assert_eq!(pruning.remove(pruning.due()).await.unwrap(), 2);
        let held = ReadModel::read(&*store).await.unwrap().load();
        let names: Vec<_> = held.agents.keys().map(|id| id.path().to_owned()).collect();
        assert_eq!(names, ["/spire/agent/c", "/spire/agent/tofu", "/spire/agent/young"]);
    }

    #[tokio::test]
    async fn agents_outlive_a_clock_that_jumps_ahead_for_a_while() {
        let (_folder, store, (clock, hand)) = store_with(vec![agent(1_003_600, 0, true)]).await;
        let model = Arc::new(ReadModel::read(&*store).await.unwrap());
        let pruning = pruning(&store, &model, &clock);
        hand.jump(3 * 24 * 3600);
        let due = pruning.due();
        assert_eq!(due.len(), 1, "it looks as if it had been away for days");
        pruning.agents.renewed(&due[0], "2".into(), clock.unix_now() + 3600).await.unwrap();
        assert_eq!(pruning.remove(due).await.unwrap(), 0);
    }
}
