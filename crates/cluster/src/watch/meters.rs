//! What is seen of a follower from outside.

use std::time::SystemTime;

use vouchsafe_runtime::metrics::{Gauge, Registry};

use super::Selection;
use super::held::Held;
use super::plan::Outcome;

/// The metrics of one follower.
#[derive(Debug)]
pub(crate) struct Meters {
    registry: Registry,
    kind: String,
    objects: Gauge,
    unreadable: Gauge,
    confirmed: Gauge,
}

impl Meters {
    pub(crate) fn new(registry: &Registry, label: &str, selection: &Selection) -> Self {
        let mut kind = label.to_owned();
        for part in [&selection.namespace, &selection.labels, &selection.fields].into_iter().flatten() {
            kind = format!("{kind} {part}");
        }
        let gauge = |name: &str| registry.gauge(name, &[("kind", &kind)]);
        Self {
            registry: registry.clone(),
            objects: gauge("vouchsafe_watch_objects"),
            unreadable: gauge("vouchsafe_watch_unreadable_objects"),
            confirmed: gauge("vouchsafe_watch_confirmed_seconds"),
            kind,
        }
    }

    pub(crate) fn show<K>(&self, held: &Held<K>, now: SystemTime) {
        self.objects.set(held.objects.len() as f64);
        self.unreadable.set(held.unreadable.len() as f64);
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.confirmed.set(since.as_secs() as f64);
    }

    pub(crate) fn ended(&self, outcome: &Outcome) {
        let why = match outcome {
            Outcome::Listed => return,
            Outcome::Closed { .. } => "closed",
            Outcome::Silent => "silent",
            Outcome::Expired => "expired",
            Outcome::Older => "older",
            Outcome::NoStreaming => "no_streaming",
            Outcome::Failed(_) => "failed",
        };
        self.registry.counter("vouchsafe_watch_restarts", &[("kind", &self.kind), ("why", why)]).inc();
    }
}
