//! Tells agents what changed for them, at once (`vouchsafe.server.v1.Revisions`).
//!
//! One task compares each snapshot of the read model with the one before, finds out [whom that concerns](concern), and
//! leaves these agents a note; their streams are polled by the connections that they are on. What a note is about is read
//! from the newest snapshot when it is sent. So a note is a set and never a queue: what happens in between is merged, and
//! an agent that reads slowly misses no state, only states in between.
//!
//! What an agent costs while nothing changes is its note, one timer for its heartbeat, and no task. A change that concerns many
//! is spread over time ([`PER_SECOND`]), so that their questions do not come at once; one that concerns few is told at once, and
//! goes ahead of it. An agent is told of changes at most every [`GAP`].

pub(crate) mod audience;
pub(crate) mod concern;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vouchsafe_proto::convert::bundle_to_proto;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::{Counter, Gauge, Registry as Metrics};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::model::{ReadModel, Snapshot};
use audience::Audience;
use concern::{Difference, News, concerned};

/// A change that concerns so many agents is told to all of them at once.
const FEW: usize = 64;
/// Agents per second that are told of a change that concerns more.
const PER_SECOND: u32 = 4_000;
/// Shortest time between two changes that one agent is told of.
pub(crate) const GAP: Duration = Duration::from_millis(50);
/// Entries that expire are noticed after this long.
const EXPIRY_TICK: Duration = Duration::from_secs(1);

/// Who listens, and what each has to be told.
pub(crate) struct Revisions {
    listeners: Mutex<Listeners>,
    bundles: Mutex<HashMap<TrustDomain, (Arc<Bundle>, Bytes)>>,
    streams: Gauge,
    told: Counter,
}

#[derive(Default)]
struct Listeners {
    audience: Audience,
    notes: HashMap<SpiffeId, Arc<Note>>,
}

/// What one stream has to tell.
#[derive(Debug)]
pub(crate) struct Note(Mutex<Content>);

#[derive(Debug)]
struct Content {
    news: News,
    /// When the news may be told, if there are any.
    at: Option<Instant>,
    not_before: Instant,
    replaced: bool,
    waker: Option<Waker>,
}

/// What a stream does now.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Tell this.
    Tell(News),
    /// Come again then, or when woken.
    Later(Instant),
    /// Come again when woken.
    Nothing,
    /// End: the agent has a newer stream.
    Replaced,
}

/// A stream's place among the listeners; dropping it leaves.
pub(crate) struct Listening {
    agent: SpiffeId,
    note: Arc<Note>,
    revisions: Arc<Revisions>,
}

