//! Gets X.509-SVIDs from the server: for workloads that wait, ahead of need, and in time for renewal.
//!
//! [`mod@plan`] says what is needed; this loop asks in batches and puts the answers into the snapshot. Each kind of need
//! has its own lane with one batch under way, so a workload that waits never stands behind a thousand renewals.
//! A failed batch is tried again after a growing, random time and with half the size; an entry that the server does
//! not issue for is asked for again after the same kind of wait, alone.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};
use vouchsafe_ca::key::KeyType;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::entry::EntryId;

use crate::denials::Denials;
use crate::entries::EntrySlot;
use crate::explain::notes::{Failure, Notes};
use crate::identities::{HeldSvid, Identities, Snapshot};
use crate::metrics::{Metrics, Repair, Retry, status_name};
use crate::renewals::{HeldBack, Renewals};
use crate::rotation::{Policy, Standing};
use crate::server_client::{ServerClient, retry_backoff, shown};
use crate::status::{Phase, StatusBoard};
use crate::taint::Distrust;
use crate::trust::Trust;
pub use bundle::Unknown;
use bundle::patience;
use order::{accept, prepare};
use plan::{Ask, BatchSize, Plan, Reason, View, plan};
use tolerance::Tolerance;

mod bundle;
mod order;
pub mod plan;
mod tolerance;

/// What issuing works with.
#[derive(Debug)]
pub struct IssueLoop {
    /// Speaks with the server.
    pub client: Arc<ServerClient>,
    /// What is served.
    pub identities: Arc<Identities>,
    /// Where denials go.
    pub denials: Denials,
    /// What goes wrong is noted for whoever asks why.
    pub notes: Notes,
    /// Keys of workloads.
    pub key_type: KeyType,
    /// Soft limit of SVIDs held.
    pub limit: usize,
    /// When SVIDs are renewed.
    pub policy: Policy,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// Status.
    pub status: StatusBoard,
    /// Told how it goes.
    pub renewals: Arc<Renewals>,
    /// Takes a bundle that an SVID needs.
    pub trust: Arc<Trust>,
    /// Authorities that no bundle has.
    pub unknown: Mutex<Unknown>,
}

/// Batches of one lane go one after the other; lanes go side by side.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Lane {
    Waiting,
    Ahead,
    Renewal,
}

impl Lane {
    fn of(reason: Reason) -> Self {
        match reason {
            Reason::Wanted => Self::Waiting,
            Reason::Missing => Self::Ahead,
            Reason::Distrusted | Reason::Outdated | Reason::Expiring => Self::Renewal,
        }
    }
}

/// Shortest time between two plans; the first of a quiet time comes at once.
const ROUND_GAP: Duration = Duration::from_millis(10);

/// What the loop remembers between rounds.
#[derive(Debug)]
struct Progress {
    size: BatchSize,
    lanes: HashMap<Lane, u32>,
    under_way: HashMap<Lane, Vec<EntryId>>,
    /// Entries that are not asked for before their time, with the failures in a row.
    paused: HashMap<EntryId, (Instant, u32)>,
    batches: JoinSet<Batch>,
    tolerance: Tolerance,
}

impl Progress {
    /// A server answers after none did: nothing that failed waits any longer.
    fn resume(&mut self, place: f64) {
        let soon = Instant::now() + RESUME_WITHIN.mul_f64(place);
        self.paused
            .values_mut()
            .filter(|(_, failures)| *failures > 0)
            .for_each(|(until, _)| *until = soon.min(*until));
    }
}

/// What the server issued, or why it did not, by entry.
type Results = Vec<(Arc<EntrySlot>, Result<HeldSvid, String>)>;

/// A batch that ended.
#[derive(Debug)]
struct Batch {
    lane: Lane,
    outcome: Result<Results, Status>,
}

