//! How good a server is, as a number: 1 answers at once and always, 0 never. Pure.
//!
//! score = (1 − trouble) / (1 + latency / [`HALF_SPEED`])
//!
//! * **Trouble** is 0 to 1: the worse of two. Each failure takes away half of what is left of the server's good name, so n
//!   failures in a row leave 0.5ⁿ of it. An answer halves the trouble, and so does time without news: a server that was
//!   bad is tried again one day, and one that was good is not left for one lost packet for long.
//!   * *Reaching it*: no connection. A server that says that it is busy loses an eighth. Any answer helps. [`FORGET`] halves it.
//!   * *One kind of call* ([`Kind`]): no answer in time, or one that says that the server is broken. Only an answer to that
//!     kind of call helps: a server that cannot sign is of no use, however well it answers everything else. [`FORGET_KIND`]
//!     halves it, and twice as much time after each relapse, so that a server that stays broken is tried ever more rarely.
//!     What all servers fail says nothing about one of them: of each kind, only what is more than the least counts.
//! * **Latency** is a moving average over calls of one kind (`GetBundle`), whichever server they go to: the time of a
//!   call that fetches ten thousand entries says nothing about the server beside it that was asked for none.
//! * A server that nobody has spoken to has the score [`UNKNOWN`]: good enough to be tried, not to be preferred.
//!
//! A score never rises with the server's own latency or failures, and never falls with time while another server fails nothing.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of one server's behaviour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    latency: Option<Duration>,
    reach: Trouble,
    kinds: [Trouble; KINDS],
    /// 0 to 1, another one for each agent and server: those who left together do not come back together.
    place: f64,
}

/// A kind of call, which a server may fail although it answers others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `GetBundle`
    Bundle,
    /// `GetFederatedBundle`
    FederatedBundle,
    /// `SyncAuthorizedEntries`
    Entries,
    /// `BatchNewX509SVID`
    X509,
    /// `NewJWTSVID`
    Jwt,
    /// `AttestAgent`
    Attestation,
    /// `RenewAgent`
    Renewal,
    /// `PostStatus`
    Status,
    /// `Revisions/Watch`
    Revisions,
}

const KINDS: usize = Kind::Revisions as usize + 1;

/// How bad something was when it was last heard of.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    amount: f64,
    at: Option<Instant>,
    /// What was heard then was bad.
    failed: bool,
    /// How often in a row it came back after it was nearly forgotten.
    relapses: u32,
}

/// What one call says of the server that it went to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It answered, whatever it answered.
    Answered,
    /// It answered that there is too much to do at the moment.
    Busy,
    /// It was reached, and the call was of no use.
    Broken,
    /// It was not reached.
    Failed,
}

impl Trouble {
    fn now(&self, now: Instant, half_life: Duration) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.amount * 0.5_f64.powf(age.as_secs_f64() / half_life.as_secs_f64())
    }

    fn grow(&mut self, share: f64, now: Instant, half_life: Duration) {
        let before = self.now(now, half_life);
        if self.failed && before < RELAPSE {
            self.relapses = (self.relapses + 1).min(MAX_RELAPSES);
        }
        (self.amount, self.at, self.failed) = (1.0 - (1.0 - before) * (1.0 - share), Some(now), true);
    }

    fn shrink(&mut self, now: Instant, half_life: Duration) {
        (self.amount, self.at) = (self.now(now, half_life) / 2.0, Some(now));
        (self.failed, self.relapses) = (false, 0);
    }
}

impl Evidence {
    /// Of a server whose place, 0 to 1, differs between agents.
    #[must_use]
    pub fn at_place(place: f64) -> Self {
        Self { place, ..Self::default() }
    }

    /// Of the same server, as if nobody had spoken to it.
    #[must_use]
    pub fn forgotten(&self) -> Self {
        Self::at_place(self.place)
    }

