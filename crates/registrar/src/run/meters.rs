//! What is counted about entries.

use vouchsafe_runtime::metrics::{Counter, Gauge, Histogram, Registry};

/// The meters of the loop for entries.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) created: Counter,
    pub(super) updated: Counter,
    pub(super) deleted: Counter,
    pub(super) refused: Counter,
    /// Turns that the server did not answer.
    pub(super) failed: Counter,
    /// Entries that are to be there.
    pub(super) declared: Gauge,
    /// Undeclared entries that stay.
    pub(super) held_back: Gauge,
    /// Pods that are followed.
    pub(super) pods: Gauge,
    /// How often one was looked at.
    pub(super) evaluated: Counter,
    /// How long a turn takes.
    pub(super) turn: Histogram,
}

impl Meters {
    pub(super) fn new(registry: &Registry) -> Self {
        let entries = |outcome| registry.counter("registrar_entries", &[("outcome", outcome)]);
        Self {
            created: entries("created"),
            updated: entries("updated"),
            deleted: entries("deleted"),
            refused: entries("refused"),
            failed: registry.counter("registrar_server_failures", &[]),
            declared: registry.gauge("registrar_entries_declared", &[]),
            held_back: registry.gauge("registrar_entries_held_back", &[]),
            pods: registry.gauge("registrar_pods", &[]),
            evaluated: registry.counter("registrar_pods_evaluated", &[]),
            turn: registry.histogram("registrar_turn_seconds", &[]),
        }
    }
}
