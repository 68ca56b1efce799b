//! How good a server is, as a number: 1 answers at once and always, 0 never. Pure.
//!
//! score = (1 − [trouble](Evidence::trouble)) / (1 + latency / [`HALF_SPEED`])
//!
//! * **Trouble** is 0 to 1. Each failure (no connection, no answer in time, an answer that says that the server is broken)
//!   takes away half of what is left of the server's good name, so n failures in a row leave 0.5ⁿ of it. A server that says
//!   that it is busy loses an eighth. An answer halves the trouble, and so does [`FORGET`] without news: a server that was
//!   bad is tried again one day, and one that was good is not left for one lost packet for long.
//! * **Latency** is a moving average over calls of one kind (`GetBundle`), whichever server they go to: the time of a
//!   call that fetches ten thousand entries says nothing about the server beside it that was asked for none.
//! * A server that nobody has spoken to has the score [`UNKNOWN`]: good enough to be tried, not to be preferred.
//!
//! The score never rises with latency or failures, and never falls with time.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of one server's behaviour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    latency: Option<Duration>,
    /// As it was at `at`.
    trouble: f64,
    at: Option<Instant>,
}

/// What one call says of the server that it went to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It answered, whatever it answered.
    Answered,
    /// It answered that there is too much to do at the moment.
    Busy,
    /// It did not answer, or it is broken.
    Failed,
}

impl Evidence {
    /// One more call.
    pub fn observe(&mut self, verdict: Verdict, now: Instant) {
        let trouble = self.trouble(now);
        self.trouble = match verdict {
            Verdict::Answered => trouble / 2.0,
            Verdict::Busy => 1.0 - (1.0 - trouble) * 0.875,
            Verdict::Failed => 1.0 - (1.0 - trouble) / 2.0,
        };
        self.at = Some(now);
    }

    /// How long a call took that can be compared between servers.
    pub fn observe_latency(&mut self, sample: Duration) {
        self.latency = Some(match self.latency {
            None => sample,
            Some(mean) => mean.mul_f64(1.0 - WEIGHT) + sample.mul_f64(WEIGHT),
        });
    }

    /// The moving average, if there was a sample.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// What is left of its failures.
    #[must_use]
    pub fn trouble(&self, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.trouble * 0.5_f64.powf(age.as_secs_f64() / FORGET.as_secs_f64())
    }

    /// See the module.
    #[must_use]
    pub fn score(&self, now: Instant) -> f64 {
        let good_name = 1.0 - self.trouble(now);
        match self.latency {
            None => good_name * UNKNOWN,
            Some(latency) => good_name / (1.0 + latency.as_secs_f64() / HALF_SPEED.as_secs_f64()),
        }
    }
}

/// A server that takes this long has half the score of one that takes no time.
pub const HALF_SPEED: Duration = Duration::from_millis(100);

/// The score of a server that nobody has spoken to.
pub const UNKNOWN: f64 = 0.9;

/// Half of the trouble is forgotten after so long without news.
pub const FORGET: Duration = Duration::from_secs(120);

/// What one sample counts in the average.
const WEIGHT: f64 = 0.3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![Just(Verdict::Answered), Just(Verdict::Busy), Just(Verdict::Failed)]
    }

    fn after(history: &[(Verdict, u64)], start: Instant) -> (Evidence, Instant) {
        let (mut evidence, mut now) = (Evidence::default(), start);
        for (verdict, wait) in history {
            now += Duration::from_millis(*wait);
            evidence.observe(*verdict, now);
        }
        (evidence, now)
    }

    #[test]
    fn the_examples_of_the_documentation() {
        let now = Instant::now();
        let check = |latency: u64, failures: usize, expected: f64| {
            let mut evidence = Evidence::default();
            evidence.observe_latency(Duration::from_millis(latency));
            (0..failures).for_each(|_| evidence.observe(Verdict::Failed, now));
            let score = evidence.score(now);
            assert!((score - expected).abs() < 0.005, "{latency} ms, {failures} failures: {score}");
        };
        check(1, 0, 0.99);
        check(25, 0, 0.80);
        check(100, 0, 0.50);
        check(5_000, 0, 0.02);
        check(1, 1, 0.495);
        check(1, 3, 0.124);
        assert!((Evidence::default().score(now) - UNKNOWN).abs() < 1e-9);
    }

    #[test]
    fn a_server_that_is_back_is_as_good_as_the_others_after_a_few_answers_and_not_after_one() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.observe_latency(Duration::from_millis(1));
        (0..10).for_each(|_| evidence.observe(Verdict::Failed, now));
        evidence.observe(Verdict::Answered, now);
        assert!(evidence.score(now) < 0.6);
        (0..3).for_each(|_| evidence.observe(Verdict::Answered, now));
        assert!(evidence.score(now) > 0.9);
    }

    proptest! {
        #[test]
        fn it_is_between_0_and_1_and_never_falls_with_time(
            history in prop::collection::vec((verdict(), 0_u64..600_000), 0..40),
            latency in prop::option::of(0_u64..100_000),
            (soon, later) in (0_u64..3_600_000, 0_u64..3_600_000),
        ) {
            let (mut evidence, now) = after(&history, Instant::now());
            if let Some(latency) = latency {
                evidence.observe_latency(Duration::from_millis(latency));
            }
            let at = |wait| evidence.score(now + Duration::from_millis(wait));
            prop_assert!((0.0..=1.0).contains(&at(0)));
            prop_assert!(at(soon) <= at(soon + later) + 1e-12);
            // After hours without news nothing is left of any failure.
            let full = evidence.latency().map_or(UNKNOWN, |mean| {
                1.0 / (1.0 + mean.as_secs_f64() / HALF_SPEED.as_secs_f64())
            });
            prop_assert!((at(12 * 3_600_000) - full).abs() < 0.001);
        }

        #[test]
        fn it_never_rises_with_latency(samples in prop::collection::vec(0_u64..10_000, 1..20), more in 1_u64..10_000) {
            let score = |last: u64| {
                let mut evidence = Evidence::default();
                samples.iter().for_each(|sample| evidence.observe_latency(Duration::from_millis(*sample)));
                evidence.observe_latency(Duration::from_millis(last));
                evidence.score(Instant::now())
            };
            prop_assert!(score(samples[0] + more) < score(samples[0]));
        }

        #[test]
        fn a_failure_never_helps_and_an_answer_never_hurts(
            history in prop::collection::vec((verdict(), 0_u64..600_000), 0..40),
        ) {
            let (evidence, now) = after(&history, Instant::now());
            let with = |verdict| {
                let mut evidence = evidence;
                evidence.observe(verdict, now);
                evidence.score(now)
            };
            let before = evidence.score(now);
            prop_assert!(with(Verdict::Failed) <= with(Verdict::Busy) && with(Verdict::Busy) <= before);
            prop_assert!(with(Verdict::Answered) >= before);
        }
    }
}