    /// One more call.
    pub fn observe(&mut self, kind: Kind, verdict: Verdict, now: Instant) {
        let place = self.place;
        let of_kind = self.kinds.get_mut(kind as usize);
        match verdict {
            Verdict::Answered => {
                of_kind.into_iter().for_each(|trouble| trouble.shrink(now, forget_kind(place, trouble)));
                self.reach.shrink(now, FORGET);
            }
            Verdict::Busy => self.reach.grow(0.125, now, FORGET),
            Verdict::Broken => {
                of_kind.into_iter().for_each(|trouble| trouble.grow(0.5, now, forget_kind(place, trouble)));
            }
            Verdict::Failed => self.reach.grow(0.5, now, FORGET),
        }
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

    fn of_kinds(&self, now: Instant) -> [f64; KINDS] {
        self.kinds.map(|trouble| trouble.now(now, forget_kind(self.place, &trouble)))
    }

    fn score(&self, now: Instant, least: &[f64; KINDS]) -> f64 {
        let of_kinds = self.of_kinds(now);
        let above = of_kinds.iter().zip(least).map(|(trouble, least)| trouble - least);
        let good_name = 1.0 - above.fold(self.reach.now(now, FORGET), f64::max);
        match self.latency {
            None => good_name * UNKNOWN,
            Some(latency) => good_name / (1.0 + latency.as_secs_f64() / HALF_SPEED.as_secs_f64()),
        }
    }
}

fn forget_kind(place: f64, trouble: &Trouble) -> Duration {
    FORGET_KIND.mul_f64(0.75 + 0.5 * place) * (1 << trouble.relapses)
}

/// The score of each of these servers, compared with each other; see the module.
#[must_use]
pub fn scores(all: &[Evidence], now: Instant) -> Vec<f64> {
    let least = all.iter().map(|evidence| evidence.of_kinds(now)).reduce(|mut least, other| {
        least.iter_mut().zip(other).for_each(|(least, other)| *least = least.min(other));
        least
    });
    let least = least.unwrap_or_default();
    all.iter().map(|evidence| evidence.score(now, &least)).collect()
}

/// A server that takes this long has half the score of one that takes no time.
pub const HALF_SPEED: Duration = Duration::from_millis(100);

/// The score of a server that nobody has spoken to.
pub const UNKNOWN: f64 = 0.9;

/// Half of the trouble to reach a server is forgotten after so long without news.
pub const FORGET: Duration = Duration::from_secs(120);

/// Half of the trouble with one kind of call, a quarter more or less. A server that fails one and is not in use is not asked
/// for it, so nothing but time speaks for it.
pub const FORGET_KIND: Duration = Duration::from_secs(300);

/// What fails with less trouble left than this was nearly forgotten.
const RELAPSE: f64 = 0.25;

/// [`FORGET_KIND`] is doubled so many times.
const MAX_RELAPSES: u32 = 4;

/// What one sample counts in the average.
const WEIGHT: f64 = 0.3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict() -> impl Strategy<Value = Verdict> {
        use Verdict::*;
        prop_oneof![Just(Answered), Just(Busy), Just(Broken), Just(Failed)]
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Bundle), Just(Kind::X509), Just(Kind::Revisions)]
    }

    fn history() -> impl Strategy<Value = Vec<((Kind, Verdict), u64)>> {
        prop::collection::vec(((kind(), verdict()), 0_u64..600_000), 0..40)
    }

    fn after(history: &[((Kind, Verdict), u64)], start: Instant) -> (Evidence, Instant) {
        let (mut evidence, mut now) = (Evidence::default(), start);
        for ((kind, verdict), wait) in history {
            now += Duration::from_millis(*wait);
            evidence.observe(*kind, *verdict, now);
        }
        (evidence, now)
    }

    /// Beside a server that never failed.
    fn score(evidence: &Evidence, now: Instant) -> f64 {
        scores(&[*evidence, Evidence::default()], now)[0]
    }

    #[test]
    fn the_examples_of_the_documentation() {
        let now = Instant::now();
        let check = |latency: u64, failures: usize, expected: f64| {
            let mut evidence = Evidence::default();
            evidence.observe_latency(Duration::from_millis(latency));
            (0..failures).for_each(|_| evidence.observe(Kind::Bundle, Verdict::Failed, now));
            let score = score(&evidence, now);
            assert!((score - expected).abs() < 0.005, "{latency} ms, {failures} failures: {score}");
        };
        check(1, 0, 0.99);
        check(25, 0, 0.80);
        check(100, 0, 0.50);
        check(5_000, 0, 0.02);
        check(1, 1, 0.495);
        check(1, 3, 0.124);
        assert!((score(&Evidence::default(), now) - UNKNOWN).abs() < 1e-9);
    }

    #[test]
    fn a_server_that_is_back_is_as_good_as_the_others_after_a_few_answers_and_not_after_one() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.observe_latency(Duration::from_millis(1));
        (0..10).for_each(|_| evidence.observe(Kind::X509, Verdict::Failed, now));
        evidence.observe(Kind::Bundle, Verdict::Answered, now);
        assert!(score(&evidence, now) < 0.6);
        (0..3).for_each(|_| evidence.observe(Kind::Bundle, Verdict::Answered, now));
        assert!(score(&evidence, now) > 0.9);
    }

    #[test]
    fn a_server_that_fails_one_kind_of_call_is_not_redeemed_by_answers_to_others() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.observe(Kind::X509, Verdict::Broken, now);
        (0..100).for_each(|_| evidence.observe(Kind::Entries, Verdict::Answered, now));
        assert!(score(&evidence, now) < 0.5);
        (0..3).for_each(|_| evidence.observe(Kind::X509, Verdict::Answered, now));
        assert!(score(&evidence, now) > 0.8);
    }

    #[test]
    fn what_all_servers_fail_hides_nothing_and_is_held_against_none() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        (0..20).for_each(|_| evidence.observe(Kind::FederatedBundle, Verdict::Broken, now));
        let mut gone = evidence;
        gone.observe(Kind::Bundle, Verdict::Failed, now);
        let scores = scores(&[evidence, evidence, gone], now);
        assert!(scores[0] == UNKNOWN && scores[1] == UNKNOWN && scores[2] < 0.5, "{scores:?}");
    }

    #[test]
    fn a_server_that_stays_broken_is_tried_ever_more_rarely() {
        let mut now = Instant::now();
        let mut evidence = Evidence::default();
        let mut waits = Vec::new();
        for _ in 0..7 {
            evidence.observe(Kind::X509, Verdict::Broken, now);
            let start = now;
            while score(&evidence, now) < UNKNOWN - 0.15 {
                now += Duration::from_secs(10);
            }
            waits.push((now - start).as_secs() / 60);
        }
        assert!(waits[0] >= 5 && waits.iter().zip(&waits[1..]).all(|(one, next)| one <= next), "{waits:?}");
        assert!((60..=180).contains(&waits[6]), "{waits:?}");
    }

    proptest! {
        #[test]
        fn it_is_between_0_and_1_and_never_falls_with_time(
            history in history(),
            latency in prop::option::of(0_u64..100_000),
            (soon, later) in (0_u64..3_600_000, 0_u64..3_600_000),
        ) {
            let (mut evidence, now) = after(&history, Instant::now());
            if let Some(latency) = latency {
                evidence.observe_latency(Duration::from_millis(latency));
            }
            let at = |wait| score(&evidence, now + Duration::from_millis(wait));
            prop_assert!((0.0..=1.0).contains(&at(0)));
            prop_assert!(at(soon) <= at(soon + later) + 1e-12);
            // After hours without news nothing is left of any failure.
            let full = evidence.latency().map_or(UNKNOWN, |mean| {
                1.0 / (1.0 + mean.as_secs_f64() / HALF_SPEED.as_secs_f64())
            });
            prop_assert!((at(48 * 3_600_000) - full).abs() < 0.001);
        }

        #[test]
        fn it_never_rises_with_latency(samples in prop::collection::vec(0_u64..10_000, 1..20), more in 1_u64..10_000) {
            let with = |last: u64| {
                let mut evidence = Evidence::default();
                samples.iter().for_each(|sample| evidence.observe_latency(Duration::from_millis(*sample)));
                evidence.observe_latency(Duration::from_millis(last));
                score(&evidence, Instant::now())
            };
            prop_assert!(with(samples[0] + more) < with(samples[0]));
        }

        #[test]
        fn a_failure_never_helps_and_an_answer_never_hurts(history in history(), kind in kind()) {
            let (evidence, now) = after(&history, Instant::now());
            let with = |verdict| {
                let mut evidence = evidence;
                evidence.observe(kind, verdict, now);
                // Not what a relapse does to the time that is still to come.
                score(&evidence, now)
            };
            let before = score(&evidence, now);
            prop_assert!(with(Verdict::Failed) <= with(Verdict::Busy) && with(Verdict::Busy) <= before);
            prop_assert!(with(Verdict::Broken) <= before);
            prop_assert!(with(Verdict::Answered) >= before);
        }
    }
}
