//! Quantiles of what was observed lately, in bounded memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Observations that come in one by one. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Summary(Arc<Mutex<Window>>);

/// What a summary has to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    /// One value per entry of [`QUANTILES`]; NaN when nothing was observed lately.
    pub(crate) quantiles: [f64; QUANTILES.len()],
    /// The sum of all observations ever.
    pub(crate) sum: f64,
    /// The number of all observations ever.
    pub(crate) count: u64,
}

/// The quantiles that are given.
pub(crate) const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// The window of the quantiles is this many slots; the oldest is dropped when a new one begins.
const SLOTS: u64 = 5;
const SLOT: Duration = Duration::from_secs(2);

/// Each bucket is wider than the one below by this factor. Its middle is then at most 2 % off.
const GROWTH: f64 = 1.04;
/// Observations outside this range count as the nearest end of it, which bounds the buckets to about 1,200.
const LEAST: f64 = 1e-9;
const MOST: f64 = 1e12;

#[derive(Debug)]
struct Window {
    start: Instant,
    slots: [Slot; SLOTS as usize],
    sum: f64,
    count: u64,
}

/// Counts per bucket, ascending. Sparse: a series has a handful of buckets in use.
#[derive(Debug, Default)]
struct Slot {
    number: u64,
    buckets: Vec<(i16, u32)>,
}

/// The bucket of observations of zero and below.
const ZERO: i16 = i16::MIN;

impl Summary {
    pub(crate) fn new() -> Self {
        let slots = std::array::from_fn(|_| Slot::default());
        Self(Arc::new(Mutex::new(Window { start: Instant::now(), slots, sum: 0.0, count: 0 })))
    }

    /// Adds one observation. One that is not a number is ignored.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = bucket_of(value);
        let now = Instant::now();
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        window.sum += value;
        window.count += 1;
        let number = window.slot_number(now);
        if let Some(slot) = window.slots.get_mut((number % SLOTS) as usize) {
            slot.add(number, bucket);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (sum, count) = (window.sum, window.count);
        let recent = window.recent(now);
        drop(window);
        Snapshot { quantiles: QUANTILES.map(|at| quantile(&recent, at)), sum, count }
    }
}

impl Window {
    fn slot_number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / SLOT.as_secs()
    }

    fn recent(&self, now: Instant) -> Vec<(i16, u32)> {
        let current = self.slot_number(now);
        let fresh = self.slots.iter().filter(|slot| slot.number + SLOTS > current);
        let mut all: Vec<_> = fresh.flat_map(|slot| slot.buckets.iter().copied()).collect();
        all.sort_unstable();
        all
    }
}

impl Slot {
    fn add(&mut self, number: u64, bucket: i16) {
        if self.number != number {
            self.number = number;
            self.buckets.clear();
        }
        match self.buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(at) => {
                if let Some((_, count)) = self.buckets.get_mut(at) {
                    *count = count.saturating_add(1);
                }
            }
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
    }
}

fn bucket_of(value: f64) -> i16 {
    if value <= 0.0 {
        return ZERO;
    }
    // At most ln(1e12) / ln(1.04) = 705 either way, which an i16 holds.
    (value.clamp(LEAST, MOST).ln() / GROWTH.ln()).floor() as i16
}

/// The middle of a bucket in ratio: its error is the same, `sqrt(GROWTH)`, at both ends.
fn value_of(bucket: i16) -> f64 {
    if bucket == ZERO { 0.0 } else { GROWTH.powf(f64::from(bucket) + 0.5) }
}

fn quantile(sorted: &[(i16, u32)], at: f64) -> f64 {
    let total: u64 = sorted.iter().map(|(_, count)| u64::from(*count)).sum();
    let rank = ((total as f64 * at).ceil() as u64).max(1);
    let mut seen = 0;
    for (bucket, count) in sorted {
        seen += u64::from(*count);
        if seen >= rank {
            return value_of(*bucket);
        }
    }
    f64::NAN
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn an_idle_summary_forgets_its_quantiles_and_keeps_its_totals() {
        let summary = Summary::new();
        assert!(summary.snapshot().quantiles[0].is_nan());
        summary.observe(4.0);
        summary.clone().observe(6.0);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(summary.snapshot().quantiles.iter().all(|value| !value.is_nan()));
        tokio::time::advance(Duration::from_secs(3)).await;
        let snapshot = summary.snapshot();
        assert!(snapshot.quantiles.iter().all(|value| value.is_nan()));
        assert_eq!((snapshot.sum, snapshot.count), (10.0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_quantiles_follow_what_is_recent() {
        let summary = Summary::new();
        for second in 0..60 {
            summary.observe(if second < 30 { 1_000.0 } else { 1.0 });
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let worst = summary.snapshot().quantiles[2];
        assert!((0.98..=1.02).contains(&worst), "{worst}");
    }

    #[tokio::test(start_paused = true)]
    async fn odd_values_do_no_harm() {
        let summary = Summary::new();
        for value in [f64::NAN, 0.0, -1.0, f64::MIN_POSITIVE, 1e300] {
            summary.observe(value);
        }
        let snapshot = summary.snapshot();
        assert_eq!(snapshot.count, 4);
        assert_eq!(snapshot.quantiles[0], 0.0);
        assert!(snapshot.quantiles[2] > 0.9 * MOST);
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_two_percent_off(values in prop::collection::vec(1e-6_f64..1e9, 1..300)) {
            let summary = Summary::new();
            for value in &values {
                summary.observe(*value);
            }
            let mut sorted = values;
            sorted.sort_unstable_by(f64::total_cmp);
            for (at, estimate) in QUANTILES.iter().zip(summary.snapshot().quantiles) {
                let rank = (sorted.len() as f64 * at).ceil() as usize;
                let exact = sorted[rank.max(1) - 1];
                prop_assert!((estimate / exact - 1.0).abs() <= 0.02, "{at}: {estimate} for {exact}");
            }
        }
    }
}
