//! All federation relationships: what is configured, and in place of nothing else what operators set over the API.
//!
//! One loop owns the table of relationships. It is woken by a change of the read model, by the next due time, by the end
//! of a fetch, and by an operator who asks for a fetch. At most [`MAX_FETCHES`] run at a time, of each trust domain one; at
//! that bound further ones wait, except those that an operator asks for. So an endpoint that hangs costs its own trust
//! domain a deadline, and the others nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use vouchsafe_identity::config::KeyExchange;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::{Registry, sanitize};
use vouchsafe_store::Store;
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::trust_domain::TrustDomain;

use super::fetch::{Fetched, Fetcher, UpdateError};
use super::managed::{Managed, Run};
use super::refresher::{Ask, RefreshError, Refresher, reply};
use super::schedule;
use crate::config::Federation;
use crate::model::{ReadModel, Snapshot};
use crate::status::Chain;

/// What the poller works on.
pub(crate) struct Setup {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) config: Federation,
    pub(crate) key_exchange: KeyExchange,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Registry,
}

/// Fetches foreign bundles.
pub(crate) struct Poller {
    trust_domain: TrustDomain,
    configured: BTreeMap<TrustDomain, Arc<FederationRelationship>>,
    fetcher: Fetcher,
    metrics: Registry,
    table: BTreeMap<TrustDomain, Managed>,
    fetches: JoinSet<Ended>,
    asked: mpsc::Receiver<Ask>,
    seen: Arc<Snapshot>,
}

/// A fetch that ended.
struct Ended {
    trust_domain: TrustDomain,
    began: Instant,
    outcome: Result<Fetched, UpdateError>,
}

/// Fetches that run at a time.
const MAX_FETCHES: usize = 64;

impl Poller {
    pub(crate) fn new(setup: Setup) -> (Self, Refresher) {
        let Setup { trust_domain, config, key_exchange, model, store, clock, metrics } = setup;
        let Federation { federates_with, web_roots, fetch_deadline: deadline, .. } = config;
        let configured = federates_with.into_iter().map(|held| (held.trust_domain.clone(), Arc::new(held)));
        let (refresher, asked) = Refresher::new();
        let poller = Self {
            trust_domain,
            configured: configured.collect(),
            seen: Arc::default(),
            fetcher: Fetcher { model, store, clock, web_roots, key_exchange, deadline },
            metrics,
            table: BTreeMap::new(),
            fetches: JoinSet::new(),
            asked,
        };
        (poller, refresher)
    }

    /// Runs until `cancel`. Never fails: what cannot be fetched now may be later.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let model = self.fetcher.model.clone();
        let mut changed = model.watch();
        loop {
            self.reconcile(model.load());
            let next = self.start_due();
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(ended) = self.fetches.join_next() => match ended {
                    Ok(ended) => self.ended(ended),
                    Err(failed) if failed.is_cancelled() => {}
                    Err(failed) => {
                        error!(error = %failed, "Fetching a bundle panicked");
                        self.lost();
                    }
                },
                Some(ask) = self.asked.recv() => {
                    self.reconcile(model.load());
                    self.asked(ask);
                }
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Brings the table in line with the relationships that hold now.
    fn reconcile(&mut self, now: Arc<Snapshot>) {
        let first = self.table.is_empty();
        if first || !now.federation.ptr_eq(&self.seen.federation) {
            self.follow(&now);
        }
        if !now.bundles.ptr_eq(&self.seen.bundles) {
            let due = Instant::now();
            for managed in self.table.values_mut() {
                if managed.lacks.as_ref().is_some_and(|lacked| now.bundles.contains_key(lacked)) {
                    managed.lacks = None;
                    managed.due = due;
                }
            }
        }
        self.seen = now;
    }

    fn follow(&mut self, now: &Snapshot) {
        let mut wanted: BTreeMap<TrustDomain, Arc<FederationRelationship>> =
            now.federation.iter().map(|(name, held)| (name.clone(), held.clone())).collect();
        wanted.extend(self.configured.iter().map(|(name, held)| (name.clone(), held.clone())));
        // Its own bundle a server does not fetch, whatever its configuration says.
        wanted.remove(&self.trust_domain);
        let metrics = &self.metrics;
        self.table.retain(|name, managed| {
            let stays = wanted.contains_key(name);
            if !stays {
                info!(trust_domain = %name, "Trust domain no longer managed");
                managed.stop(|| RefreshError::NotManaged);
                let label = sanitize(name.as_str());
                metrics.forget_gauge(FETCHED, &[("trust_domain_id", label.as_str())]);
            }
            stays
        });
        for (name, from) in wanted {
            let (url, profile) = (&from.bundle_endpoint_url, from.bundle_endpoint_profile.name());
            match self.table.get_mut(&name) {
                Some(managed) if managed.from == from => {}
                Some(managed) => {
                    info!(
                        trust_domain = %name, bundle_endpoint_url = %url, bundle_endpoint_profile = profile,
                        "Updated configuration for managed trust domain"
                    );
                    managed.redirect(from);
                }
                None => {
                    info!(
                        trust_domain = %name, bundle_endpoint_url = %url, bundle_endpoint_profile = profile,
                        "Trust domain is now managed"
                    );
                    self.table.insert(name, Managed::new(from));
                }
            }
        }
    }

    /// Starts what is due, the longest due first, and says when to look again.
    fn start_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut idle: Vec<(bool, Instant, TrustDomain)> = self
            .table
            .iter()
            .filter(|(_, managed)| managed.running.is_none())
            .map(|(name, managed)| (managed.waiting.is_empty(), managed.due, name.clone()))
            .collect();
        idle.sort_unstable();
        let mut next = now + IDLE;
        for (unasked, due, name) in idle {
            if unasked && due > now {
                next = next.min(due);
            } else if !unasked || self.fetches.len() < MAX_FETCHES {
                self.start(&name, now);
            }
        }
        next
    }

