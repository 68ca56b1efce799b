//! The loop that keeps entries as they are declared.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::readiness::Token;

use self::report::Place;
use super::followed::Followed;
use super::meters::Meters;
use super::reports::Reports;
use super::{Config, Halt, Leading, Shared, retry_delay};
use crate::ledger::Ledger;
use crate::server::{Server, ServerError};

mod execute;
mod report;

/// Everything that the loop uses.
#[derive(Debug)]
pub(super) struct Entries {
    config: Arc<Config>,
    followed: Followed,
    server: Server,
    reports: Reports,
    leading: Leading,
    ledger: Ledger,
    clock: Clock,
    entropy: Entropy,
    ready: Token,
    metrics: Meters,
    /// When all entries are read and compared next.
    compare_at: Instant,
    /// Before this the server is left alone.
    not_before: Instant,
    failures: u32,
    /// When statuses are written next, if they are to be.
    report_at: Option<Instant>,
    reported_at: Option<Instant>,
    /// Where the last round of statuses ended.
    reported: Place,
    /// Since when this process has led without a gap.
    led_since: Option<SystemTime>,
    /// Since when not all objects of a kind are known, and whether that was said.
    lacking: Option<(Instant, bool)>,
}

impl Entries {
    pub(super) fn new(shared: Shared, followed: Followed) -> Self {
        let now = Instant::now();
        let Shared { config, deps, server, reports, leading } = shared;
        Self {
            ledger: Ledger::new(config.terms.clone()).with_longest_wait(longest_wait(config.gc_interval)),
            config,
            followed,
            server,
            reports,
            leading,
            clock: deps.clock.clone(),
            entropy: deps.entropy.fork("entries"),
            ready: deps.readiness.token("entries"),
            metrics: Meters::new(&deps.registry),
            compare_at: now,
            not_before: now,
            failures: 0,
            report_at: None,
            reported_at: None,
            reported: Place::default(),
            led_since: None,
            lacking: None,
        }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        self.ready.degrade("waiting for the objects of the cluster");
        loop {
            let began = Instant::now();
            self.turn().await;
            self.metrics.turn.observe(began.elapsed());
            let next = self.report_at.into_iter().fold(self.compare_at, Instant::min).max(self.not_before);
            tokio::select! {
                () = self.followed.changed() => {}
                // Another one may have led meanwhile.
                () = self.leading.changed() => self.led_since = None,
                () = sleep_until(next) => {}
            }
        }
    }

    /// Takes up what has changed, and does what follows from it.
    async fn turn(&mut self) {
        if !self.leads() {
            // Another one changes entries meanwhile.
            self.compare_at = Instant::now();
            self.not_before = self.compare_at + self.config.gc_interval;
            self.ready.mark();
            return;
        }
        let view = self.followed.view();
        if !self.bears_with(view.lacks, view.is_usable) {
            return;
        }
        let stale = self.leading.is_elected()
            && !self.led_since.is_some_and(|since| self.followed.is_confirmed_since(since));
        self.ledger.spare(stale || view.lacks.is_some());
        let evaluated = self.ledger.observe(view.world);
        self.metrics.evaluated.add(evaluated as u64);
        self.metrics.pods.set(self.ledger.pod_count() as f64);
        if self.failures == 0 {
            self.not_before = Instant::now();
        }
        if Instant::now() < self.not_before {
            return;
        }
        match self.reconcile().await {
            Ok(()) => {
                self.failures = 0;
                if view.lacks.is_none() {
                    self.ready.mark();
                }
                self.metrics.declared.set(self.ledger.declared() as f64);
                self.metrics.held_back.set(self.ledger.held_back() as f64);
                self.report().await;
            }
            Err(Halt::NotLeading) => {
                warn!("Leadership is lost; what was not done yet is left to another");
                self.compare_at = Instant::now();
            }
            Err(Halt::Server(error)) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &ServerError) {
        self.metrics.failed.inc();
        if self.failures == 0 {
            warn!(%error, "The server does not answer; entries stay as they are");
        }
        let delay = retry_delay(self.failures, &mut self.entropy);
        self.failures = self.failures.saturating_add(1);
        self.ready.degrade(&error.to_string());
        // What it has done is not known.
        self.compare_at = Instant::now() + delay;
        self.not_before = self.compare_at;
    }

    /// Whether this process is to work. What was known before it began, or before a gap, is compared again.
    fn leads(&mut self) -> bool {
        if !self.leading.is_held() {
            self.led_since = None;
            return false;
        }
        if self.led_since.is_none() {
            self.led_since = Some(self.clock.now());
            self.compare_at = Instant::now();
        }
        true
    }

    /// Whether to go on although not all objects of this kind are known. At the start that is so for a moment; when it
    /// lasts, what is known is worked with, if it is enough to tell who is to get what.
    fn bears_with(&mut self, lacks: Option<&'static str>, is_usable: bool) -> bool {
        let Some(kind) = lacks else {
            self.lacking = None;
            return true;
        };
        let now = Instant::now();
        let (since, said) = self.lacking.get_or_insert((now, false));
        let bearable_at = *since + PATIENCE;
        if now < bearable_at {
            self.not_before = bearable_at.min(now + self.config.gc_interval);
            return false;
        }
        if !std::mem::replace(said, true) {
            warn!(kind, "Not all objects are known; nothing is deleted until they are");
        }
        self.ready.degrade(&format!("{kind}: not all objects are known"));
        if !is_usable {
            self.not_before = now + self.config.gc_interval;
        }
        is_usable
    }

    async fn reconcile(&mut self) -> Result<(), Halt> {
        if Instant::now() >= self.compare_at {
            let entries = self.server.list_entries().await?;
            if self.failures > 0 {
                info!(entries = entries.len(), "The server answers again; comparing entries");
            }
            self.ledger.compare(entries);
            self.compare_at = Instant::now() + self.config.gc_interval;
        }
        for _ in 0..MAX_ROUNDS {
            let plan = self.ledger.plan();
            if plan.is_empty() {
                return Ok(());
            }
            self.report_at = self.report_at.or(Some(Instant::now()));
            self.execute(plan).await?;
        }
        Ok(())
    }
}

/// How many comparisons a refused entry waits for at most.
fn longest_wait(gc_interval: Duration) -> u32 {
    let comparisons = LONGEST_REFUSAL.as_millis() / gc_interval.as_millis().max(1);
    u32::try_from(comparisons).unwrap_or(u32::MAX).max(1)
}

/// A refused entry is tried again at least this often.
const LONGEST_REFUSAL: Duration = Duration::from_secs(300);
/// How long it may take until all objects are known, before that is a fault.
const PATIENCE: Duration = Duration::from_secs(5);
/// An entry that was there already is looked at again, and a change can follow. More rounds are for the next turn.
const MAX_ROUNDS: usize = 4;

#[cfg(test)]
mod tests;
