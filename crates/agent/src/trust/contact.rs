//! The account of getting in contact with a server: since when, how often, and whether the server that answers is the one
//! that the held bundle is of. It is kept in `agent-data.json` as SPIRE keeps it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use vouchsafe_runtime::clock::Clock;

use crate::data_dir::{BootstrapState, DataDir};
use crate::metrics::Metrics;

/// See the module.
#[derive(Debug)]
pub(super) struct Contact {
    data_dir: Arc<DataDir>,
    clock: Clock,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A bundle was held before: this is not the first contact.
    again: bool,
    since: Option<i64>,
    attempts: u64,
    /// Since when, without a break, the server is somebody else. Not kept across restarts, and not by the wall clock:
    /// who sets our clock must not be able to shorten a delay.
    doubt: Option<Instant>,
}

/// One attempt to get a bundle from where the operator said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Attempt {
    pub(super) mode: &'static str,
    pub(super) number: u64,
    pub(super) since: String,
}

impl Contact {
    /// Continues what `data_dir` says.
    pub(super) fn restore(data_dir: Arc<DataDir>, clock: Clock, metrics: Metrics) -> Self {
        let held = data_dir.bootstrap_state();
        let state = State { again: held.again, since: held.since, attempts: held.attempts, doubt: None };
        let contact = Self { data_dir, clock, metrics, state: Mutex::new(state) };
        contact.report(&contact.state());
        contact
    }

    /// Counts one more attempt.
    pub(super) fn attempt(&self) -> Attempt {
        let mut state = self.state();
        state.attempts += 1;
        let since = *state.since.get_or_insert(self.clock.unix_now());
        self.keep(&state);
        let since = prost_types::Timestamp { seconds: since, nanos: 0 }.to_string();
        info!(
            mode = mode(state.again),
            attempt = state.attempts,
            started = since,
            "Server attestation attempt"
        );
        Attempt { mode: mode(state.again), number: state.attempts, since }
    }

    /// The server is not the one that the held bundle is of. Returns for how long that has been so.
    pub(super) fn doubt(&self) -> Duration {
        let mut state = self.state();
        if state.since.is_none() {
            (state.since, state.again) = (Some(self.clock.unix_now()), true);
            self.keep(&state);
        }
        state.doubt.get_or_insert_with(Instant::now).elapsed()
    }

    /// For how long the server has been somebody else; `None` if it is not.
    pub(super) fn doubted_for(&self) -> Option<Duration> {
        self.state().doubt.map(|since| since.elapsed())
    }

    /// The server proved to be the one that we know.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.doubt = None;
        let Some(since) = state.since.take() else {
            if !state.again {
                state.again = true;
                self.keep(&state);
            }
            return;
        };
        let seconds = self.clock.unix_now().saturating_sub(since);
        info!(seconds, attempts = state.attempts, "the server is known");
        (state.again, state.attempts) = (true, 0);
        self.keep(&state);
    }

    fn keep(&self, state: &State) {
        self.report(state);
        let kept = BootstrapState { again: state.again, since: state.since, attempts: state.attempts };
        self.data_dir.keep_bootstrap_state(kept);
    }

    fn report(&self, state: &State) {
        self.metrics.bootstrap(mode(state.again), state.since, state.attempts);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mode(again: bool) -> &'static str {
    if again { "rebootstrap" } else { "bootstrap" }
}
