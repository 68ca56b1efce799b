//! One server: what is known of it, and the connection to it.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_identity::verify::VerifyError;
use vouchsafe_proto::denial::{self, Reason};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::connect::Links;

use super::choice::Candidate;
use super::score::{Evidence, Kind, Verdict};
use super::watcher::PROBE_IN_USE;
use crate::server_client::hint;

/// One address that a server of the trust domain should be at.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    name: String,
    authority: String,
    links: Links,
    channel: Mutex<Option<Channel>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    evidence: Evidence,
    failures: u32,
    /// Whether the last one that answered there is signed by nobody that we know.
    unknown: Option<bool>,
    answered: Option<Instant>,
    troubled: Instant,
    used: Instant,
    next_probe: Instant,
    requests: [u64; CODES],
}

/// What is known of one server.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Its address, as metrics name it.
    pub server: String,
    /// Whether calls go there.
    pub in_use: bool,
    /// See [`super::score`].
    pub score: f64,
    /// Moving average of calls that can be compared.
    pub latency: Option<Duration>,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Since when there is a connection.
    pub connected_since: Option<SystemTime>,
    /// How long ago it answered last.
    pub last_answer: Option<Duration>,
    /// It is signed by nobody that we know.
    pub is_unknown: bool,
    /// Calls by gRPC status.
    pub requests: Vec<(Code, u64)>,
}

/// One call, as it ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What was asked for.
    pub kind: Kind,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether that can be compared with other servers.
    pub comparable: bool,
    /// Its status.
    pub code: Code,
}

