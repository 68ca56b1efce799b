//! How often something took how long, in fixed buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long something took, by [`BUCKETS`]. What several processes counted adds up, which quantiles of a
/// [`Summary`](super::Summary) do not. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// One for each of [`BUCKETS`], and one for what took longer. Each counts its own range only.
    ranges: [AtomicU64; BUCKETS.len() + 1],
    /// Overflows after 584 years of waiting.
    nanos: AtomicU64,
}

/// What a histogram has to say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Snapshot {
    /// For each of [`BUCKETS`]: how many took at most that long.
    pub(super) cumulative: [u64; BUCKETS.len()],
    pub(super) count: u64,
    /// In seconds.
    pub(super) sum: f64,
}

/// Upper ends of the buckets, in seconds. One list for all: it has the limits that are promised (20 ms, 50 ms, 100 ms) and
/// reaches from an answer out of memory to a call that runs into its deadline.
pub const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Histogram {
    /// It took `elapsed` once.
    pub fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let at = BUCKETS.partition_point(|end| *end < seconds);
        if let Some(range) = self.0.ranges.get(at) {
            range.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many were observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.ranges.iter().map(|range| range.load(Ordering::Relaxed)).sum()
    }

    /// Counts that agree with each other, whoever observes meanwhile; the sum may be that of a moment later.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut cumulative = [0; BUCKETS.len()];
        let (longer, ranges) = self.0.ranges.split_last().unzip();
        for (range, sum) in ranges.into_iter().flatten().zip(&mut cumulative) {
            count += range.load(Ordering::Relaxed);
            *sum = count;
        }
        count += longer.map_or(0, |longer| longer.load(Ordering::Relaxed));
        let sum = Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)).as_secs_f64();
        Snapshot { cumulative, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_takes_exactly_as_long_as_a_bucket_allows_is_in_it() {
        let histogram = Histogram::default();
        for millis in [20, 21, 60_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        let within = |end: f64| snapshot.cumulative[BUCKETS.iter().position(|known| *known == end).unwrap()];
        assert_eq!([within(0.01), within(0.02), within(0.05), within(10.0)], [0, 1, 2, 2]);
        assert_eq!((snapshot.count, snapshot.sum), (3, 60.041));
        assert_eq!(histogram.count(), 3);
    }

    proptest! {
        #[test]
        fn each_bucket_counts_all_that_took_at_most_as_long(
            micros in prop::collection::vec(0_u64..20_000_000, 0..100),
        ) {
            let histogram = Histogram::default();
            for micros in &micros {
                histogram.observe(Duration::from_micros(*micros));
            }
            let snapshot = histogram.snapshot();
            for (end, counted) in BUCKETS.iter().zip(snapshot.cumulative) {
                let exact = micros.iter().filter(|micros| **micros as f64 / 1e6 <= *end).count();
                prop_assert_eq!(counted, exact as u64);
            }
            prop_assert_eq!(snapshot.count, micros.len() as u64);
        }
    }
}
