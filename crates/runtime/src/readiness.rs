//! Which parts of the process are up, by explicit mark.
//!
//! A part takes a [`Token`] before it starts and calls [`Token::mark`] when it serves. A token that is
//! dropped unmarked means that its part died while starting, and never reads as ready.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::clock::Clock;

/// The state of all parts. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Readiness {
    clock: Clock,
    report: Arc<watch::Sender<Report>>,
}

/// What is known of all parts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Every part has marked itself, none has failed since, and the process is not shutting down.
    pub ready: bool,
    /// No part has failed. A process that is not live is better restarted.
    pub live: bool,
    /// The process is on its way down.
    pub draining: bool,
    /// The parts, in the order in which their tokens were taken.
    pub parts: Vec<Part>,
    taken: u64,
}

/// What is known of one part.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its state.
    pub state: State,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// Why it is degraded or failed; empty otherwise.
    pub reason: String,
    id: u64,
    marked: bool,
}

/// How a part is doing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum State {
    /// It has not marked itself yet.
    Pending,
    /// It serves.
    Ready,
    /// It serves what it has, and something it needs is missing.
    Degraded,
    /// It does not serve and will not without help.
    Failed,
}

impl State {
    /// The name that appears in health reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Readiness {
    /// No parts yet, and so not ready.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let report = Report { live: true, ..Report::default() };
        Self { clock, report: Arc::new(watch::Sender::new(report)) }
    }

    /// Adds the part `name`, pending until its token is marked.
    ///
    /// A part that starts again takes a new token under the same name: the part is pending again and
    /// its earlier token has no more effect.
    #[must_use = "dropping an unmarked token means that the part has failed"]
    pub fn token(&self, name: &'static str) -> Token {
        let since = self.clock.now();
        let mut id = 0;
        self.report.send_modify(|report| {
            report.taken += 1;
            id = report.taken;
            let part = Part { name, state: State::Pending, since, reason: String::new(), id, marked: false };
            match report.parts.iter_mut().find(|known| known.name == name) {
                Some(known) => *known = part,
                None => report.parts.push(part),
            }
            report.judge();
        });
        Token { id, readiness: self.clone() }
    }

    /// The process is on its way down: never ready again, so that load balancers look elsewhere.
    pub fn drain(&self) {
        self.report.send_if_modified(|report| {
            let changed = !report.draining;
            report.draining = true;
            report.judge();
            changed
        });
    }

    /// What is known now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Follows the report. `wait_for(|report| report.ready)` waits until everything is up.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    fn turn(&self, id: u64, state: State, reason: &str) {
        let now = self.clock.now();
        self.report.send_if_modified(|report| {
            let changed = report
                .parts
                .iter_mut()
                .find(|part| part.id == id)
                .is_some_and(|part| part.turn(state, reason, now));
            report.judge();
            changed
        });
    }
}

impl Report {
    fn judge(&mut self) {
        let up = |part: &Part| match part.state {
            State::Ready => true,
            State::Degraded => part.marked,
            State::Pending | State::Failed => false,
        };
        self.live = self.parts.iter().all(|part| part.state != State::Failed);
        self.ready = !self.draining && !self.parts.is_empty() && self.parts.iter().all(up);
    }
}

impl Part {
    /// Whether anything changed. A new reason for the same state does not restart `since`.
    fn turn(&mut self, state: State, reason: &str, now: SystemTime) -> bool {
        if self.state == state && self.reason == reason {
            return false;
        }
        if self.state != state {
            self.since = now;
            self.state = state;
        }
        self.marked |= state == State::Ready;
        reason.clone_into(&mut self.reason);
        true
    }
}

/// The right and the duty to say how one part is doing.
#[derive(Debug)]
pub struct Token {
    id: u64,
    readiness: Readiness,
}

impl Token {
    /// The part serves.
    pub fn mark(&self) {
        self.readiness.turn(self.id, State::Ready, "");
    }

    /// The part serves what it has, and `reason` says what it is missing. [`Token::mark`] ends it.
    ///
    /// A part that had marked itself stays ready; one that had not does not become so.
    pub fn degrade(&self, reason: &str) {
        self.readiness.turn(self.id, State::Degraded, reason);
    }

