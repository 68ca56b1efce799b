//! What a follower does next: pure.
//!
//! It lists once, then resumes from the position that it has heard up to. It lists again only when that position is gone
//! (410) or when the source says that it is older than what is held. What is held stays until something newer is there.
//!
//! **An older list** comes from an API server that lags, and passes; or from an etcd that was restored from a backup, and
//! stays. So it is refused for [`OLDER_IS_TAKEN`], asked for again every few seconds meanwhile, and then taken, and said so.
//! (etcd's own advice is to restore with `--bump-revision`; then versions grow and none of this is needed.)
//!
//! **It lists again now and then** although nothing says that it must: every few hours, since a restored etcd that has passed the
//! position held here in the meantime cannot be told from one that was never set back; within minutes after a failure, since
//! that may have been the restore; and after minutes when not all objects are held, so that this ends.

use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_runtime::backoff::Backoff;

use crate::error::ClusterError;
use crate::version::ResourceVersion;

/// What a follower does next.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// A watch that begins with the list.
    Stream,
    /// A list in pages.
    Pages,
    /// A watch from a position on.
    Resume(ResourceVersion),
}

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The list in pages was read to its end.
    Listed,
    /// The watch was closed by the other end, as it is every few minutes. `heard`: after it said something.
    Closed {
        heard: bool,
    },
    /// The watch was open and nothing came, though something should have.
    Silent,
    /// The position is gone.
    Expired,
    /// The source is at an older position than what is held.
    Older,
    /// The source does not begin watches with a list.
    NoStreaming,
    Failed(ClusterError),
}

/// What becomes of a list that was read to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Take,
    /// It is older, and has been so for so long that it is how things are now.
    TakeOlder,
    Refuse,
}

/// How long to wait, and whether the news that the source answers again cuts it short.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Pause {
    pub(crate) time: Duration,
    pub(crate) ends_early: bool,
}

/// Where a follower is.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    resume: Option<ResourceVersion>,
    failures: u32,
    no_streaming_until: Option<Instant>,
    older_since: Option<Instant>,
    /// When a list is read although the position is not gone.
    list_at: Option<Instant>,
}

impl Plan {
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let is_list_due = self.is_list_due(now);
        if is_list_due {
            // When that fails, the watch goes on meanwhile.
            self.list_at = Some(now + LIST_RETRIED);
        }
        match &self.resume {
            Some(version) if !is_list_due => Next::Resume(version.clone()),
            _ if self.no_streaming_until.is_some_and(|until| now < until) => Next::Pages,
            _ => Next::Stream,
        }
    }

    /// Whether a list is to be read although the watch works.
    pub(crate) fn is_list_due(&self, now: Instant) -> bool {
        self.resume.is_some() && self.list_at.is_some_and(|at| at <= now)
    }

    /// A list has been taken.
    pub(crate) fn listed(&mut self, now: Instant, fraction: f64) {
        self.list_at = Some(now + LISTED_AGAIN.mul_f64(0.5 + fraction / 2.0));
    }

    /// Not all objects are held.
    pub(crate) fn lacks(&mut self, now: Instant) {
        self.list_by(now + LACKING_RETRIED);
    }

    fn list_by(&mut self, at: Instant) {
        self.list_at = Some(self.list_at.map_or(at, |planned| planned.min(at)));
    }

    /// Whether a list at `offered` takes the place of what is held at `held`.
    pub(crate) fn judge(
        &mut self,
        held: Option<&ResourceVersion>,
        offered: &ResourceVersion,
        now: Instant,
    ) -> Verdict {
        if !held.is_some_and(|held| offered.is_older_than(held)) {
            self.older_since = None;
            return Verdict::Take;
        }
        let since = *self.older_since.get_or_insert(now);
        if now.duration_since(since) < OLDER_IS_TAKEN {
            return Verdict::Refuse;
        }
        self.older_since = None;
        Verdict::TakeOlder
    }

    /// Everything up to `version` has been heard.
    pub(crate) fn heard(&mut self, version: ResourceVersion) {
        self.resume = Some(version);
        self.failures = 0;
    }

    /// Takes in how a step ended. `fraction` places the pause.
    pub(crate) fn after(&mut self, outcome: &Outcome, now: Instant, fraction: f64) -> Pause {
        let soon = |time| Pause { time, ends_early: false };
        match outcome {
            Outcome::Listed => soon(Duration::ZERO),
            Outcome::Closed { heard: true } => {
                self.failures = 0;
                soon(AT_ONCE.mul_f64(fraction))
            }
            Outcome::Silent => soon(AT_ONCE.mul_f64(fraction)),
            Outcome::NoStreaming => {
                self.no_streaming_until = Some(now + STREAMING_RETRIED);
                soon(AT_ONCE.mul_f64(fraction))
            }
            // An answer, after which a list helps: a restarted API server gives it to everybody at once.
            Outcome::Expired if self.resume.take().is_some() => {
                self.failures = 0;
                soon(RELIST.mul_f64(fraction))
            }
            Outcome::Expired => self.backed_off(fraction),
            Outcome::Older => {
                self.resume = None;
                soon(OLDER_RETRIED.mul_f64(0.5 + fraction / 2.0))
            }
            Outcome::Closed { heard: false } => self.backed_off(fraction),
            Outcome::Failed(error) => {
                // An API server that asks for fewer requests is spared a list.
                if error.code() != Some(429) {
                    self.list_by(now + LISTED_AFTER_FAILURE.mul_f64(0.5 + fraction / 2.0));
                }
                let time = self.backed_off(fraction).time;
                // That other calls succeed says something about this one only when it failed for all.
                let ends_early = error.is_outage();
                match error.retry_after() {
                    // Everybody who was told the same comes back apart.
                    Some(told) => soon(told.clamp(AT_ONCE, MAX_TOLD).mul_f64(1.0 + fraction)),
                    None if matches!(error, ClusterError::Unreachable { .. }) => {
                        Pause { time: time.min(MAX_UNANSWERED.mul_f64(0.5 + fraction / 2.0)), ends_early }
                    }
                    None => Pause { time, ends_early },
                }
            }
        }
    }

    fn backed_off(&mut self, fraction: f64) -> Pause {
        let time = BACKOFF.delay(self.failures, fraction);
        self.failures = self.failures.saturating_add(1);
        Pause { time, ends_early: true }
    }
}

