//! Which SVIDs of an agent were replaced, as far as this server has seen it.
//!
//! Servers whose clocks differ cannot tell from dates alone which of two SVIDs is the later one; who saw the change can.
//! Not kept over a restart: docs/decisions/0007 says what that costs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vouchsafe_types::spiffe_id::SpiffeId;

/// The serial numbers of each agent that were replaced last, at most [`KEPT`].
#[derive(Debug, Default)]
pub(super) struct Replaced(Mutex<HashMap<SpiffeId, VecDeque<String>>>);

/// More than an agent replaces within the minute in which dates may deceive.
const KEPT: usize = 4;

/// Most agents that are remembered. Beyond it all are forgotten, and dates alone decide.
const MAX: usize = 100_000;

impl Replaced {
    pub(super) fn note(&self, id: &SpiffeId, serial: &str) {
        if serial.is_empty() {
            return;
        }
        let mut held = self.lock();
        if held.len() >= MAX && !held.contains_key(id) {
            held.clear();
        }
        let of_agent = held.entry(id.clone()).or_default();
        of_agent.truncate(KEPT - 1);
        of_agent.push_front(serial.to_owned());
    }

    pub(super) fn has(&self, id: &SpiffeId, serial: &str) -> bool {
        self.lock().get(id).is_some_and(|replaced| replaced.iter().any(|each| each == serial))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, VecDeque<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
