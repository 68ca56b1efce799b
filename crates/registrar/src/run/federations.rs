//! The loop that keeps federation relationships as they are declared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use vouchsafe_cluster::Objects;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::readiness::Token;

use super::followed::of_class;
use super::reports::Reports;
use super::{Config, Halt, Leading, Shared, retry_delay};
use crate::federation::{FederationPlan, Federations};
use crate::objects::{ClusterFederatedTrustDomain, Declaring};
use crate::server::{CHANGES, DELETIONS, Relationship, Server};
use crate::status::Verdict;

/// Everything that the loop uses.
#[derive(Debug)]
pub(super) struct Relationships {
    config: Arc<Config>,
    objects: Objects<ClusterFederatedTrustDomain>,
    server: Server,
    reports: Reports,
    leading: Leading,
    federations: Federations,
    entropy: Entropy,
    ready: Token,
    failures: u32,
    clock: Clock,
    /// Since when this process has led without a gap.
    led_since: Option<SystemTime>,
}

/// What the server would not take, by trust domain.
type Refusals = BTreeMap<String, String>;

impl Relationships {
    pub(super) fn new(shared: Shared, objects: Objects<ClusterFederatedTrustDomain>) -> Self {
        let Shared { config, deps, server, reports, leading } = shared;
        Self {
            config,
            objects,
            server,
            reports,
            leading,
            federations: Federations::default(),
            entropy: deps.entropy.fork("federation"),
            ready: deps.readiness.token("federation relationships"),
            failures: 0,
            clock: deps.clock,
            led_since: None,
        }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        let mut changes = self.objects.changed();
        self.ready.degrade("waiting for the objects of the cluster");
        loop {
            let next = self.turn().await;
            let waiting = self.failures > 0;
            tokio::select! {
                // A server that does not answer is not asked again for each change.
                changed = changes.changed(), if !waiting => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = self.leading.changed(), if !waiting => self.led_since = None,
                () = sleep_until(next) => {}
            }
        }
    }

    /// Does what there is to do, and says when to look again.
    async fn turn(&mut self) -> Instant {
        let again = Instant::now() + self.config.gc_interval;
        if !self.leading.is_held() {
            self.led_since = None;
            self.ready.mark();
            return again;
        }
        let since = *self.led_since.get_or_insert_with(|| self.clock.now());
        let snapshot = self.objects.snapshot();
        if !snapshot.complete {
            self.ready.degrade("federated trust domains: not all objects are known");
            return again;
        }
        // What is known may be from before another one led, and lack what that one has set.
        let stale = self.leading.is_elected() && snapshot.confirmed_at.is_none_or(|at| at <= since);
        let objects = of_class(&snapshot.objects, &self.config.terms.class);
        match self.reconcile(&objects, stale || !snapshot.unreadable.is_empty()).await {
            Ok(()) => {
                self.failures = 0;
                self.ready.mark();
                again
            }
            Err(Halt::NotLeading) => again,
            Err(Halt::Server(error)) => {
                if self.failures == 0 {
                    warn!(%error, "The server does not answer; federation relationships stay as they are");
                }
                self.ready.degrade(&error.to_string());
                let delay = retry_delay(self.failures, &mut self.entropy);
                self.failures = self.failures.saturating_add(1);
                Instant::now() + delay
            }
        }
    }

    async fn reconcile(
        &mut self,
        objects: &[&ClusterFederatedTrustDomain],
        spares_all: bool,
    ) -> Result<(), Halt> {
        let current = self.server.list_relationships().await?;
        let (plan, mut verdicts) = self.federations.plan(objects, &current, spares_all);
        let refusals = self.execute(&plan).await?;
        let ends = Instant::now() + ROUND;
        for object in objects {
            let name = object.spec.get("trustDomain").and_then(serde_json::Value::as_str).unwrap_or_default();
            let Some(verdict) = verdicts.get_mut(object.name()) else { continue };
            if let Some(reason) = refusals.get(name).filter(|_| verdict.ready) {
                let message = format!("the server refuses the relationship: {reason}");
                *verdict = Verdict::not("RelationshipRefused", message);
            }
            // What is not said by then is said in the next turn.
            if self.leading.is_held() && Instant::now() < ends {
                self.reports.report(*object, json!({}), verdict).await;
            }
        }
        self.reports.keep::<ClusterFederatedTrustDomain>(|name| verdicts.contains_key(name));
        Ok(())
    }

    async fn execute(&self, plan: &FederationPlan) -> Result<Refusals, Halt> {
        let mut refusals = Refusals::new();
        let mut note = |what, batch: &[Relationship], answers: Vec<Result<(), String>>| {
            for ((one, _), answer) in batch.iter().zip(answers) {
                let trust_domain = one.trust_domain.as_str();
                match answer {
                    Ok(()) => info!(trust_domain, "{what} federation relationship"),
                    Err(reason) => drop(refusals.insert(trust_domain.to_owned(), reason)),
                }
            }
        };
        for batch in plan.create.chunks(CHANGES) {
            self.leading.check()?;
            note("Created", batch, self.server.create_relationships(batch).await?);
        }
        for batch in plan.update.chunks(CHANGES) {
            self.leading.check()?;
            note("Updated", batch, self.server.update_relationships(batch).await?);
        }
        for batch in plan.delete.chunks(DELETIONS) {
            self.leading.check()?;
            for (name, answer) in batch.iter().zip(self.server.delete_relationships(batch).await?) {
                match answer {
                    Ok(()) => info!(trust_domain = %name, "Deleted federation relationship"),
                    Err(reason) => {
                        warn!(trust_domain = %name, reason, "Failed to delete federation relationship")
                    }
                }
            }
        }
        Ok(refusals)
    }
}

/// How long statuses are written in one turn.
const ROUND: Duration = Duration::from_secs(2);
