//! Who a process is, as selectors.
//!
//! All attestors look at the process at the same time, each with a deadline ([`ATTESTOR_DEADLINE`], or its own). What some of them found is
//! an answer; only when every one of them fails is there none. After they have looked, the process must still be the
//! one that connected: otherwise what they read may be about a stranger who got its number.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tracing::{debug, error};
use vouchsafe_runtime::chain::Chain;
use vouchsafe_runtime::metrics::{Call, Summary};
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::{Selector, SelectorSet};

use crate::metrics::Metrics;
use crate::refusals::Refusals;

pub mod container;
pub mod digest;
pub mod docker;
mod image_registry;
pub mod image_signatures;
pub mod k8s;
pub mod looks;
pub mod unix;

/// Finds out one kind of thing about a process.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync + 'static {
    /// The selectors' kind and the name in logs and metrics.
    fn name(&self) -> &'static str;

    /// How long it may take. Longer than [`ATTESTOR_DEADLINE`] only if it waits for something that is on its way.
    fn deadline(&self) -> Duration {
        ATTESTOR_DEADLINE
    }

    /// What keeps it from answering, if it knows: said when it did not answer in time.
    fn complaint(&self) -> Option<String> {
        None
    }

    /// What is known about `peer`.
    async fn attest(&self, peer: &PeerProcess) -> Result<Vec<Selector>, AttestorError>;
}

/// Why one attestor has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestorError {
    /// Something about the process could not be read.
    #[error("{what}")]
    Lookup {
        /// What was looked for.
        what: String,
        /// Why it was not found.
        #[source]
        source: Option<std::io::Error>,
    },
    /// It took longer than it may.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
}

/// Why a process has no selectors.
#[derive(Debug, thiserror::Error)]
#[error("workload attestation failed")]
#[non_exhaustive]
pub struct Unattested;

/// All attestors of the agent.
pub struct Attestors {
    attestors: Vec<Asked>,
    attestation: Call,
    discovered: Summary,
    /// Whose end was logged lately.
    ended: Refusals,
}

/// What every attestor says about one process, for people.
#[derive(Clone, Debug)]
pub struct Examined {
    /// By attestor: what it found, or why it has no answer.
    pub outcomes: Vec<(&'static str, Result<Vec<Selector>, String>)>,
    /// Whether the process was the same all the time. If not, what was found may be about another one.
    pub still_same: bool,
}

/// One attestor, and what is noted of it.
struct Asked {
    attestor: Arc<dyn WorkloadAttestor>,
    call: Call,
    /// For whom it had no answer lately: a process that cannot be attested asks as often as it likes.
    failures: Refusals,
}

impl std::fmt::Debug for Attestors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.attestors.iter().map(|asked| asked.attestor.name())).finish()
    }
}

impl Attestors {
    /// Uses `attestors` for every process.
    #[must_use]
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>, metrics: &Metrics) -> Self {
        let asked = |attestor| Asked { attestor, call: metrics.attestor(), failures: Refusals::default() };
        Self {
            attestors: attestors.into_iter().map(asked).collect(),
            attestation: metrics.attestation(),
            discovered: metrics.discovered_selectors(),
            ended: Refusals::default(),
        }
    }

    /// The selectors of `peer`.
    ///
    /// # Errors
    ///
    /// [`Unattested`] when no attestor has an answer or `peer` ended meanwhile. The log says why.
    pub async fn attest(&self, peer: &PeerProcess) -> Result<SelectorSet, Unattested> {
        let start = Instant::now();
        let outcome = self.ask_all(peer).await;
        let status = if outcome.is_ok() { "OK" } else { "Unavailable" };
        self.attestation.observe(&[], status, start.elapsed());
        if let Ok(selectors) = &outcome {
            self.discovered.observe(selectors.len() as f64);
            debug!(pid = peer.pid, selectors = %Shown(selectors), "PID attested to have selectors");
        }
        outcome
    }

    /// As [`Attestors::attest`], for somebody who wants to know what each of them says: neither counted nor logged.
    pub async fn examine(&self, peer: &PeerProcess) -> Examined {
        let outcomes = join_all(self.attestors.iter().map(|asked| asked.examine(peer))).await;
        Examined { outcomes, still_same: peer.still_same() }
    }

    async fn ask_all(&self, peer: &PeerProcess) -> Result<SelectorSet, Unattested> {
        let answers = join_all(self.attestors.iter().map(|asked| asked.ask(peer))).await;
        if !peer.still_same() {
            if let Some(unlogged) = self.ended.note(peer.pid) {
                let unlogged = (unlogged > 0).then_some(unlogged);
                error!(pid = peer.pid, unlogged, "the calling process ended before it was attested");
            }
            return Err(Unattested);
        }
        if !self.attestors.is_empty() && answers.iter().all(Option::is_none) {
            return Err(Unattested);
        }
        Ok(answers.into_iter().flatten().flatten().collect())
    }
}