const BACKOFF: Backoff = match Backoff::new(Duration::from_millis(500), Duration::from_secs(30)) {
    Ok(backoff) => backoff,
    Err(_) => panic!("half a second is less than half a minute"),
};

/// The longest pause while nobody answers: an attempt costs the source nothing then, and what changed meanwhile is waited for.
const MAX_UNANSWERED: Duration = Duration::from_secs(5);

/// Within this a watch that was closed as usual is opened again.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Within this a list is asked for after a position was gone.
const RELIST: Duration = Duration::from_secs(2);

/// The longest that a source's wish to wait is followed.
const MAX_TOLD: Duration = Duration::from_secs(120);

/// How long an older list is refused.
pub(crate) const OLDER_IS_TAKEN: Duration = Duration::from_secs(180);

/// How soon a list is asked for again after an older one.
const OLDER_RETRIED: Duration = Duration::from_secs(20);

/// A list is read again this long after the last one, or half as long.
const LISTED_AGAIN: Duration = Duration::from_secs(4 * 3_600);

/// A list is read again this long after a failure, or half as long.
const LISTED_AFTER_FAILURE: Duration = Duration::from_secs(600);

/// A list is read again this long after one that lacked objects.
pub(crate) const LACKING_RETRIED: Duration = Duration::from_secs(300);

/// How long the watch goes on when a list that was due could not be read.
const LIST_RETRIED: Duration = Duration::from_secs(300);

