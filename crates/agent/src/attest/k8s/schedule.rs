//! When the kubelet is asked the next time. Pure.
//!
//! The kubelet has no way to say that its list has changed (`/pods` cannot be watched), so the only event there is, is
//! the arrival of a list, and the question is when to ask for one:
//!
//! * never, while nobody waits and nothing that is in use is stale;
//! * at once, for a container that no list was looked through for yet, but no sooner than the interval (500 ms) after the
//!   request before began: so at most two requests a second, whatever the number of workloads;
//! * for one that was not in the lists that came meanwhile, after the interval for 8 lists, then twice, then four times
//!   as long for 8 each, then after [`MAX_GAP`]: it is probably no Pod's;
//! * while requests fail, after a time that doubles up to [`MAX_GAP`].

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    last_start: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Requests begin `interval` apart or more.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, last_start: None, failures: 0 }
    }

    /// A request begins.
    pub fn began(&mut self, now: Instant) {
        self.last_start = Some(now);
    }

    /// It ended.
    pub fn ended(&mut self, well: bool) {
        self.failures = if well { 0 } else { self.failures.saturating_add(1) };
    }

    /// When to ask next. `looked_through` has, for each container that is waited for, the number of lists that did not
    /// have it; `refresh` says that a newer list is wanted for what is known.
    pub fn next(
        &self,
        looked_through: impl IntoIterator<Item = u32>,
        refresh: bool,
        now: Instant,
    ) -> Option<Instant> {
        let fewest = looked_through.into_iter().min();
        let gap = match (refresh, fewest) {
            (false, None) => return None,
            (true, _) | (false, Some(..FIRST)) => self.interval,
            (false, Some(FIRST..SECOND)) => self.interval.saturating_mul(2),
            (false, Some(SECOND..THIRD)) => self.interval.saturating_mul(4),
            (false, Some(_)) => self.interval.saturating_mul(4).max(MAX_GAP),
        };
        let Some(last) = self.last_start else { return Some(now) };
        let failing = self.interval.saturating_mul(1 << self.failures.min(5)).min(MAX_GAP.max(self.interval));
        let gap = if self.failures > 0 { failing } else { gap };
        Some((last + gap).max(now))
    }
}

/// Lists after which a container is looked for half as often, a quarter as often, and every [`MAX_GAP`].
const FIRST: u32 = 8;
const SECOND: u32 = 16;
const THIRD: u32 = 24;

/// The longest time between requests that fail, or that are for a container that is probably no Pod's.
pub const MAX_GAP: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);

    fn after(schedule: &Schedule, looked_through: &[u32], refresh: bool, start: Instant) -> Option<Duration> {
        schedule.next(looked_through.iter().copied(), refresh, start).map(|at| at - start)
    }

    #[tokio::test]
    async fn the_kubelet_is_asked_at_once_and_then_at_most_twice_a_second() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        assert_eq!(after(&schedule, &[], false, start), None, "nobody wants anything");
        assert_eq!(after(&schedule, &[0], false, start), Some(Duration::ZERO));
        schedule.began(start);
        schedule.ended(true);
        assert_eq!(after(&schedule, &[], false, start), None);
        assert_eq!(after(&schedule, &[], true, start), Some(INTERVAL));
        assert_eq!(after(&schedule, &[7; 1000], false, start), Some(INTERVAL));
        let later = start + INTERVAL * 3;
        assert_eq!(after(&schedule, &[0], false, later), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn what_no_list_has_is_looked_for_less_often() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        schedule.began(start);
        schedule.ended(true);
        assert_eq!(after(&schedule, &[8, 40], false, start), Some(INTERVAL * 2));
        assert_eq!(after(&schedule, &[16], false, start), Some(INTERVAL * 4));
        assert_eq!(after(&schedule, &[24], false, start), Some(MAX_GAP));
        assert_eq!(after(&schedule, &[16, 0], false, start), Some(INTERVAL), "a new one is no less urgent");
    }

    #[tokio::test]
    async fn a_kubelet_that_fails_is_asked_ever_less_often_and_an_answer_ends_that() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        schedule.began(start);
        let gaps: Vec<_> = (0..6)
            .map(|_| {
                schedule.ended(false);
                after(&schedule, &[0], true, start).unwrap().as_millis()
            })
            .collect();
        assert_eq!(gaps, [1000, 2000, 4000, 5000, 5000, 5000]);
        schedule.ended(true);
        assert_eq!(after(&schedule, &[0], true, start), Some(INTERVAL));
    }
}
