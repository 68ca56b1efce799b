//! The loop: look at everything, start what has to be done, wait until something happens.

mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;
use vouchsafe_cluster::{ClusterError, Events, Leadership, LeaseState};
use vouchsafe_store::Position;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use super::board::{Board, Count};
use super::decide::{Now, Step, TAKE_OVER, Track};
use super::delays::Delays;
use super::desired::{self, Texts};
use super::eyes::{Changes, Eyes, Sighting};
use super::object::{Access, Object, Target};
use super::publisher::Setup;
use super::reports::Reports;
use super::sight::Held;
use crate::model::ReadModel;
use crate::status::Chain;

/// What a round needs of its cluster.
pub(super) struct Parts {
    pub(super) eyes: Eyes,
    pub(super) leadership: Leadership,
    pub(super) access: Access,
    pub(super) events: Events,
}

/// The state of the loop.
pub(super) struct Round {
    setup: Setup,
    delays: Delays,
    eyes: Eyes,
    leadership: Leadership,
    access: Arc<Access>,
    board: Board,
    reports: Reports,
    work: JoinSet<Done>,
    running: HashMap<Object, Id>,
    tracks: BTreeMap<Object, Track>,
    /// Why the last attempt failed.
    causes: BTreeMap<Object, String>,
    /// Objects that are not watched: what was found, and when.
    looked: HashMap<Object, (Held, Instant)>,
    bundle: Option<Arc<Bundle>>,
    texts: Texts,
    /// Whether something waits for a look at the database.
    is_asking: bool,
    began: Instant,
    was_in_place: bool,
}

/// What ended.
enum Done {
    Looked { object: Object, found: Result<Held, ClusterError> },
    Wrote { object: Object, over: Held, outcome: Result<(), ClusterError>, took: Duration },
}

impl Round {
    pub(super) fn new(setup: Setup, delays: Delays, parts: Parts) -> Self {
        let Parts { eyes, leadership, access, events } = parts;
        let cluster = setup.publication.cluster.clone();
        Self {
            delays,
            eyes,
            leadership,
            access: Arc::new(access),
            board: Board::new(setup.metrics.clone(), setup.clock.clone(), &setup.publication),
            reports: Reports { cluster, events },
            setup,
            work: JoinSet::new(),
            running: HashMap::new(),
            tracks: BTreeMap::new(),
            causes: BTreeMap::new(),
            looked: HashMap::new(),
            bundle: None,
            texts: Texts::default(),
            is_asking: false,
            began: Instant::now(),
            was_in_place: false,
        }
    }

    pub(super) async fn run(&mut self, changes: &mut Changes, cancel: &CancellationToken) {
        let mut position = self.setup.model.watch();
        let mut looks = self.setup.confirmed.done();
        loop {
            // Before the bundle is read: it has what these looks found.
            let done = *looks.borrow_and_update();
            self.follow_bundle();
            let next = self.reconcile(Instant::now(), done);
            let held = (&*self.setup.model, &self.setup.trust_domain, self.bundle.as_ref());
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(ended) = self.work.join_next_with_id() => self.ended(ended),
                () = another_bundle(&mut position, held) => {}
                Some(()) = changes.next() => {}
                Ok(()) = looks.changed(), if self.is_asking => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Takes up the bundle that the model has now.
    fn follow_bundle(&mut self) {
        let bundle = self.setup.model.load().bundles.get(&self.setup.trust_domain).cloned();
        let (Some(bundle), held) = (bundle, &self.bundle) else { return };
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &bundle)) {
            return;
        }
        self.texts = desired::texts(&bundle, &self.setup.publication);
        for cause in self.texts.malformed() {
            error!(error = %Chain(cause), "Cannot write the trust bundle in its form");
        }
        (self.bundle, self.was_in_place) = (Some(bundle), false);
    }

    /// Looks at every object, starts what has to be done, and says when to look again.
    fn reconcile(&mut self, at: Instant, done: u64) -> Instant {
        let now = self.setup.clock.now();
        let sightings = self.eyes.sightings(now);
        self.is_asking = false;
        self.forget_all_but(&sightings);
        let mut counts: BTreeMap<Target, Count> = BTreeMap::new();
        for (target, complete) in self.eyes.targets(now) {
            counts.insert(target, Count { complete, ..Count::default() });
        }
        let mut next = at + IDLE;
        for sighting in sightings {
            let count = counts.entry(sighting.object.target()).or_default();
            count.objects += 1;
            if let Some(again) = self.advance(sighting, (at, done)) {
                count.behind += 1;
                next = next.min(again);
            }
        }
        for (target, count) in &counts {
            self.board.count(*target, *count);
        }
        self.tell(&counts, at);
        next.min(self.looked.values().map(|(_, found)| *found + LOOK_EVERY).min().unwrap_or(next))
    }

