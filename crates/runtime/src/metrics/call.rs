//! Calls by outcome.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::registry::{Counter, Labels, Registry};
use super::summary::Summary;

/// Counts calls by outcome and times them in milliseconds. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Call(Arc<CallInner>);

#[derive(Debug)]
struct CallInner {
    registry: Registry,
    name: String,
    elapsed: String,
    known: RwLock<Vec<Outcome>>,
}

/// The series of one outcome, found again without building a key.
#[derive(Debug)]
struct Outcome {
    extra: Labels,
    status: String,
    count: Counter,
    elapsed: Summary,
}

/// More outcomes than this are looked up in the registry each time.
pub(super) const MAX_KNOWN_OUTCOMES: usize = 32;

impl Call {
    pub(super) fn new(registry: Registry, name: &str) -> Self {
        Self(Arc::new(CallInner {
            registry,
            name: name.to_owned(),
            elapsed: format!("{name}_elapsed_time"),
            known: RwLock::new(Vec::new()),
        }))
    }

    /// One call has ended with `status` after `elapsed`.
    pub fn observe(&self, extra_labels: &[(&str, &str)], status: &str, elapsed: Duration) {
        let millis = elapsed.as_secs_f64() * 1_000.0;
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = known.iter().find(|known| known.is(extra_labels, status)) {
            outcome.count.inc();
            outcome.elapsed.observe(millis);
            return;
        }
        drop(known);
        self.learn(extra_labels, status, millis);
    }

    fn learn(&self, extra_labels: &[(&str, &str)], status: &str, millis: f64) {
        let mut all = extra_labels.to_vec();
        all.push(("status", status));
        let count = self.0.registry.counter(&self.0.name, &all);
        let elapsed = self.0.registry.summary(&self.0.elapsed, &all);
        count.inc();
        elapsed.observe(millis);
        let extra =
            extra_labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let outcome = Outcome { extra, status: status.to_owned(), count, elapsed };
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_KNOWN_OUTCOMES && !known.iter().any(|known| known.is(extra_labels, status)) {
            known.push(outcome);
        }
    }
}

impl Outcome {
    fn is(&self, extra: &[(&str, &str)], status: &str) -> bool {
        self.status == status
            && self.extra.len() == extra.len()
            && self.extra.iter().zip(extra).all(|(own, other)| own.0 == other.0 && own.1 == other.1)
    }
}
