//! Keeps entries and bundles current.
//!
//! Every [`Config::sync_interval`](crate::config::Config::sync_interval) while all is well; after a failure sooner or
//! later than that, at a random time that never lies more than [`RETRY_MAX`](crate::server_client::RETRY_MAX) ahead, or
//! 10 seconds when the server is away, so that a server that comes back is noticed within seconds and is not met by all
//! agents at once. A failure changes nothing that is served. A caller without identity makes the next one come at once
//! ([`SyncSoon`]), also after failures: its entry may have been written a moment ago.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_runtime::budget::Budget;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::readiness::Token;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::bundles::Bundles;
use crate::denials::Denials;
use crate::entries::EntryIndex;
use crate::identities::{Identities, Snapshot};
use crate::metrics::{Metrics, status_name};
use crate::server_client::{ServerClient, retry_backoff, shown};
use crate::status::{Phase, StatusBoard};
use crate::sync::{ACCEPT_OLDER_AFTER, Outcome};
use crate::trust::Trust;

/// What synchronization works with.
#[derive(Debug)]
pub struct SyncLoop {
    /// Speaks with the server.
    pub client: Arc<ServerClient>,
    /// What is served.
    pub identities: Arc<Identities>,
    /// Knows the server.
    pub trust: Arc<Trust>,
    /// The agent's own SVID: nothing to do before there is one.
    pub cell: SvidCell,
    /// Where denials go.
    pub denials: Denials,
    /// Time between synchronizations.
    pub interval: Duration,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// Status.
    pub status: StatusBoard,
    /// Marked when the agent can do its job.
    pub ready: Token,
    /// Asks for a synchronization before the next one is due.
    pub soon: SyncSoon,
}

/// Asks for a synchronization now instead of at the end of the interval. Cheap to clone.
///
/// At most [`SOON_PER_INTERVAL`] of these happen per interval on average, whoever asks: callers without identity
/// cannot make this agent a load on the server.
#[derive(Clone, Debug)]
pub struct SyncSoon {
    wake: Arc<Notify>,
    budget: Arc<Mutex<Budget>>,
}

/// Synchronizations per interval that callers without identity may cause.
pub const SOON_PER_INTERVAL: f64 = 1.0;
/// How many of them may follow each other at once.
const SOON_BURST: u32 = 2;

impl SyncSoon {
    /// For synchronizations every `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let rate = SOON_PER_INTERVAL / interval.as_secs_f64().max(f64::MIN_POSITIVE);
        Self { wake: Arc::default(), budget: Arc::new(Mutex::new(Budget::new(rate, SOON_BURST, true))) }
    }

    /// Someone found nothing that may be there by now.
    pub fn ask(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.try_take(Instant::now(), 1).is_ok() {
            self.wake.notify_one();
        }
    }
}