    /// The part does not serve; `reason` says why. [`Token::mark`] ends it.
    pub fn fail(&self, reason: &str) {
        self.readiness.turn(self.id, State::Failed, reason);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let unmarked = |part: &&Part| part.id == self.id && !part.marked && part.state != State::Failed;
        let died = self.readiness.report.borrow().parts.iter().any(|part| unmarked(&part));
        if died {
            self.fail("ended before it was ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn readiness() -> Readiness {
        Readiness::new(Clock::derived(SystemTime::UNIX_EPOCH))
    }

    #[tokio::test(start_paused = true)]
    async fn ready_only_when_every_part_has_said_so() {
        let readiness = readiness();
        assert!(!readiness.report().ready, "ready before any part exists");
        let (api, store) = (readiness.token("api"), readiness.token("store"));
        api.mark();
        assert!(!readiness.report().ready);
        store.mark();
        assert!(readiness.report().ready);
        assert!(readiness.report().live);
        drop(store);
        assert!(readiness.report().ready, "a marked part may let go of its token");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_dies_while_starting_has_failed() {
        let readiness = readiness();
        let api = readiness.token("api");
        api.mark();
        drop(readiness.token("store"));
        let report = readiness.report();
        assert!(!report.ready && !report.live);
        assert_eq!(report.parts[1].state, State::Failed);
        assert_eq!(report.parts[1].reason, "ended before it was ready");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_failed_keeps_its_own_reason_when_it_is_dropped() {
        let readiness = readiness();
        let token = readiness.token("store");
        token.fail("disk full");
        drop(token);
        assert_eq!(readiness.report().parts[0].reason, "disk full");
    }

    #[tokio::test(start_paused = true)]
    async fn a_degraded_part_still_serves_and_says_since_when_it_lacks_what() {
        let readiness = readiness();
        let upstream = readiness.token("upstream");
        upstream.degrade("no server yet");
        assert!(!readiness.report().ready, "it has never served");
        upstream.mark();
        tokio::time::advance(Duration::from_secs(60)).await;
        upstream.degrade("server away");
        tokio::time::advance(Duration::from_secs(60)).await;
        upstream.degrade("server still away");
        let report = readiness.report();
        assert!(report.ready && report.live);
        let part = &report.parts[0];
        assert_eq!((part.state.as_str(), part.reason.as_str()), ("degraded", "server still away"));
        assert_eq!(part.since, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        upstream.mark();
        assert_eq!(readiness.report().parts[0].reason, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_starts_again_silences_its_old_token() {
        let readiness = readiness();
        let old = readiness.token("api");
        old.mark();
        let new = readiness.token("api");
        old.fail("too late");
        drop(old);
        let report = readiness.report();
        assert_eq!((report.parts.len(), report.parts[0].state), (1, State::Pending));
        new.mark();
        assert!(readiness.report().ready);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_makes_a_draining_process_ready() {
        let readiness = readiness();
        let api = readiness.token("api");
        api.mark();
        readiness.drain();
        api.mark();
        let report = readiness.report();
        assert!(!report.ready && report.draining && report.live);
    }

    #[tokio::test(start_paused = true)]
    async fn watchers_are_told_of_changes_and_only_of_changes() {
        let readiness = readiness();
        let api = readiness.token("api");
        let mut watch = readiness.watch();
        api.mark();
        watch.wait_for(|report| report.ready).await.unwrap();
        watch.mark_unchanged();
        api.mark();
        assert!(!watch.has_changed().unwrap());
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Mark,
        Degrade,
        Fail,
    }

    proptest! {
        /// Whatever the parts say, the report is the sum of what each said last.
        #[test]
        fn the_report_is_the_sum_of_its_parts(
            acts in prop::collection::vec((0_usize..3, prop::sample::select(vec![Act::Mark, Act::Degrade, Act::Fail])), 0..30),
        ) {
            let readiness = Readiness::new(Clock::system());
            let tokens = ["a", "b", "c"].map(|name| readiness.token(name));
            let mut said = [(State::Pending, false); 3];
            for (part, act) in acts {
                let marked = said[part].1;
                said[part] = match act {
                    Act::Mark => (State::Ready, true),
                    Act::Degrade => (State::Degraded, marked),
                    Act::Fail => (State::Failed, marked),
                };
                match act {
                    Act::Mark => tokens[part].mark(),
                    Act::Degrade => tokens[part].degrade("slow"),
                    Act::Fail => tokens[part].fail("broken"),
                }
                let report = readiness.report();
                let serves = |&(state, marked): &(State, bool)| marked && state != State::Failed;
                prop_assert_eq!(report.ready, said.iter().all(serves));
                prop_assert_eq!(report.live, said.iter().all(|(state, _)| *state != State::Failed));
            }
        }
    }
}
