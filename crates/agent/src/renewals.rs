//! How getting X.509-SVIDs goes, as the issue loop sees it: what got through lately, whether the last batch failed, and
//! which entries wait because the server refused them. Read when a scraper asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_types::entry::EntryId;

use crate::forecast::{BEHIND_AFTER, Capacity};

/// See the module.
#[derive(Debug)]
pub struct Renewals {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    /// SVIDs that came, by slot; the oldest is overwritten.
    came: [(u64, u64); SLOTS as usize],
    /// The last batch failed.
    broken: bool,
    held_back: Arc<HashMap<EntryId, HeldBack>>,
}

/// Why an entry is not asked for now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeldBack {
    /// The server said that it is too much at once.
    Limited,
    /// The server did not issue.
    Failing,
}

impl Default for Renewals {
    fn default() -> Self {
        let state = State {
            start: Instant::now(),
            came: [(0, 0); SLOTS as usize],
            broken: false,
            held_back: Arc::default(),
        };
        Self { state: Mutex::new(state) }
    }
}

impl Renewals {
    /// The server answered a batch, with `count` SVIDs.
    pub fn answered(&self, count: usize) {
        let mut state = self.lock();
        state.broken = false;
        let number = state.slot_number(Instant::now());
        if let Some(slot) = state.came.get_mut((number % SLOTS) as usize) {
            if slot.0 != number {
                *slot = (number, 0);
            }
            slot.1 += count as u64;
        }
    }

    /// A batch failed as a whole.
    pub fn failed(&self) {
        self.lock().broken = true;
    }

    /// These entries are not asked for now. Bounded by the entries.
    pub fn hold_back(&self, entries: impl Iterator<Item = (EntryId, HeldBack)>) {
        let held_back = Arc::new(entries.collect());
        self.lock().held_back = held_back;
    }

    /// The entries that are not asked for now. Whoever looks at them takes its time: renewing goes on meanwhile.
    #[must_use]
    pub fn held_back(&self) -> Arc<HashMap<EntryId, HeldBack>> {
        Arc::clone(&self.lock().held_back)
    }

    /// How fast it goes.
    #[must_use]
    pub fn speed(&self) -> Speed {
        let state = self.lock();
        Speed { start: state.start, came: state.came, broken: state.broken, now: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot_number(&self, now: Instant) -> u64 {
        slot_number(self.start, now)
    }
}

/// How fast renewing goes at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    start: Instant,
    came: [(u64, u64); SLOTS as usize],
    broken: bool,
    now: Instant,
}

impl Speed {
    /// How many renewals get through, when the one that is due for longest has been so for `behind`.
    #[must_use]
    pub fn capacity(&self, behind: Duration) -> Capacity {
        if self.broken {
            return Capacity::None;
        }
        if behind <= BEHIND_AFTER {
            return Capacity::Ample;
        }
        // What came while there was no backlog says how much was asked for and not how much gets through.
        let slots = (behind.as_secs() / SLOT.as_secs()).min(SLOTS - 1);
        let first = slot_number(self.start, self.now).saturating_sub(slots).max(1);
        let came: u64 = self.came.iter().filter(|(number, _)| *number >= first).map(|(_, count)| count).sum();
        let since = self.start + Duration::from_secs((first - 1) * SLOT.as_secs());
        let seconds = self.now.saturating_duration_since(since).as_secs_f64().max(1.0);
        Capacity::PerSecond(came as f64 / seconds)
    }
}

/// Counts from 1, so that an empty slot is none.
fn slot_number(start: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(start).as_secs() / SLOT.as_secs() + 1
}

/// The rate is that of the last five minutes, or since the backlog began if that is later.
const SLOTS: u64 = 30;
const SLOT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn per_second(renewals: &Renewals, behind: u64) -> f64 {
        match renewals.speed().capacity(Duration::from_secs(behind)) {
            Capacity::PerSecond(rate) => rate,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn renewing_fails_from_a_failed_batch_to_the_next_that_is_answered() {
        let renewals = Renewals::default();
        assert_eq!(renewals.speed().capacity(Duration::ZERO), Capacity::Ample);
        renewals.failed();
        assert_eq!(renewals.speed().capacity(Duration::ZERO), Capacity::None);
        renewals.answered(0);
        assert_eq!(renewals.speed().capacity(Duration::ZERO), Capacity::Ample);
    }

    #[test]
    fn renewing_goes_on_while_somebody_looks_at_what_is_held_back() {
        let renewals = Renewals::default();
        let refused = || std::iter::once((EntryId::parse("a").unwrap(), HeldBack::Failing));
        renewals.hold_back(refused());
        let looking = renewals.held_back();
        renewals.hold_back(std::iter::empty());
        renewals.answered(1);
        assert_eq!((looking.len(), renewals.held_back().len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_counts_only_once_there_is_a_backlog_and_follows_what_is_recent() {
        let renewals = Renewals::default();
        let second = || tokio::time::advance(Duration::from_secs(1));
        renewals.answered(5_000);
        for _ in 0..600 {
            second().await;
            renewals.answered(2);
        }
        assert_eq!(renewals.speed().capacity(Duration::from_secs(30)), Capacity::Ample);
        let rate = per_second(&renewals, 400);
        assert!((1.9..=2.1).contains(&rate), "{rate}");
        for _ in 0..100 {
            second().await;
            renewals.answered(20);
        }
        let rate = per_second(&renewals, 60);
        assert!((19.0..=21.0).contains(&rate), "only since the backlog began: {rate}");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(per_second(&renewals, 900), 0.0);
    }
}