impl SyncLoop {
    /// Synchronizes until `cancel`.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), std::convert::Infallible> {
        cancel.run_until_cancelled(self.live()).await;
        Ok(())
    }

    async fn live(&self) {
        let started = Instant::now();
        let mut own = self.cell.watch();
        while self.cell.load().is_none() {
            if own.changed().await.is_err() {
                return;
            }
        }
        let (mut failures, mut older_since) = (0, None);
        loop {
            own.mark_unchanged();
            let start = Instant::now();
            let outcome = self.synchronize(&mut older_since).await;
            let status = outcome.as_ref().map_or_else(|status| status_name(status.code()), |()| "OK");
            self.metrics.sync().observe(&[], status, start.elapsed());
            self.metrics.uptime(started.elapsed());
            let wait = match outcome {
                Ok(()) => {
                    failures = 0;
                    self.interval.mul_f64(0.9 + 0.2 * self.client.jitter())
                }
                Err(status) => {
                    self.failed(&status).await;
                    failures += 1;
                    let wait = retry_backoff().delay(failures, self.client.jitter());
                    // Nobody is burdened by looking whether a server is back that is away.
                    if status.code() == Code::Unavailable { wait.min(LOOK_AGAIN) } else { wait }
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.soon.wake.notified() => {}
                // A new SVID of our own: what was refused before may work now.
                Ok(()) = own.changed(), if failures > 0 => {}
            }
        }
    }

    async fn failed(&self, status: &Status) {
        error!(error = shown(status), "Synchronize failed");
        self.status.set(|board| board.sync_error = Some(status.message().to_owned()));
        self.ready.degrade(status.message());
        self.denials.hear(status);
        if let Err(status) = self.trust.recover().await {
            warn!(error = shown(&status), "cannot bootstrap again");
        }
    }

    async fn synchronize(&self, older_since: &mut Option<Instant>) -> Result<(), Status> {
        let before = self.identities.load();
        let outcome = self.client.sync_entries(&before.index).await?;
        let own = self.client.bundle().await?;
        let (federated, missing) = self.federated(&before, &outcome).await;
        let older = outcome.older.is_some() || is_older(before.bundles.as_deref(), &own);
        if older && !self.believe_older(older_since) {
            return Err(Status::unavailable(
                "the server shows an older state than this agent holds; keeping what is held",
            ));
        }
        if !older {
            *older_since = None;
        }
        self.denials.admitted();
        self.trust.confirmed();
        if before.bundles.as_ref().is_none_or(|held| held.own.bundle != own) {
            self.trust.adopt(&own);
        }
        let stats = outcome.stats;
        self.apply(outcome, own, federated);
        let now = self.identities.load();
        let bundles = now.bundles.as_ref().map_or(0, |bundles| bundles.len());
        self.metrics.synchronized(stats, bundles);
        self.status.set(|status| {
            status.last_sync = Some(self.clock.now());
            status.sync_error = None;
            status.entries = now.index.len();
            status.phase = Phase::Serving;
        });
        match missing.is_empty() {
            true => self.ready.mark(),
            false => self.ready.degrade(&format!("no current bundle of {}", missing.join(", "))),
        }
        Ok(())
    }

    fn believe_older(&self, since: &mut Option<Instant>) -> bool {
        let since = *since.get_or_insert_with(Instant::now);
        let believed = since.elapsed() >= ACCEPT_OLDER_AFTER;
        if believed {
            warn!("the server has shown an older state for {ACCEPT_OLDER_AFTER:?}; taking it for the truth");
        }
        believed
    }

    /// The bundles of the trust domains that entries federate with. One that cannot be fetched now stays as it is;
    /// the second part of the answer names those.
    async fn federated(&self, before: &Snapshot, outcome: &Outcome) -> (Vec<Bundle>, Vec<String>) {
        let names: BTreeSet<TrustDomain> =
            outcome.entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()).collect();
        let (mut bundles, mut failed) = (Vec::new(), Vec::new());
        for (name, fetched) in self.client.federated_bundles(names.into_iter().collect()).await {
            match fetched {
                Ok(bundle) if bundle.trust_domain == name => bundles.push(bundle),
                Ok(bundle) => {
                    warn!(trust_domain = %name, got = %bundle.trust_domain, "the server sent another bundle")
                }
                Err(status) if status.code() == Code::NotFound => {
                    warn!(trust_domain = %name, "Federated bundle not found");
                }
                Err(status) => {
                    warn!(trust_domain = %name, error = shown(&status), "Failed to fetch federated bundle");
                    let held = before.bundles.as_ref().and_then(|held| held.federated.get(&name));
                    bundles.extend(held.map(|view| view.bundle.clone()));
                    failed.push(name.to_string());
                }
            }
        }
        (bundles, failed)
    }

    fn apply(&self, outcome: Outcome, own: Bundle, federated: Vec<Bundle>) {
        let metrics = &self.metrics;
        self.identities.edit(|snapshot| {
            let bundles = snapshot.bundles.take();
            let (bundles, bundles_changed) = match &bundles {
                Some(held) => held.replace(own, federated),
                None => Bundles::of(own.clone()).replace(own, federated),
            };
            let first = !std::mem::replace(&mut snapshot.synchronized, true);
            snapshot.bundles = Some(Arc::new(bundles));
            if outcome.changed {
                let next = EntryIndex::build(outcome.entries, &snapshot.index);
                report(metrics, &snapshot.index, &next);
                snapshot.index = Arc::new(next);
                drop_orphans(snapshot);
            }
            bundles_changed || outcome.changed || first
        });
    }
}

/// Longest time between attempts to reach a server that is away.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Takes away SVIDs that no entry stands for any more, or whose entry means somebody else now.
fn drop_orphans(snapshot: &mut Snapshot) {
    let index = Arc::clone(&snapshot.index);
    let stands =
        |id: &str, spiffe_id: &SpiffeId| index.get(id).is_some_and(|slot| slot.entry.spiffe_id == *spiffe_id);
    if snapshot.svids.iter().any(|(id, svid)| !stands(id.as_str(), &svid.spiffe_id)) {
        Arc::make_mut(&mut snapshot.svids).retain(|id, svid| stands(id.as_str(), &svid.spiffe_id));
    }
}

fn report(metrics: &Metrics, before: &EntryIndex, after: &EntryIndex) {
    let (mut added, mut updated, mut removed) = (0, 0, 0);
    for slot in after.iter() {
        let (entry_id, spiffe_id) = (&slot.entry.id, &slot.entry.spiffe_id);
        match before.get(entry_id.as_str()) {
            None => {
                added += 1;
                debug!(%entry_id, %spiffe_id, "Entry created");
            }
            Some(old) if !Arc::ptr_eq(old, slot) => {
                updated += 1;
                debug!(%entry_id, %spiffe_id, "Entry updated");
            }
            Some(_) => {}
        }
    }
    for slot in before.iter().filter(|slot| after.get(slot.entry.id.as_str()).is_none()) {
        removed += 1;
        debug!(entry_id = %slot.entry.id, spiffe_id = %slot.entry.spiffe_id, "Entry removed");
    }
    if added + updated + removed > 0 {
        info!(added, updated, removed, total = after.len(), "entries changed");
    }
    metrics.entries_changed(added, updated, removed, after.len());
}

/// The sequence number grows with every change of a bundle; 0 means that nobody counts.
fn is_older(held: Option<&Bundles>, offered: &Bundle) -> bool {
    offered.sequence_number != 0
        && held.is_some_and(|held| offered.sequence_number < held.own.bundle.sequence_number)
}
