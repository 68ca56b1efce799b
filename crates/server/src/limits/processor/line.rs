//! The line before the processor. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{PATIENCE, Urgency};

/// Who waits, the most urgent first. Pure.
#[derive(Debug)]
pub(super) struct Line<T> {
    pub(super) waiting: BTreeMap<Place, (Urgency, T, Instant)>,
    arrivals: u64,
    pub(super) weight: u64,
}

/// Due, then order of arrival.
pub(super) type Place = (i64, u64);

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), arrivals: 0, weight: 0 }
    }

    pub(super) fn join(&mut self, urgency: Urgency, who: T, now: Instant) -> Place {
        self.arrivals += 1;
        let place = (urgency.due, self.arrivals);
        self.weight += u64::from(urgency.weight);
        let until = now + urgency.patience;
        self.waiting.insert(place, (urgency, who, until));
        place
    }

    pub(super) fn first(&mut self) -> Option<(Urgency, T)> {
        let (_, (urgency, who, _)) = self.waiting.pop_first()?;
        self.weight -= u64::from(urgency.weight);
        Some((urgency, who))
    }

    pub(super) fn leave(&mut self, place: Place) -> Option<(Urgency, T)> {
        let (urgency, who, _) = self.waiting.remove(&place)?;
        self.weight -= u64::from(urgency.weight);
        Some((urgency, who))
    }

    /// Those whose turn comes too late if a signature takes `cost`, and how long the line was with them.
    pub(super) fn turn_away(&mut self, cost: Duration, now: Instant) -> (Vec<(Urgency, T)>, Duration) {
        let time = |weight: u64| cost.saturating_mul(u32::try_from(weight).unwrap_or(u32::MAX));
        let backlog = time(self.weight);
        let mut late = Vec::new();
        // A line that is worked off sooner than anybody loses patience is none to refuse anybody for.
        if backlog > PATIENCE / 2 {
            let mut before = 0;
            for (place, (urgency, _, until)) in &self.waiting {
                let through = before + u64::from(urgency.weight);
                if now + time(through) > *until {
                    late.push(*place);
                } else {
                    before = through;
                }
            }
        }
        let mut away: Vec<_> = late.into_iter().filter_map(|place| self.leave(place)).collect();
        while self.waiting.len() > MAX_LINE
            && let Some(place) = self.waiting.keys().next_back().copied()
        {
            away.extend(self.leave(place));
        }
        (away, backlog)
    }
}

/// When somebody who was turned away has reason to come back: all of them over the time that the line takes, and as long
/// after it, each at a place of its own.
pub(super) fn delay(backlog: Duration, spread: f64) -> Duration {
    backlog.max(MIN_DELAY).mul_f64(0.5 + spread).clamp(MIN_DELAY, MAX_DELAY)
}

/// Most calls in the line.
pub(super) const MAX_LINE: usize = 4_096;
/// Longest time that a refused caller is told to wait.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(30);
pub(super) const MIN_DELAY: Duration = Duration::from_millis(500);
