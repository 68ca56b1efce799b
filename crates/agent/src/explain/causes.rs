//! What keeps the agent from its server, or its server from it. Pure.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;
use tonic::Code;
use vouchsafe_proto::denial::Reason;

use super::codes::{
    AGENT_BANNED, AGENT_DENIED, AGENT_EVICTED, AGENT_NOT_ATTESTED, AGENT_NOT_SYNCHRONIZED, AGENT_REFUSED,
    AGENT_SVID_EXPIRED, BUNDLE_EXPIRED, CLOCK_SKEW, SERVER_RATE_LIMITED, SERVER_UNREACHABLE,
    SERVER_UNTRUSTED, SYNC_FAILING,
};
use super::notes::Failure;
use crate::denials::Denial;
use crate::identities::Snapshot;
use crate::servers::Stats;
use crate::status::{AgentStatus, Phase};
use crate::trust::is_usable;

/// How the agent is.
#[derive(Clone, Debug)]
pub struct AgentFacts {
    /// What it says about itself.
    pub status: AgentStatus,
    /// Its server, or servers, as `host:port`.
    pub server: String,
    /// What is known of each.
    pub servers: Vec<Stats>,
    /// What the server denies it.
    pub denial: Option<Denial>,
    /// Whoever answers is signed by nobody that the agent knows.
    pub server_is_unknown: bool,
    /// Why the last synchronization failed.
    pub sync: Option<Failure>,
    /// Why the agent has no SVID, or no new one.
    pub node: Option<Failure>,
    /// By how many seconds the server's clock is ahead.
    pub server_clock_ahead: Option<i64>,
}

/// One thing that was found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// A constant that names it.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What everybody may know.
    pub text: String,
    /// What only those may know who may ask about anything.
    pub detail: String,
    /// What to do.
    pub next: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Notice,
    /// Keeps the identity away, or will.
    Problem,
}

impl Finding {
    /// A problem with this name.
    #[must_use]
    pub fn problem(code: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Problem,
            text: text.into(),
            detail: String::new(),
            next: String::new(),
        }
    }

    /// The same, of no urgency.
    #[must_use]
    pub fn notice(code: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, ..Self::problem(code, text) }
    }

    /// As it should be.
    #[must_use]
    pub fn good(code: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Good, ..Self::problem(code, text) }
    }

    /// With what only the privileged may know.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// With what to do.
    #[must_use]
    pub fn next(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }
}

/// What is wrong between the agent and its server, the cause of the others first. Empty when nothing is.
#[must_use]
pub fn causes(agent: &AgentFacts, snapshot: &Snapshot, (now, instant): (i64, Instant)) -> Vec<Finding> {
    let mut found = Vec::new();
    let failure = agent.sync.as_ref().or(agent.node.as_ref());
    let refused = failure.and_then(outside_its_time);
    found.extend(clock(agent, failure, refused));
    found.extend(agent.denial.map(|denial| denied(agent, denial)));
    // What the server says then is what was just told in better words.
    let told = refused.is_some() || agent.denial.is_some();
    let failing = failure.filter(|_| !told).map(|failure| failing(agent, failure, instant));
    let answers = failing.as_ref().is_some_and(|finding| finding.code != SERVER_UNREACHABLE);
    found.extend(failing);
    if let Some(expired) = own_svid(agent, now) {
        // With a server that does not answer there is no renewal; with one that does, this is why it refuses.
        found.insert(if answers { 0 } else { found.len() }, expired);
    }
    found.extend(bundle(snapshot, now));
    found.extend(phase(agent, instant, found.is_empty()));
    found
}

/// In words, if a server's certificate was refused for its dates.
fn outside_its_time(failure: &Failure) -> Option<&'static str> {
    if failure.message.contains(NOT_YET_VALID) {
        return Some(
            "by this machine's clock the server's certificate is not valid yet: one of the two clocks is wrong",
        );
    }
    let expired = "by this machine's clock the server's certificate has expired, and servers renew theirs: one of the two clocks is wrong";
    failure.message.contains(EXPIRED).then_some(expired)
}

fn clock(agent: &AgentFacts, failure: Option<&Failure>, refused: Option<&'static str>) -> Option<Finding> {
    let next = "compare `date -u` on this machine with the server's, and set the clock that is wrong (`timedatectl set-ntp true`, or chrony); \
                everything else follows by itself";
    if let Some(text) = refused {
        let detail = failure.map(|failure| failure.message.to_string()).unwrap_or_default();
        return Some(Finding::problem(CLOCK_SKEW, text).detail(detail).next(next));
    }
    let ahead = agent.server_clock_ahead.filter(|ahead| ahead.unsigned_abs() > TOLERATED_SKEW.as_secs())?;
    let (which, by) = if ahead > 0 { ("ahead of", ahead) } else { ("behind", -ahead) };
    let by = duration(Duration::from_secs(by.unsigned_abs()));
    let text = format!("the server's clock is {by} {which} this machine's, going by what it issued last");
    Some(Finding::problem(CLOCK_SKEW, text).next(next))
}