impl Server {
    pub(super) fn new((address, authority): (SocketAddr, String), clock: Clock, place: f64) -> Self {
        let now = Instant::now();
        let state = State {
            evidence: Evidence::at_place(place),
            failures: 0,
            unknown: None,
            answered: None,
            troubled: now,
            used: now,
            next_probe: now + FIRST_PROBE.mul_f64(place),
            requests: [0; CODES],
        };
        Self {
            address,
            name: address.to_string(),
            authority,
            links: Links::new(clock),
            channel: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address, as metrics and logs name it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` as it was configured.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Counts its connections.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The channel that is kept, or the one that `make` makes and that is kept from now on; and whether it was kept.
    pub(crate) fn channel<E>(&self, make: impl FnOnce() -> Result<Channel, E>) -> Result<(Channel, bool), E> {
        self.state().used = Instant::now();
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = held.as_ref() {
            return Ok((channel.clone(), true));
        }
        let channel = make()?;
        *held = Some(channel.clone());
        Ok((channel, false))
    }

    /// The next call connects anew. Calls that run on the connection end there.
    pub(crate) fn disconnect(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// When a call was made over the connection that is kept.
    pub(super) fn last_used(&self) -> Instant {
        self.state().used
    }

    /// Takes note of what a call says.
    pub(super) fn observe(&self, failure: Option<&Status>, ended: Ended) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(count) = state.requests.get_mut(ended.code as usize) {
            *count += 1;
        }
        let connected = self.links.since().is_some();
        let verdict = failure.map_or(Verdict::Answered, |status| verdict(status, connected));
        state.evidence.observe(ended.kind, verdict, now);
        match verdict {
            Verdict::Answered => (state.failures, state.answered) = (0, Some(now)),
            Verdict::Busy => (state.failures, state.answered, state.troubled) = (0, Some(now), now),
            Verdict::Broken | Verdict::Failed => state.fail(now),
        }
        if ended.comparable && failure.is_none() {
            state.evidence.observe_latency(ended.elapsed);
            state.next_probe = state.next_probe.max(now + PROBE_IN_USE.mul_f64(0.75));
        }
        state.unknown = match failure.map(|status| (status, VerifyError::behind(status))) {
            None => Some(false),
            Some((_, Some(VerifyError::UnknownAuthority { .. }))) => Some(true),
            Some((status, None)) if !is_unreachable(status) => Some(false),
            // Nobody answers. Who it was once says nothing after a while.
            Some(_) if state.failures >= FORGOTTEN_AFTER => None,
            Some(_) => state.unknown,
        };
    }

    /// What it answered to calls of this kind is of no use.
    pub(super) fn blame(&self, kind: Kind) {
        let now = Instant::now();
        let mut state = self.state();
        state.evidence.observe(kind, Verdict::Broken, now);
        state.fail(now);
    }

    /// It is looked at as if nobody had spoken to it.
    pub(super) fn forgive(&self) {
        let mut state = self.state();
        (state.evidence, state.failures, state.unknown) = (state.evidence.forgotten(), 0, None);
        state.next_probe = Instant::now();
    }

    /// See [`Stats::is_unknown`]; `None` if nobody answered there.
    pub(super) fn is_unknown(&self) -> Option<bool> {
        self.state().unknown
    }

    #[cfg(test)]
    pub(super) fn set_unknown(&self, unknown: bool) {
        self.state().unknown = Some(unknown);
    }

    pub(super) fn next_probe(&self) -> Instant {
        self.state().next_probe
    }

    pub(super) fn probe_at(&self, at: Instant) {
        self.state().next_probe = at;
    }

    /// Whether its last call failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state().failures > 0
    }

    pub(super) fn evidence(&self) -> Evidence {
        self.state().evidence
    }

    pub(super) fn candidate(&self, rank: f64, score: f64) -> Candidate {
        let state = self.state();
        Candidate {
            address: self.address,
            score,
            failing: state.failures > 0,
            rank,
            troubled: state.troubled,
        }
    }

    pub(super) fn stats(&self, in_use: bool, score: f64) -> Stats {
        let (state, now) = (self.state(), Instant::now());
        let counted = state.requests.iter().enumerate().filter(|(_, count)| **count > 0);
        let code = |at: usize| Code::from(i32::try_from(at).unwrap_or_default());
        Stats {
            server: self.name.clone(),
            in_use,
            score,
            latency: state.evidence.latency(),
            consecutive_failures: state.failures,
            connected_since: self.links.since(),
            last_answer: state.answered.map(|at| now.saturating_duration_since(at)),
            is_unknown: state.unknown == Some(true),
            requests: counted.map(|(at, count)| (code(at), *count)).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fail(&mut self, now: Instant) {
        (self.failures, self.troubled) = (self.failures.saturating_add(1), now);
    }
}

/// What a failed call says of the server, to which there is a connection or not.
fn verdict(status: &Status, connected: bool) -> Verdict {
    if is_unreachable(status) {
        let late = status.code() == Code::DeadlineExceeded && connected;
        return if late { Verdict::Broken } else { Verdict::Failed };
    }
    // One of several servers that has not heard of this agent must not be the only one that is asked.
    if denial::reason(status) == Some(Reason::AgentNotAttested) || is_broken(status) {
        return Verdict::Broken;
    }
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => Verdict::Busy,
        _ => Verdict::Answered,
    }
}

/// Whether the server says that it cannot do this now, and not that it will be able to at some time: another one may.
#[must_use]
pub fn is_broken(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => hint::of(status).is_none(),
        code => matches!(code, Code::Internal | Code::Unknown | Code::DataLoss),
    }
}

/// Whether no server said this: there is no connection, or no answer in time.
///
/// tonic calls some broken connections `Unknown` or `Cancelled`; with a cause of its own no status came from the server.
#[must_use]
pub fn is_unreachable(status: &Status) -> bool {
    let broken = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
    status.code() == Code::DeadlineExceeded || broken && std::error::Error::source(status).is_some()
}

/// gRPC has so many statuses.
const CODES: usize = 17;

/// A server that is new on the list is spoken to within this time, at a moment that differs between agents.
const FIRST_PROBE: Duration = Duration::from_secs(60);

/// After so many failures in a row it does not count any more who answered before.
const FORGOTTEN_AFTER: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_proto::denial::denied;

    #[test]
    fn a_failed_call_is_held_against_the_server_or_against_that_kind_of_call() {
        let check = |status: Status, connected, expected| {
            assert_eq!(verdict(&status, connected), expected, "{status}");
        };
        let cut = Status::from_error(Box::new(std::io::Error::other("cut")));
        check(cut, true, Verdict::Failed);
        check(Status::deadline_exceeded("late"), false, Verdict::Failed);
        check(Status::deadline_exceeded("late"), true, Verdict::Broken);
        check(Status::unavailable("no"), true, Verdict::Broken);
        check(Status::internal("no"), true, Verdict::Broken);
        check(denied(Reason::AgentNotAttested, "no"), true, Verdict::Broken);
        check(hint::with(Code::Unavailable, Duration::from_secs(1)), true, Verdict::Busy);
        check(Status::resource_exhausted("too much"), true, Verdict::Busy);
        check(Status::not_found("no such entry"), true, Verdict::Answered);
    }
}