impl IssueLoop {
    /// Issues until `cancel`.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Infallible> {
        let this = Arc::new(self);
        cancel.run_until_cancelled(this.live()).await;
        Ok(())
    }

    async fn live(self: &Arc<Self>) {
        let mut serving = self.status.watch();
        if serving.wait_for(|status| status.phase == Phase::Serving).await.is_err() {
            return;
        }
        let mut changes = self.identities.watch();
        let mut progress = Progress {
            size: BatchSize::new(MAX_BATCH),
            lanes: HashMap::new(),
            under_way: HashMap::new(),
            paused: HashMap::new(),
            batches: JoinSet::new(),
            tolerance: Tolerance::default(),
        };
        let (mut next_round, mut life) = (Instant::now(), self.client.signs_of_life());
        loop {
            // A plan looks at every entry; callers that ask again and again must not keep a core busy with it.
            tokio::time::sleep_until(next_round).await;
            next_round = Instant::now() + ROUND_GAP;
            changes.mark_unchanged();
            let now = self.clock.unix_now();
            let plan = self.plan(now, &mut progress);
            self.evict(&plan.evict);
            self.start_batches(&plan, &mut progress);
            let pause = pause(now, &plan, &progress);
            tokio::select! {
                Some(ended) = progress.batches.join_next() => self.ended(ended, &mut progress),
                () = self.identities.asked() => {}
                Ok(()) = changes.changed() => {}
                () = sleep(pause) => {}
                Ok(()) = life.changed() => progress.resume(self.client.jitter()),
            }
        }
    }

    fn plan(&self, now: i64, progress: &mut Progress) -> Plan {
        let instant = Instant::now();
        let snapshot = self.identities.load();
        // A pause outlives its end for a while, so that failures in a row are counted.
        progress.paused.retain(|id, (until, _)| {
            *until + FORGET_FAILURES_AFTER > instant && snapshot.index.get(id.as_str()).is_some()
        });
        let paused = progress.paused.iter().filter(|(_, (until, _))| *until > instant).map(|(id, _)| id);
        self.renewals.hold_back(progress.paused.iter().map(|(id, (_, failures))| {
            (id.clone(), if *failures > 0 { HeldBack::Failing } else { HeldBack::Limited })
        }));
        let busy: HashSet<_> = progress.under_way.values().flatten().chain(paused).cloned().collect();
        let distrust = snapshot.bundles.as_ref().map(|bundles| Distrust::of(&bundles.own.bundle));
        let distrust = distrust.unwrap_or_default();
        progress.tolerance.observe(&distrust, &snapshot.svids, &self.metrics);
        let view = View {
            index: &snapshot.index,
            svids: &snapshot.svids,
            busy: &busy,
            distrust: &distrust,
            tolerated: &progress.tolerance.tolerated(instant),
            limit: self.limit,
        };
        plan(now, view)
    }

    fn evict(&self, ids: &[EntryId]) {
        if ids.is_empty() {
            return;
        }
        self.identities.edit(|snapshot| {
            let svids = Arc::make_mut(&mut snapshot.svids);
            let before = svids.len();
            for id in ids {
                svids.remove(id);
            }
            svids.len() != before
        });
        debug!(count = ids.len(), "Removing SVID record");
    }

    fn start_batches(self: &Arc<Self>, plan: &Plan, progress: &mut Progress) {
        let count = |reason| plan.asks.iter().filter(|ask| ask.reason == reason).count();
        self.metrics.renewals(count(Reason::Expiring), count(Reason::Outdated));
        for lane in [Lane::Waiting, Lane::Ahead, Lane::Renewal] {
            if progress.under_way.contains_key(&lane) {
                continue;
            }
            let asks: Vec<Ask> = plan
                .asks
                .iter()
                .filter(|ask| Lane::of(ask.reason) == lane)
                .take(progress.size.get())
                .cloned()
                .collect();
            if asks.is_empty() {
                continue;
            }
            if asks.iter().any(|ask| ask.reason == Reason::Distrusted) {
                self.metrics.repaired(Repair::ReplaceDistrusted);
            }
            progress.under_way.insert(lane, asks.iter().map(|ask| ask.slot.entry.id.clone()).collect());
            let this = Arc::clone(self);
            progress.batches.spawn(async move { Batch { lane, outcome: this.request(asks).await } });
        }
    }

    async fn request(&self, asks: Vec<Ask>) -> Result<Results, Status> {
        let start = Instant::now();
        for ask in &asks {
            let (entry_id, spiffe_id) = (&ask.slot.entry.id, &ask.slot.entry.spiffe_id);
            match ask.expires_at {
                None => info!(%entry_id, %spiffe_id, "Creating X509-SVID"),
                Some(expires_at) => info!(%entry_id, %spiffe_id, expires_at, "Renewing X509-SVID"),
            }
        }
        let outcome = self.request_timed(asks).await;
        let status = outcome.as_ref().map_or_else(|status| status_name(status.code()), |_| "OK");
        self.metrics.fetch_svids().observe(&[], status, start.elapsed());
        outcome
    }

    async fn request_timed(&self, asks: Vec<Ask>) -> Result<Results, Status> {
        let key_type = self.key_type;
        let due = asks.iter().map(|ask| ask.expires_at.unwrap_or(0)).min().unwrap_or(0);
        // Keys and signatures take the processor: hundreds of them do not belong between two network events.
        let prepared = blocking::run(move || prepare(asks, key_type))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(Status::internal)?;
        let requests =
            prepared.iter().map(|ready| (ready.slot.entry.id.to_string(), ready.csr.clone())).collect();
        let results = self.client.new_x509_svids(requests, due).await?;
        let now = self.clock.unix_now();
        // Agents with the same entries renew at different times.
        let place = self.status.watch().borrow().id.as_ref().map(ToString::to_string).unwrap_or_default();
        let results: Results = prepared
            .into_iter()
            .zip(results)
            .map(|(ready, result)| {
                let slot = Arc::clone(&ready.slot);
                let held = match result {
                    Ok(svid) => accept(ready, &svid, now, (&place, self.policy)),
                    Err(status) => Err(shown(&status)),
                };
                (slot, held)
            })
            .collect();
        self.await_bundle(&results, patience(due, now)).await;
        Ok(results)
    }

    fn ended(&self, ended: Result<Batch, JoinError>, progress: &mut Progress) {
        let Batch { lane, outcome } = match ended {
            Ok(batch) => batch,
            Err(error) => {
                error!(%error, "a batch of SVIDs ended badly");
                // Which one is not known any more: let all lanes go on.
                progress.under_way.clear();
                return;
            }
        };
        let ids = progress.under_way.remove(&lane).unwrap_or_default();
        match outcome {
            Ok(results) => {
                progress.size.grow();
                progress.lanes.remove(&lane);
                self.renewals.answered(results.iter().filter(|(_, result)| result.is_ok()).count());
                self.take(results, progress);
            }
            Err(status) => {
                progress.size.shrink();
                error!(error = shown(&status), count = ids.len(), "SVID sync failed");
                self.denials.hear(&status);
                // Too much at once is slow, which the rate shows.
                if status.code() != Code::ResourceExhausted {
                    self.renewals.failed();
                }
                self.metrics.retried(Retry::Issue);
                let failures = progress.lanes.entry(lane).or_default();
                let until = Instant::now() + self.client.wait_after(&status, *failures);
                *failures += 1;
                self.notes.not_issued(&ids, &Failure::of(&status), until);
                let max = if status.code() == Code::ResourceExhausted { 0 } else { *failures };
                progress.paused.extend(ids.into_iter().map(|id| (id, (until, max))));
            }
        }
    }

    fn take(&self, results: Results, progress: &mut Progress) {
        let now = self.clock.unix_now();
        let mut accepted = Vec::new();
        for (slot, result) in results {
            let id = &slot.entry.id;
            let failures = progress.paused.get(id).map_or(0, |(_, failures)| *failures);
            match result {
                Ok(svid) => {
                    match svid.lifetime.standing(now) {
                        Standing::Good => progress.paused.remove(id),
                        // Issued, and due already: the two clocks differ. Asking at once would be asking for ever.
                        _ => progress.paused.insert(id.clone(), (Instant::now() + REISSUE_GAP, failures)),
                    };
                    debug!(entry_id = %id, spiffe_id = %slot.entry.spiffe_id, "SVID updated");
                    self.notes.issued(id);
                    self.notes.issued_at(svid.lifetime.not_before, svid.lifetime.received_at);
                    progress.tolerance.received(svid.authority_key_id.as_deref(), Instant::now());
                    accepted.push((id.clone(), Arc::new(svid)));
                }
                Err(error) => {
                    warn!(entry_id = %id, spiffe_id = %slot.entry.spiffe_id, error, "the server did not issue an X.509-SVID");
                    let until = Instant::now() + retry_backoff().delay(failures, self.client.jitter());
                    self.notes.not_issued([id], &Failure::new(Code::Unknown, &error), until);
                    progress.paused.insert(id.clone(), (until, failures.saturating_add(1)));
                }
            }
        }
        self.identities.edit(|snapshot| put(snapshot, accepted));
        let count = self.identities.load().svids.len();
        self.metrics.svids_held(count);
        self.status.set(|status| status.x509_svids = count);
    }
}

