//! What to do about one object now. Pure: what is seen, what is wanted and the time come in, a step comes out.
//!
//! An object that lacks the bundle gets it at once. Three things make a write wait:
//!
//! * *It failed*: the next attempt comes after a delay that grows, drawn once.
//! * *Somebody else changed what was right*: it is put right, but [`CORRECTIONS`] times at once and then once in
//!   [`CORRECTION_EVERY`], so that two writers who disagree do not fill the API server's history.
//! * *Another server leads*: it writes. If the object still lacks the bundle after [`TAKE_OVER`], this one does: the leader
//!   may hang, or may not have heard of the newest authority.
//!
//! Another value may be newer than what this server has: another one wrote it and this one has not heard of it. So it is
//! written over only when a look at the database that began after the value was first seen has ended. With a database that
//! is away, nothing that appears is written over.
//!
//! What is watched may stand still, when the right to watch is lost. An accepted write that is not seen after [`SETTLE`]
//! shows that: from then on the object itself is asked, until the watch shows something else.

use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_runtime::budget::Budget;

use super::sight::{Digest, Held};

/// What is remembered of one object.
#[derive(Debug)]
pub(super) struct Track {
    failures: u32,
    not_before: Option<Instant>,
    in_place: Option<Digest>,
    wrote_over: Option<(Held, Instant)>,
    behind_since: Option<Instant>,
    /// What is there, and the number of the look at the database that had begun when it was first seen.
    seen: Option<(Vec<Digest>, u64)>,
    /// What the watch shows although a write over it was accepted.
    outdated: Option<Held>,
    corrections: Budget,
}

/// What holds for all objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    /// Whether this server is the one that writes.
    pub(super) leads: bool,
    /// The look at the database that began last.
    pub(super) begun: u64,
    /// The last look whose findings the wanted bundle has.
    pub(super) done: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing: it is as it should be.
    InPlace,
    /// Look again, at this time or when something changes.
    Wait(Instant),
    /// Look at the database first: what is there may be newer.
    Confirm,
    /// Write it; `corrects` if somebody else has changed what was right.
    Write { corrects: bool },
}

impl Default for Track {
    fn default() -> Self {
        Self {
            failures: 0,
            not_before: None,
            in_place: None,
            wrote_over: None,
            behind_since: None,
            seen: None,
            outdated: None,
            corrections: Budget::new(1.0 / CORRECTION_EVERY.as_secs_f64(), CORRECTIONS, true),
        }
    }
}

impl Track {
    /// Decides about an object that holds `held` and should hold `wanted`.
    pub(super) fn decide(&mut self, held: &Held, wanted: Digest, now: Now) -> Step {
        let is_confirmed = self.see(held, now);
        if held.has(wanted) {
            self.failures = 0;
            (self.not_before, self.wrote_over, self.behind_since) = (None, None, None);
            self.in_place = Some(wanted);
            return Step::InPlace;
        }
        let since = *self.behind_since.get_or_insert(now.at);
        if let Some((before, until)) = &self.wrote_over
            && before == held
            && now.at < *until
        {
            return Step::Wait(*until);
        }
        if !now.leads && now.at < since + TAKE_OVER {
            return Step::Wait(since + TAKE_OVER);
        }
        if !is_confirmed {
            return Step::Confirm;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now.at) {
            return Step::Wait(at);
        }
        let corrects = self.in_place == Some(wanted);
        if corrects && let Err(wait) = self.corrections.try_take(now.at, 1) {
            return Step::Wait(now.at + wait);
        }
        Step::Write { corrects }
    }

    /// Notes what is there, and returns whether the wanted bundle is of a look at the database that began later.
    fn see(&mut self, held: &Held, now: Now) -> bool {
        if self.seen.as_ref().is_none_or(|(places, _)| *places != held.places) {
            self.seen = Some((held.places.clone(), now.begun));
        }
        let is_empty = held.places.iter().all(|there| *there == Digest::NONE);
        is_empty || self.seen.as_ref().is_some_and(|(_, begun)| now.done > *begun)
    }

