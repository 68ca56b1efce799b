//! What is held and who waits for what, and how both change. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::PATIENCE;
use super::trouble::{Trouble, Unreadable};
use crate::attest::k8s::index::{Answer, Index, Sought};
use crate::attest::k8s::schedule::Schedule;

/// What [`super::Known`] knows.
#[derive(Debug)]
pub(super) struct State {
    pub(super) held: Arc<Index>,
    /// When the list that is held was asked for.
    pub(super) asked: Option<Instant>,
    pub(super) schedule: Schedule,
    pub(super) waiting: HashMap<Sought, Waiting>,
    /// Containers that no list had when they were last waited for.
    pub(super) strangers: HashMap<Sought, Stranger>,
    /// Somebody was given an answer that is not quite fresh.
    pub(super) refresh: bool,
    pub(super) running: bool,
    /// Since when the kubelet has been asked without an answer.
    pub(super) silent_since: Option<Instant>,
    pub(super) trouble: Option<Trouble>,
    pub(super) unreadable: Unreadable,
}

/// A container that somebody waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    found: watch::Sender<Option<Answer>>,
    waiters: usize,
    /// Lists that did not have it.
    looked_through: u32,
}

/// A container that no list had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger {
    pub(super) looked_through: u32,
    /// It was waited for to the end: it is no Pod's, as far as is known.
    pub(super) given_up: bool,
    /// Until when this is believed.
    until: Instant,
}

impl State {
    /// Nothing is known, and nobody waits.
    pub(super) fn new(schedule: Schedule) -> Self {
        Self {
            held: Arc::default(),
            asked: None,
            schedule,
            waiting: HashMap::new(),
            strangers: HashMap::new(),
            refresh: false,
            running: false,
            silent_since: None,
            trouble: None,
            unreadable: Unreadable::default(),
        }
    }

    /// Counts one more who waits for `sought`.
    pub(super) fn wait_for(&mut self, sought: &Sought) -> Option<watch::Receiver<Option<Answer>>> {
        if self.waiting.len() >= MAX_WAITED_FOR && !self.waiting.contains_key(sought) {
            return None;
        }
        let stranger = self.strangers.get(sought);
        let waiting = self.waiting.entry(sought.clone()).or_insert_with(|| Waiting {
            found: watch::Sender::new(None),
            waiters: 0,
            looked_through: stranger.map_or(0, |stranger| stranger.looked_through),
        });
        waiting.waiters += 1;
        Some(waiting.found.subscribe())
    }

    /// One who waited for `sought` does not any more.
    pub(super) fn leave(&mut self, sought: &Sought, now: Instant) {
        let Entry::Occupied(mut waiting) = self.waiting.entry(sought.clone()) else { return };
        waiting.get_mut().waiters -= 1;
        if waiting.get().waiters > 0 {
            return;
        }
        let left = waiting.remove();
        if left.found.borrow().is_none() && left.looked_through > 0 {
            self.remember(sought, left.looked_through, false, now);
        }
    }

    /// `sought` was waited for to the end, and no list had it.
    pub(super) fn give_up(&mut self, sought: &Sought, now: Instant) {
        let looked_through = self.waiting.get(sought).map_or(0, |waiting| waiting.looked_through);
        self.remember(sought, looked_through, true, now);
    }

    /// Whether `sought` was given up not long ago.
    pub(super) fn is_no_pods(&self, sought: &Sought, now: Instant) -> bool {
        self.strangers.get(sought).is_some_and(|stranger| stranger.given_up && now < stranger.until)
    }

    /// Forgets containers that were last waited for long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.strangers.retain(|_, stranger| now < stranger.until);
    }

    /// Remembers that no list had `sought`.
    pub(super) fn remember(&mut self, sought: &Sought, looked_through: u32, given_up: bool, now: Instant) {
        if self.strangers.len() >= MAX_STRANGERS && !self.strangers.contains_key(sought) {
            let oldest = self.strangers.iter().min_by_key(|(_, stranger)| stranger.until);
            if let Some(oldest) = oldest.map(|(sought, _)| sought.clone()) {
                self.strangers.remove(&oldest);
            }
        }
        let until = now + STRANGER_LIFETIME;
        let stranger =
            self.strangers.entry(sought.clone()).or_insert(Stranger { looked_through, given_up, until });
        stranger.looked_through = stranger.looked_through.max(looked_through);
        stranger.given_up |= given_up;
        stranger.until = until;
    }

    /// How old the list is that is held.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.asked.map_or(Duration::MAX, |asked| now - asked)
    }

    /// Whether the kubelet has been silent for too long to wait for it.
    pub(super) fn hangs(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now >= since + PATIENCE)
    }

    /// When to ask the kubelet next, if anything is wanted.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let waiting = self.waiting.values().filter(|waiting| waiting.found.borrow().is_none());
        let looked_through = waiting.map(|waiting| waiting.looked_through);
        self.schedule.next(looked_through, self.refresh, now)
    }

    /// Takes over a list, and wakes those whose containers it has.
    pub(super) fn take(&mut self, index: Index, asked: Instant, pod_is_enough: bool) {
        self.held = Arc::new(index);
        self.asked = Some(asked);
        for (sought, waiting) in &mut self.waiting {
            match self.held.find(sought, pod_is_enough) {
                Answer::Unlisted => waiting.looked_through = waiting.looked_through.saturating_add(1),
                answer => {
                    self.strangers.remove(sought);
                    drop(waiting.found.send_replace(Some(answer)));
                }
            }
        }
    }
}

/// For how long a container is believed to be no Pod's.
const STRANGER_LIFETIME: Duration = Duration::from_secs(300);

/// Such containers that are remembered. Above it the one that was last waited for the longest ago is forgotten.
pub(super) const MAX_STRANGERS: usize = 1024;

/// Containers that are waited for. Above it a caller is refused; it tries again.
pub(super) const MAX_WAITED_FOR: usize = 4096;