fn denied(agent: &AgentFacts, denial: Denial) -> Finding {
    let id = agent.status.id.as_ref().map_or_else(|| "<agent>".to_owned(), ToString::to_string);
    let anew = "then `vouchsafe server token generate -spiffeID <node alias>` there, and start the agent with -joinToken";
    match denial.reason {
        Reason::AgentBanned => Finding::problem(AGENT_BANNED, "the server has banned this agent")
            .next(format!("to lift it: `vouchsafe server agent evict -spiffeID {id}` on the server, {anew}")),
        Reason::AgentNotAttested => {
            Finding::problem(AGENT_EVICTED, "the server does not know this agent: it was evicted, or its database is another one")
                .next(format!("look with `vouchsafe server agent show -spiffeID {id}` on the server, {anew}"))
        }
        reason => Finding::problem(AGENT_DENIED, format!("the server denies this agent everything: {}", words(reason)))
            .next(format!("look with `vouchsafe server agent show -spiffeID {id}` on the server; the agent attests again by itself if it has something to attest with")),
    }
}

fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::AgentExpired => "its SVID has expired",
        Reason::AgentNotActive => "its SVID is not the newest one that it was given",
        Reason::AgentMustReattest => "it must attest again",
        Reason::AgentBanned => "it is banned",
        Reason::AgentNotAttested => "it is not known",
        Reason::Unknown => "no reason given",
    }
}

fn own_svid(agent: &AgentFacts, now: i64) -> Option<Finding> {
    let ended = agent.status.svid_expires_at.filter(|end| *end <= now)?;
    let text = format!("the agent's own SVID expired at {}", time(ended));
    let next = "nothing while the server is away: the agent renews when it answers again. If it then goes on refusing: \
                `vouchsafe server token generate -spiffeID <node alias>` there, and start the agent with -joinToken";
    Some(Finding::problem(AGENT_SVID_EXPIRED, text).next(next))
}

fn failing(agent: &AgentFacts, failure: &Failure, instant: Instant) -> Finding {
    let last = agent.status.last_sync.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let mut since = String::from("since the agent started");
    if let Some(last) = last {
        since = format!("since {}", time(i64::try_from(last.as_secs()).unwrap_or(i64::MAX)));
    }
    let server = &agent.server;
    let detail = format!(
        "{}, {} ago: {}",
        server,
        duration(instant.saturating_duration_since(failure.at)),
        failure.message
    );
    if agent.server_is_unknown || failure.message.contains(UNKNOWN_AUTHORITY) {
        return Finding::problem(SERVER_UNTRUSTED, "the agent does not trust the server that answers: none of the authorities that it knows signed the server's certificate")
            .detail(detail)
            .next("compare `vouchsafe server bundle show` with the agent's trust_bundle_path. If the server was set up anew on purpose: stop the agent, give it \
                   the new bundle, move agent-data.json in its data_dir away and start it with a new -joinToken");
    }
    match failure.code {
        Code::Unavailable | Code::DeadlineExceeded => {
            Finding::problem(SERVER_UNREACHABLE, format!("the server has not answered {since}; what is held is still served"))
                .detail(detail)
                .next(format!("on the server's machine: `vouchsafe server healthcheck`. If it is healthy, look at the network from here to {server}. The agent tries again by itself, at least every 30 s"))
        }
        Code::ResourceExhausted => Finding::problem(SERVER_RATE_LIMITED, "the server limits how often this agent may ask")
            .detail(detail)
            .next("wait: it is asked again by itself. If it lasts, look at `ratelimit` in the server's configuration and at how many agents share this address"),
        _ => Finding::problem(SYNC_FAILING, format!("the server has answered nothing but errors {since}"))
            .detail(detail)
            .next("read the server's log around that time; it has the call and its cause"),
    }
}

fn bundle(snapshot: &Snapshot, now: i64) -> Option<Finding> {
    let held = snapshot.bundles.as_ref()?;
    if is_usable(&held.own.bundle, now) {
        return None;
    }
    let text = "every X.509 authority in the trust bundle that the agent holds is outside its validity";
    let next = "check this machine's clock first (`date -u`); then `vouchsafe server bundle show` on the server must show an authority that is valid now";
    Some(Finding::problem(BUNDLE_EXPIRED, text).next(next))
}

fn phase(agent: &AgentFacts, instant: Instant, alone: bool) -> Option<Finding> {
    match agent.status.phase {
        Phase::Serving => None,
        Phase::Refused => Some(
            Finding::problem(AGENT_REFUSED, "the server refuses this agent for good, and it is about to end")
                .next("its log says why"),
        ),
        Phase::Synchronizing => alone.then(|| {
            Finding::problem(
                AGENT_NOT_SYNCHRONIZED,
                "the agent has its own SVID and does not know its entries yet",
            )
            .next("ask again in a second")
        }),
        Phase::Attesting => {
            let mut text = "the agent has no SVID of its own yet".to_owned();
            let mut detail = String::new();
            if let Some(failure) = &agent.node {
                text.push_str(": its attestation fails");
                let ago = duration(instant.saturating_duration_since(failure.at));
                let _infallible = write!(detail, "{ago} ago: {}", failure.message);
            }
            Some(Finding::problem(AGENT_NOT_ATTESTED, text).detail(detail).next(
                "a join token works once: `vouchsafe server token generate` on the server, and start the agent with -joinToken. With another attestor, the server's log says why it refuses",
            ))
        }
    }
}