impl Revisions {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            listeners: Mutex::default(),
            bundles: Mutex::default(),
            streams: metrics.gauge("vouchsafe_push_streams", &[]),
            told: metrics.counter("vouchsafe_push_changes", &[]),
        }
    }

    /// `agent` listens from now on, and has everything to be told. Its earlier stream ends.
    pub(crate) fn listen(self: &Arc<Self>, agent: &Agent) -> Listening {
        let note = Arc::new(Note::new(Instant::now()));
        let mut listeners = self.lock();
        listeners.audience.put(&agent.id, &agent.selectors);
        let earlier = listeners.notes.insert(agent.id.clone(), note.clone());
        self.streams.set(listeners.notes.len() as f64);
        drop(listeners);
        if let Some(earlier) = earlier {
            earlier.replace();
        }
        Listening { agent: agent.id.clone(), note, revisions: self.clone() }
    }

    /// What stands for `bundle` towards agents: another value for another bundle.
    pub(crate) fn bundle_revision(&self, bundle: &Arc<Bundle>) -> Bytes {
        let mut held = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, revision)) = held.get(&bundle.trust_domain)
            && Arc::ptr_eq(same, bundle)
        {
            return revision.clone();
        }
        let hash = digest(&SHA256, &bundle_to_proto(bundle, None).encode_to_vec());
        let revision = Bytes::copy_from_slice(&hash.as_ref()[..16]);
        held.insert(bundle.trust_domain.clone(), (bundle.clone(), revision.clone()));
        revision
    }

    /// Whether the agent holds a stream.
    pub(crate) fn listens(&self, agent: &SpiffeId) -> bool {
        self.lock().notes.contains_key(agent)
    }

    /// Counts one message that tells of changes.
    pub(crate) fn count(&self) {
        self.told.inc();
    }

    fn notify(&self, difference: &Difference, snapshots: (&Snapshot, &Snapshot), own: &TrustDomain) {
        let mut listeners = self.lock();
        let mut moved = HashSet::new();
        for agent in difference.agents.iter().filter_map(|id| snapshots.1.agents.get(id)) {
            if listeners.audience.get(&agent.id).is_some()
                && listeners.audience.put(&agent.id, &agent.selectors)
            {
                moved.insert(agent.id.clone());
            }
        }
        let told = concerned(difference, snapshots, (&listeners.audience, &moved), own);
        let (now, many) = (Instant::now(), told.len() > FEW);
        for (place, (agent, news)) in (0..).zip(&told) {
            let wait = if many { Duration::from_secs(1) * place / PER_SECOND } else { Duration::ZERO };
            if let Some(note) = listeners.notes.get(agent) {
                note.add(news, now + wait);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Note {
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Content {
            news: News::everything(),
            at: Some(now),
            not_before: now,
            replaced: false,
            waker: None,
        }))
    }

    /// Adds `news`, to be told at `at` or soon after.
    fn add(&self, news: &News, at: Instant) {
        let mut content = self.lock();
        content.news.add(news);
        let at = at.max(content.not_before);
        content.at = Some(content.at.map_or(at, |before| before.min(at)));
        content.wake();
    }

    fn replace(&self) {
        let mut content = self.lock();
        content.replaced = true;
        content.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Listening {
    /// What to do at `now`. `waker` is woken when that may be something else.
    pub(crate) fn turn(&self, now: Instant, waker: &Waker) -> Turn {
        let mut content = self.note.lock();
        if content.replaced {
            return Turn::Replaced;
        }
        if content.at.is_some_and(|at| at <= now) {
            content.at = None;
            content.not_before = now + GAP;
            return Turn::Tell(std::mem::take(&mut content.news));
        }
        match &content.waker {
            Some(held) if held.will_wake(waker) => {}
            _ => content.waker = Some(waker.clone()),
        }
        content.at.map_or(Turn::Nothing, Turn::Later)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.revisions.lock();
        if listeners.notes.get(&self.agent).is_some_and(|note| Arc::ptr_eq(note, &self.note)) {
            listeners.notes.remove(&self.agent);
            listeners.audience.remove(&self.agent);
            self.revisions.streams.set(listeners.notes.len() as f64);
        }
    }
}

/// The task that finds out whom changes concern.
pub(crate) struct Notifier {
    revisions: Arc<Revisions>,
    model: Arc<ReadModel>,
    own: TrustDomain,
    clock: Clock,
    held: Arc<Snapshot>,
    /// Entries that will expire, soonest first.
    expiring: BTreeSet<(i64, EntryId)>,
}

impl Notifier {
    /// To be made before anybody listens: it tells of all changes from now on.
    pub(crate) fn new(
        revisions: Arc<Revisions>,
        model: Arc<ReadModel>,
        own: TrustDomain,
        clock: Clock,
    ) -> Self {
        let held = model.load();
        let expiring = held.entries.after(None).filter_map(|entry| expiry(entry)).collect();
        Self { revisions, model, own, clock, held, expiring }
    }

    /// Runs until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.model.watch();
        loop {
            changes.mark_unchanged();
            self.look();
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(EXPIRY_TICK), if !self.expiring.is_empty() => {}
            }
        }
    }

    /// Tells of what changed since the last look.
    fn look(&mut self) {
        let now = self.model.load();
        let mut difference = Difference::between(&self.held, &now);
        for (then, now) in &difference.entries {
            if let Some(then) = then {
                self.expiring.remove(&(then.expires_at, then.id.clone()));
            }
            self.expiring.extend(now.as_ref().and_then(|now| expiry(now)));
        }
        let time = self.clock.unix_now();
        while self.expiring.first().is_some_and(|(end, _)| *end < time) {
            let expired = self.expiring.pop_first().and_then(|(_, id)| now.entries.get(id.as_str()).cloned());
            difference.entries.push((expired, None));
        }
        if !difference.is_empty() {
            self.revisions.notify(&difference, (&self.held, &now), &self.own);
        }
        self.held = now;
    }
}

fn expiry(entry: &Entry) -> Option<(i64, EntryId)> {
    (entry.expires_at != 0).then(|| (entry.expires_at, entry.id.clone()))
}

#[cfg(test)]
mod tests;