impl Asked {
    async fn ask(&self, peer: &PeerProcess) -> Option<Vec<Selector>> {
        let start = Instant::now();
        let deadline = self.attestor.deadline();
        let answer = timeout(deadline, self.attestor.attest(peer)).await;
        let answer = answer.unwrap_or(Err(AttestorError::Deadline(deadline)));
        let status = match &answer {
            Ok(_) => "OK",
            Err(AttestorError::Deadline(_)) => "DeadlineExceeded",
            Err(_) => "Internal",
        };
        self.call.observe(&[("attestor", self.attestor.name())], status, start.elapsed());
        answer.inspect_err(|error| self.failed(peer, error)).ok()
    }

    async fn examine(&self, peer: &PeerProcess) -> (&'static str, Result<Vec<Selector>, String>) {
        let answer = timeout(EXAMINE_DEADLINE, self.attestor.attest(peer)).await;
        let answer = match answer {
            Ok(answer) => answer.map_err(|error| Chain(&error).to_string()),
            Err(_) => {
                let late = || format!("no answer within {EXAMINE_DEADLINE:?}");
                Err(self.attestor.complaint().unwrap_or_else(late))
            }
        };
        (self.attestor.name(), answer)
    }

    fn failed(&self, peer: &PeerProcess, error: &AttestorError) {
        let Some(unlogged) = self.failures.note(peer.pid) else { return };
        let (pid, attestor, unlogged) = (peer.pid, self.attestor.name(), (unlogged > 0).then_some(unlogged));
        let source = std::error::Error::source(error).map(ToString::to_string);
        error!(pid, attestor, %error, source, unlogged, "workload attestor failed");
    }
}

struct Shown<'a>(&'a SelectorSet);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(Selector::as_str)).finish()
    }
}

/// How long one attestor may take, unless it has reasons of its own.
pub const ATTESTOR_DEADLINE: Duration = Duration::from_secs(5);

/// The same when somebody asks what the attestors say: a person waits, and one that hangs is named.
pub const EXAMINE_DEADLINE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_runtime::metrics::Registry;

    struct Failing;

    #[async_trait]
    impl WorkloadAttestor for Failing {
        fn name(&self) -> &'static str {
            "failing"
        }

        async fn attest(&self, _: &PeerProcess) -> Result<Vec<Selector>, AttestorError> {
            Err(AttestorError::Lookup { what: "nothing to see".to_owned(), source: None })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_cannot_be_attested_does_not_fill_the_log() {
        let metrics = Metrics::new(Registry::new("spire_agent", &[]));
        let attestors = Attestors::new(vec![Arc::new(Failing)], &metrics);
        let (socket, _other_end) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = PeerProcess::of(&socket).unwrap();
        for _ in 0..100 {
            assert!(attestors.attest(&peer).await.is_err());
        }
        let failures = &attestors.attestors[0].failures;
        assert_eq!(failures.note(peer.pid), None, "a failure a moment ago was logged");
        tokio::time::advance(crate::refusals::QUIET).await;
        assert_eq!(failures.note(peer.pid), Some(100), "99 of them were counted, and this test's own");
    }
}