/// When a source that did not begin watches with a list is asked again to do so: it may have been upgraded.
const STREAMING_RETRIED: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Call;

    fn version(text: &str) -> ResourceVersion {
        ResourceVersion::parse(text).unwrap()
    }

    fn refused(code: u16, retry_after: Option<u64>) -> Outcome {
        let call = Call { verb: "watch", kind: "pods".into(), name: None };
        let retry_after = retry_after.map(Duration::from_secs);
        let (reason, message) = (String::new(), String::new());
        Outcome::Failed(ClusterError::Refused { call, code, reason, message, retry_after })
    }

    #[test]
    fn a_broken_watch_is_resumed_and_an_expired_one_lists() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        assert_eq!(plan.next(now), Next::Stream);
        plan.heard(version("5"));
        for outcome in
            [Outcome::Closed { heard: true }, Outcome::Silent, refused(500, None), refused(429, Some(1))]
        {
            plan.after(&outcome, now, 0.5);
            assert_eq!(plan.next(now), Next::Resume(version("5")), "{outcome:?}");
        }
        let pause = plan.after(&Outcome::Expired, now, 1.0);
        assert_eq!((plan.next(now), pause.time), (Next::Stream, RELIST));
    }

    #[test]
    fn a_source_without_streaming_lists_gives_pages_and_is_asked_again_an_hour_later() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.after(&Outcome::NoStreaming, now, 0.5);
        assert_eq!(plan.next(now), Next::Pages);
        assert_eq!(plan.next(now + STREAMING_RETRIED), Next::Stream);
    }

    #[test]
    fn an_older_list_is_refused_until_it_has_stayed_for_minutes() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let held = version("100");
        assert_eq!(plan.judge(Some(&held), &version("99"), now), Verdict::Refuse);
        assert_eq!(plan.judge(Some(&held), &version("99"), now + OLDER_IS_TAKEN / 2), Verdict::Refuse);
        assert_eq!(plan.judge(Some(&held), &version("7"), now + OLDER_IS_TAKEN), Verdict::TakeOlder);
    }

    #[test]
    fn one_list_that_is_not_older_ends_the_doubt() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let held = version("100");
        assert_eq!(plan.judge(Some(&held), &version("99"), now), Verdict::Refuse);
        assert_eq!(plan.judge(Some(&held), &version("100"), now + OLDER_IS_TAKEN / 2), Verdict::Take);
        assert_eq!(plan.judge(Some(&held), &version("99"), now + OLDER_IS_TAKEN), Verdict::Refuse);
    }

    #[test]
    fn what_cannot_be_compared_is_taken() {
        let mut plan = Plan::default();
        assert_eq!(plan.judge(Some(&version("abc")), &version("abb"), Instant::now()), Verdict::Take);
        assert_eq!(plan.judge(None, &version("1"), Instant::now()), Verdict::Take);
    }

    #[test]
    fn failures_back_off_to_half_a_minute_and_end_early_when_the_source_is_back() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let pauses: Vec<_> = (0..12).map(|_| plan.after(&refused(401, None), now, 1.0)).collect();
        assert!(pauses.windows(2).all(|pair| pair[0].time <= pair[1].time));
        assert_eq!(pauses[0].time, Duration::from_millis(500));
        assert_eq!(pauses[11], Pause { time: Duration::from_secs(30), ends_early: true });
        plan.heard(version("5"));
        assert_eq!(plan.after(&refused(500, None), now, 1.0).time, Duration::from_millis(500));
    }

    #[test]
    fn the_trouble_of_one_kind_is_waited_out_although_other_calls_succeed() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        for code in [403, 500, 503] {
            assert!(!plan.after(&refused(code, None), now, 1.0).ends_early, "{code}");
        }
    }

    #[test]
    fn a_list_is_read_again_after_hours_and_the_watch_goes_on_when_that_fails() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.heard(version("5"));
        plan.listed(now, 0.0);
        let due = now + LISTED_AGAIN / 2;
        assert_eq!(plan.next(due - Duration::from_secs(1)), Next::Resume(version("5")));
        assert_eq!(plan.next(due), Next::Stream);
        plan.after(&refused(429, None), due, 0.0);
        assert_eq!(plan.next(due), Next::Resume(version("5")));
        assert_eq!(plan.next(due + LIST_RETRIED), Next::Stream);
    }

    #[test]
    fn a_list_is_read_within_minutes_after_a_failure_and_while_objects_are_lacking() {
        let now = Instant::now();
        let next = |prepare: fn(&mut Plan, Instant), after| {
            let mut plan = Plan::default();
            plan.heard(version("5"));
            plan.listed(now, 1.0);
            prepare(&mut plan, now);
            plan.next(now + after)
        };
        let failed = |plan: &mut Plan, now| {
            plan.after(&refused(504, Some(1)), now, 1.0);
        };
        assert_eq!(next(failed, LISTED_AFTER_FAILURE), Next::Stream);
        let spared = |plan: &mut Plan, now| {
            plan.after(&refused(429, Some(1)), now, 1.0);
        };
        assert_eq!(next(spared, LISTED_AFTER_FAILURE), Next::Resume(version("5")));
        assert_eq!(next(Plan::lacks, LACKING_RETRIED), Next::Stream);
    }

    #[test]
    fn while_nobody_answers_attempts_go_on_every_few_seconds() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let unreachable = || {
            let call = Call { verb: "watch", kind: "pods".into(), name: None };
            Outcome::Failed(ClusterError::Unreachable { call, source: "refused".into() })
        };
        let pauses: Vec<_> = (0..12).map(|_| plan.after(&unreachable(), now, 1.0)).collect();
        assert_eq!(pauses[0].time, Duration::from_millis(500));
        assert_eq!(pauses[11], Pause { time: Duration::from_secs(5), ends_early: true });
    }

    #[test]
    fn a_wish_to_wait_is_followed_up_to_a_bound_and_not_cut_short() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let pause = plan.after(&refused(429, Some(7)), now, 0.0);
        assert_eq!(pause, Pause { time: Duration::from_secs(7), ends_early: false });
        let pause = plan.after(&refused(503, Some(86_400)), now, 0.0);
        assert_eq!(pause.time, MAX_TOLD);
    }

    #[test]
    fn a_watch_that_is_closed_again_and_again_without_a_word_backs_off() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.heard(version("5"));
        let pauses: Vec<_> =
            (0..9).map(|_| plan.after(&Outcome::Closed { heard: false }, now, 1.0).time).collect();
        assert_eq!(*pauses.last().unwrap(), Duration::from_secs(30));
    }
}