    fn start(&mut self, name: &TrustDomain, now: Instant) {
        let Some(managed) = self.table.get_mut(name) else { return };
        debug!(trust_domain = %name, "Polling for bundle update");
        let believe_older = managed.believes_older(now);
        let (fetcher, from, trust_domain) = (self.fetcher.clone(), managed.from.clone(), name.clone());
        let task = self.fetches.spawn(async move {
            let outcome = fetcher.update(&from, believe_older).await;
            Ended { trust_domain, began: now, outcome }
        });
        managed.running = Some(Run { task, waiting: std::mem::take(&mut managed.waiting) });
    }

    fn asked(&mut self, ask: Ask) {
        match self.table.get_mut(&ask.trust_domain) {
            // A fetch that runs already may have read what was there before the operator asked.
            Some(managed) => managed.waiting.push(ask.reply),
            None => reply(ask.reply, Err(RefreshError::NotManaged)),
        }
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { trust_domain, began, outcome } = ended;
        self.count(&trust_domain, began, &outcome);
        let Some(managed) = self.table.get_mut(&trust_domain) else { return };
        let waiting = managed.running.take().map(|run| run.waiting).unwrap_or_default();
        managed.lacks = None;
        let older = matches!(outcome, Err(UpdateError::Older));
        managed.older_since = if older { managed.older_since.or(Some(began)) } else { None };
        let told = match outcome {
            Ok(Fetched::Changed) => {
                info!(trust_domain = %trust_domain, "Bundle refreshed");
                None
            }
            Ok(Fetched::Same) => None,
            Err(cause) => {
                let why = Chain(&cause).to_string();
                if older {
                    warn!(trust_domain = %trust_domain, error = why, "Error updating bundle");
                } else {
                    error!(trust_domain = %trust_domain, error = why, "Error updating bundle");
                }
                if let UpdateError::NoBundle { trust_domain } = cause {
                    managed.lacks = Some(trust_domain);
                }
                Some(why)
            }
        };
        let snapshot = self.fetcher.model.load();
        let held = snapshot.bundles.get(&trust_domain);
        // What it lacks may have come while it ran.
        let wait = match managed.lacks.take_if(|lacked| snapshot.bundles.contains_key(lacked)) {
            Some(_) => Duration::ZERO,
            None => {
                let period = schedule::period(held.map(|bundle| &**bundle));
                schedule::wait(trust_domain.as_str(), period, self.fetcher.clock.now())
            }
        };
        managed.due = Instant::now() + wait;
        debug!(trust_domain = %trust_domain, seconds = wait.as_secs(), "Scheduling next bundle refresh");
        for waiter in waiting {
            reply(waiter, told.clone().map_or(Ok(()), |why| Err(RefreshError::Failed(why))));
        }
    }

    /// A fetch ended without saying whose it was.
    fn lost(&mut self) {
        for managed in self.table.values_mut() {
            if managed.running.as_ref().is_some_and(|run| run.task.is_finished()) {
                managed.stop(|| RefreshError::Failed("internal error".to_owned()));
                managed.due = Instant::now() + IDLE;
            }
        }
    }

    fn count(&self, trust_domain: &TrustDomain, began: Instant, outcome: &Result<Fetched, UpdateError>) {
        let name = sanitize(trust_domain.as_str());
        let labels = [("trust_domain_id", name.as_str())];
        let status = if outcome.is_ok() { "OK" } else { "Unknown" };
        let call = self.metrics.call("bundle_manager_fetch_federated_bundle");
        call.observe(&labels, status, began.elapsed());
        if matches!(outcome, Ok(Fetched::Changed)) {
            self.metrics.counter("bundle_manager_update_federated_bundle", &labels).inc();
        }
        // A relationship that was deleted meanwhile has no such series any more.
        if outcome.is_ok() && self.table.contains_key(trust_domain) {
            let seconds = self.fetcher.clock.unix_now() as f64;
            self.metrics.gauge(FETCHED, &labels).set(seconds);
        }
    }
}

/// When a bundle was last fetched. There as long as the relationship is.
const FETCHED: &str = "vouchsafe_federated_bundle_fetched_seconds";
/// How long the loop sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);