    /// Does what is next for one object; `None` if it is in place, otherwise when to look again.
    fn advance(&mut self, sighting: Sighting, (at, done): (Instant, u64)) -> Option<Instant> {
        let Sighting { object, shape, held } = sighting;
        let busy = self.running.len() >= MAX_CALLS || self.running.contains_key(&object);
        let track = self.tracks.entry(object.clone()).or_default();
        let looked = self.looked.get(&object).filter(|(_, found)| at < *found + LOOK_EVERY);
        let watched = held.filter(|watched| track.trusts(watched, at));
        let Some(held) = watched.or_else(|| looked.map(|(held, _)| held.clone())) else {
            match track.not_before().filter(|not_before| *not_before > at) {
                Some(not_before) => return Some(not_before),
                None if busy => {}
                None => self.look(object),
            }
            return Some(at + IDLE);
        };
        let wanted = match self.texts.of(shape) {
            Ok(wanted) => wanted.clone(),
            Err(lacking) => {
                self.causes.insert(object, Chain(lacking).to_string());
                return Some(at + IDLE);
            }
        };
        let leads = matches!(self.leadership.state(), LeaseState::Held | LeaseState::Forbidden);
        let now = Now { at, leads, begun: self.setup.confirmed.begun(), done };
        if busy && !held.has(wanted.digest) {
            return Some(at + IDLE);
        }
        match track.decide(&held, wanted.digest, now) {
            Step::InPlace => {
                self.causes.remove(&object);
                None
            }
            Step::Wait(until) => Some(until),
            Step::Confirm => {
                self.is_asking = true;
                self.setup.confirmed.ask();
                Some(at + TAKE_OVER)
            }
            Step::Write { corrects } => {
                if corrects {
                    self.board.corrected(object.target());
                    self.reports.corrects(&object, &held.uid);
                }
                self.write(object, held, wanted.text);
                Some(at + IDLE)
            }
        }
    }

    fn look(&mut self, object: Object) {
        let access = self.access.clone();
        let key = object.clone();
        let task = self.work.spawn(async move {
            let found = access.look(&object).await;
            Done::Looked { object, found }
        });
        self.running.insert(key, task.id());
    }

    fn write(&mut self, object: Object, over: Held, text: Arc<str>) {
        let access = self.access.clone();
        let key = object.clone();
        let task = self.work.spawn(async move {
            let began = Instant::now();
            let outcome = access.write(&object, &over, &text).await;
            Done::Wrote { object, over, outcome, took: began.elapsed() }
        });
        self.running.insert(key, task.id());
    }

    fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let at = Instant::now();
        match ended {
            Ok((_, Done::Looked { object, found })) => {
                self.running.remove(&object);
                match found {
                    Ok(held) => drop(self.looked.insert(object, (held, at))),
                    Err(cause) => self.failed(object, "", &cause),
                }
            }
            Ok((_, Done::Wrote { object, over, outcome, took })) => {
                self.running.remove(&object);
                self.board.wrote(object.target(), &outcome, took);
                // Not watched: only another look shows what is there now.
                self.looked.remove(&object);
                match outcome {
                    Ok(()) => {
                        let track = self.tracks.entry(object.clone()).or_default();
                        self.reports.written(&object, track.failures());
                        self.causes.remove(&object);
                        track.written(over, at);
                    }
                    Err(cause) => self.failed(object, &over.uid, &cause),
                }
            }
            Err(failed) => {
                if failed.is_panic() {
                    error!(error = %failed, "Writing the trust bundle panicked");
                }
                self.running.retain(|_, id| *id != failed.id());
            }
        }
    }

    fn failed(&mut self, object: Object, uid: &str, cause: &ClusterError) {
        let track = self.tracks.entry(object.clone()).or_default();
        let wait = self.delays.after(cause, track.failures(), self.setup.entropy.fraction());
        track.failed(Instant::now() + wait);
        self.reports.failed(&object, uid, (cause, track.failures()));
        self.causes.insert(object, Chain(cause).to_string());
    }

    fn forget_all_but(&mut self, sightings: &[Sighting]) {
        let there: BTreeSet<&Object> = sightings.iter().map(|sighting| &sighting.object).collect();
        self.tracks.retain(|object, _| there.contains(object));
        self.causes.retain(|object, _| there.contains(object));
        self.looked.retain(|object, _| there.contains(object));
    }
}

/// Waits until the model has another bundle than `held`. Most changes of the model are about something else.
async fn another_bundle(
    position: &mut watch::Receiver<Position>,
    (model, trust_domain, held): (&ReadModel, &TrustDomain, Option<&Arc<Bundle>>),
) {
    while position.changed().await.is_ok() {
        let snapshot = model.load();
        let is_same = match (snapshot.bundles.get(trust_domain), held) {
            (Some(newest), Some(held)) => Arc::ptr_eq(newest, held),
            (newest, _) => newest.is_none(),
        };
        if !is_same {
            return;
        }
    }
    std::future::pending().await
}

/// Calls to the API server at the same time. What is due beyond them waits for one to end.
const MAX_CALLS: usize = 8;
/// Longest sleep of the loop.
const IDLE: Duration = Duration::from_secs(10);
/// How old may be what is known of an object that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_secs(30);