    /// Whether what the watch shows can be what is there.
    pub(super) fn trusts(&mut self, watched: &Held, at: Instant) -> bool {
        if self.outdated.as_ref() == Some(watched) {
            return false;
        }
        let is_unseen = |(before, until): &(Held, Instant)| before == watched && at >= *until;
        self.outdated = self.wrote_over.as_ref().filter(|wrote| is_unseen(wrote)).map(|_| watched.clone());
        self.outdated.is_none()
    }

    /// A write was accepted over what was `held`. Until it is seen, the object is not written again.
    pub(super) fn written(&mut self, held: Held, at: Instant) {
        (self.failures, self.not_before) = (0, None);
        self.wrote_over = Some((held, at + SETTLE));
    }

    /// A write failed; the next may begin at `not_before`.
    pub(super) fn failed(&mut self, not_before: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(not_before);
    }

    /// How many attempts failed since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Until when nothing is tried, after a failure.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Since when it lacks the bundle.
    pub(super) fn behind_since(&self) -> Option<Instant> {
        self.behind_since
    }
}

/// Until a write must be seen in what is watched.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the leader may take.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(15);
/// Corrections at once.
const CORRECTIONS: u32 = 3;
/// And then one in this time.
const CORRECTION_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(text: &str) -> Held {
        Held { places: vec![Digest::of(text)], ..Held::default() }
    }

    /// A database that is looked at all the time: each look ends before the next moment.
    fn now(at: Instant) -> Now {
        Now { at, leads: true, begun: 0, done: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn what_lacks_the_bundle_gets_it_at_once_and_is_not_written_again_before_the_write_is_seen() {
        let (mut track, wanted) = (Track::default(), Digest::of("new"));
        let at = Instant::now();
        assert_eq!(track.decide(&held("old"), wanted, now(at)), Step::Write { corrects: false });
        track.written(held("old"), at);
        assert_eq!(track.decide(&held("old"), wanted, now(at)), Step::Wait(at + SETTLE));
        assert_eq!(track.decide(&held("new"), wanted, now(at)), Step::InPlace);
        assert_eq!(track.behind_since(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_never_seen_is_repeated() {
        let (mut track, wanted) = (Track::default(), Digest::of("new"));
        let at = Instant::now();
        track.decide(&held("old"), wanted, now(at));
        track.written(held("old"), at);
        let later = now(at + SETTLE);
        assert_eq!(track.decide(&held("old"), wanted, later), Step::Write { corrects: false });
    }

    #[tokio::test(start_paused = true)]
    async fn two_writers_who_disagree_do_not_fight_at_full_speed_but_a_new_bundle_is_written_at_once() {
        let (mut track, wanted) = (Track::default(), Digest::of("new"));
        let mut at = Instant::now();
        let mut writes = 0;
        for _ in 0..600 {
            track.decide(&held("new"), wanted, now(at));
            if let Step::Write { corrects } = track.decide(&held("theirs"), wanted, now(at)) {
                assert!(corrects);
                writes += 1;
            }
            at += Duration::from_millis(100);
        }
        assert!((CORRECTIONS..=CORRECTIONS + 6).contains(&writes), "{writes} writes in a minute");
        let newer = Digest::of("newer");
        assert_eq!(track.decide(&held("theirs"), newer, now(at)), Step::Write { corrects: false });
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_lead_writes_only_what_the_leader_has_not_written() {
        let (mut track, wanted) = (Track::default(), Digest::of("new"));
        let at = Instant::now();
        let follows = |at| Now { leads: false, ..now(at) };
        assert_eq!(track.decide(&held("old"), wanted, follows(at)), Step::Wait(at + TAKE_OVER));
        assert_eq!(track.decide(&held("old"), wanted, now(at)), Step::Write { corrects: false });
        let later = at + TAKE_OVER;
        assert_eq!(track.decide(&held("old"), wanted, follows(later)), Step::Write { corrects: false });
        track.decide(&held("new"), wanted, follows(later));
        assert_eq!(track.decide(&held("old"), wanted, follows(later)), Step::Wait(later + TAKE_OVER));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_newer_is_written_over_only_after_a_look_that_began_later() {
        let (mut track, mine) = (Track::default(), Digest::of("v1"));
        let looks = |begun, done| Now { begun, done, ..now(Instant::now()) };
        assert_eq!(track.decide(&held("v1"), mine, looks(7, 7)), Step::InPlace);
        // Another server has heard of v2; the look that is under way here may have begun too early.
        assert_eq!(track.decide(&held("v2"), mine, looks(8, 7)), Step::Confirm);
        assert_eq!(track.decide(&held("v2"), mine, looks(8, 8)), Step::Confirm);
        assert_eq!(track.decide(&held("v2"), mine, looks(9, 8)), Step::Confirm);
        assert_eq!(track.decide(&held("v2"), Digest::of("v2"), looks(9, 9)), Step::InPlace);
        // What it had itself once may be back because it was right to go back to it.
        assert_eq!(track.decide(&held("v1"), Digest::of("v2"), looks(9, 9)), Step::Confirm);
        assert!(matches!(track.decide(&held("v1"), Digest::of("v2"), looks(10, 10)), Step::Write { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_its_database_writes_only_what_lacks_a_bundle_and_over_what_was_there_before() {
        let (mut track, mine) = (Track::default(), Digest::of("mine"));
        let away = Now { begun: 5, done: 4, ..now(Instant::now()) };
        assert_eq!(track.decide(&held("theirs"), mine, away), Step::Confirm);
        assert_eq!(track.decide(&held(""), mine, away), Step::Write { corrects: false });
        let before = Now { begun: 3, done: 3, ..away };
        track.decide(&held("mine before"), Digest::of("mine before"), before);
        assert_eq!(track.decide(&held("mine before"), mine, away), Step::Write { corrects: false });
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_stands_still_is_not_believed_until_it_shows_something_else() {
        let (mut track, wanted) = (Track::default(), Digest::of("new"));
        let at = Instant::now();
        assert!(track.trusts(&held("old"), at));
        track.decide(&held("old"), wanted, now(at));
        track.written(held("old"), at);
        assert!(track.trusts(&held("old"), at));
        assert!(!track.trusts(&held("old"), at + SETTLE));
        // The object itself has it; the watch says what it said, also about the next bundle.
        assert_eq!(track.decide(&held("new"), wanted, now(at + SETTLE)), Step::InPlace);
        track.written(held("new"), at + SETTLE);
        assert!(!track.trusts(&held("old"), at + 10 * SETTLE));
        assert!(track.trusts(&held("newer"), at + 10 * SETTLE));
        assert!(track.trusts(&held("old"), at + 10 * SETTLE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_waited_out() {
        let (mut track, wanted) = (Track::default(), Digest::of("new"));
        let at = Instant::now();
        track.failed(at + Duration::from_secs(5));
        assert_eq!(track.decide(&held("old"), wanted, now(at)), Step::Wait(at + Duration::from_secs(5)));
        let later = now(at + Duration::from_secs(5));
        assert_eq!(track.decide(&held("old"), wanted, later), Step::Write { corrects: false });
    }

    proptest! {
        /// Whatever happens to an object, what is right is not written, and a wait ends.
        #[test]
        fn what_is_right_is_never_written(acts in prop::collection::vec((0_u8..4, 0_u64..30, any::<bool>(), 0_u64..3), 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (mut track, wanted) = (Track::default(), Digest::of("new"));
                let mut at = Instant::now();
                for (act, seconds, leads, done) in acts {
                    let now = Now { leads, begun: 1, done, ..now(at) };
                    match act {
                        0 => assert_eq!(track.decide(&held("new"), wanted, now), Step::InPlace),
                        1 => track.failed(at + Duration::from_secs(seconds)),
                        2 => track.written(held("old"), at),
                        _ => match track.decide(&held("old"), wanted, now) {
                            Step::InPlace => panic!("in place"),
                            Step::Wait(until) => assert!(until > at),
                            Step::Confirm | Step::Write { .. } => {}
                        },
                    }
                    at += Duration::from_secs(seconds);
                }
            });
        }
    }
}