/// Puts SVIDs in whose entry still means the same identity.
fn put(snapshot: &mut Snapshot, accepted: Vec<(EntryId, Arc<HeldSvid>)>) -> bool {
    let index = Arc::clone(&snapshot.index);
    let mut changed = false;
    for (id, svid) in accepted {
        if index.get(id.as_str()).is_some_and(|slot| slot.entry.spiffe_id == svid.spiffe_id) {
            Arc::make_mut(&mut snapshot.svids).insert(id, svid);
            changed = true;
        }
    }
    changed
}

fn pause(now: i64, plan: &Plan, progress: &Progress) -> Duration {
    let due = plan.next_due.map_or(TICK, |due| Duration::from_secs(u64::try_from(due - now).unwrap_or(0)));
    let instant = Instant::now();
    let resumed = progress.paused.values().map(|(until, _)| until.saturating_duration_since(instant));
    let resumed = resumed.filter(|left| !left.is_zero()).min().unwrap_or(TICK);
    due.min(resumed).clamp(MIN_PAUSE, TICK)
}

/// SVIDs asked for in one call: what a server signs for one agent in a second.
const MAX_BATCH: usize = 500;

/// Needs are looked at at least this often: the wall clock may jump.
const TICK: Duration = Duration::from_secs(5);

/// What waited for a server begins within this time after one answers.
const RESUME_WITHIN: Duration = Duration::from_millis(500);

/// Needs that fall due one by one are asked for together.
const MIN_PAUSE: Duration = Duration::from_millis(250);

/// Shortest time between two SVIDs for one entry.
const REISSUE_GAP: Duration = Duration::from_secs(5);

/// An entry that was not asked for for so long has no failures in a row.
const FORGET_FAILURES_AFTER: Duration = Duration::from_secs(60);