/// `2026-11-21T15:04:05Z`
pub(super) fn time(unix: i64) -> String {
    prost_types::Timestamp { seconds: unix, nanos: 0 }.to_string()
}

/// A length of time in words: two units at most.
pub(super) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let parts = [
        ("d", seconds / 86_400),
        ("h", seconds / 3_600 % 24),
        ("min", seconds / 60 % 60),
        ("s", seconds % 60),
    ];
    let first = parts.iter().position(|(_, count)| *count > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(_, count)| *count > 0);
    let shown: Vec<_> = shown.map(|(unit, count)| format!("{count} {unit}")).collect();
    if shown.is_empty() { "0 s".to_owned() } else { shown.join(" ") }
}

/// Clocks may differ by so much without harm (DESIGN §3).
pub const TOLERATED_SKEW: Duration = Duration::from_secs(30);

// Words of `VerifyError`, which reach us as the text of a status.
const NOT_YET_VALID: &str = "Check both clocks";
const EXPIRED: &str = " expired at ";
const UNKNOWN_AUTHORITY: &str = "is not signed by an authority of its trust domain";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identities::Identities;
    use std::time::SystemTime;
    use vouchsafe_identity::verify::VerifyError;
    use vouchsafe_types::spiffe_id::SpiffeId;

    pub(crate) fn agent() -> AgentFacts {
        let status = AgentStatus {
            phase: Phase::Serving,
            id: SpiffeId::parse("spiffe://example.org/spire/agent/join_token/x").ok(),
            svid_expires_at: Some(2_000),
            last_sync: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(900)),
            ..AgentStatus::default()
        };
        AgentFacts {
            status,
            server: "server.test:8081".to_owned(),
            servers: Vec::new(),
            denial: None,
            server_is_unknown: false,
            sync: None,
            node: None,
            server_clock_ahead: Some(3),
        }
    }

    fn codes(agent: &AgentFacts, now: i64) -> Vec<&'static str> {
        let snapshot = Identities::default().load();
        causes(agent, &snapshot, (now, Instant::now())).iter().map(|finding| finding.code).collect()
    }

    fn failed(code: Code, message: &str) -> Option<Failure> {
        Some(Failure::new(code, message))
    }

    #[test]
    fn an_agent_that_is_well_has_no_causes() {
        assert!(codes(&agent(), 1_000).is_empty());
        assert!(codes(&AgentFacts { server_clock_ahead: Some(-30), ..agent() }, 1_000).is_empty());
    }

    #[test]
    fn a_certificate_outside_its_time_is_a_wrong_clock_and_nothing_else() {
        let id = SpiffeId::parse("spiffe://example.org/spire/server").unwrap();
        for error in [
            VerifyError::NotYetValid { id: id.clone(), not_before: 5, now: 1 },
            VerifyError::Expired { id: id.clone(), not_after: 5, now: 9 },
        ] {
            let sync = failed(Code::Unavailable, &format!("the server's certificate is refused: {error}"));
            assert_eq!(codes(&AgentFacts { sync, ..agent() }, 1_000), [CLOCK_SKEW]);
        }
        assert_eq!(codes(&AgentFacts { server_clock_ahead: Some(-31), ..agent() }, 1_000), [CLOCK_SKEW]);
        let error = VerifyError::UnknownAuthority { id };
        let sync = failed(Code::Unavailable, &error.to_string());
        assert_eq!(codes(&AgentFacts { sync, ..agent() }, 1_000), [SERVER_UNTRUSTED]);
    }

    #[test]
    fn the_cause_comes_before_what_follows_from_it() {
        let away = failed(Code::Unavailable, "tcp connect error: Connection refused");
        assert_eq!(
            codes(&AgentFacts { sync: away, ..agent() }, 3_000),
            [SERVER_UNREACHABLE, AGENT_SVID_EXPIRED]
        );
        let refused = failed(Code::PermissionDenied, "agent SVID is expired");
        assert_eq!(
            codes(&AgentFacts { sync: refused, ..agent() }, 3_000),
            [AGENT_SVID_EXPIRED, SYNC_FAILING]
        );
        let now = Instant::now();
        let denial = |reason| Some(Denial { reason, since: now, heard: now });
        let denied = failed(Code::PermissionDenied, "agent is banned");
        let banned = AgentFacts { sync: denied, denial: denial(Reason::AgentBanned), ..agent() };
        assert_eq!(codes(&banned, 1_000), [AGENT_BANNED]);
        let evicted = AgentFacts { denial: denial(Reason::AgentNotAttested), ..agent() };
        assert_eq!(codes(&evicted, 1_000), [AGENT_EVICTED]);
    }

    #[test]
    fn lengths_of_time_are_written_with_two_units() {
        let shown = [0, 59, 61, 3_600, 3_661, 90_000].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "59 s", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h"]);
    }
}
