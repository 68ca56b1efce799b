//! What is seen of it from outside: metrics for each cluster and kind, and one line in the readiness report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vouchsafe_cluster::ClusterError;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Token;

use super::object::Target;
use crate::config::publication::Publication;

/// The readiness of all publishers together. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Inner>);

struct Inner {
    token: Token,
    missing: Mutex<BTreeMap<String, String>>,
}

impl Standing {
    /// The server is ready whatever the clusters do.
    pub(crate) fn new(token: Token) -> Self {
        token.mark();
        Self(Arc::new(Inner { token, missing: Mutex::default() }))
    }

    /// The publisher `of` lacks something, or nothing.
    pub(super) fn tell(&self, of: &Publication, missing: Option<String>) {
        let publisher = format!("{} {}", of.plugin, of.cluster);
        let mut all = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        match missing {
            Some(why) => all.insert(publisher, why),
            None => all.remove(&publisher),
        };
        if all.is_empty() {
            self.0.token.mark();
        } else {
            self.0.token.degrade(&all.values().cloned().collect::<Vec<_>>().join("; "));
        }
    }
}

/// The metrics of one publisher.
#[derive(Clone)]
pub(super) struct Board {
    metrics: Registry,
    clock: Clock,
    plugin: &'static str,
    cluster: String,
}

/// How the objects of one kind are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Count {
    pub(super) objects: usize,
    pub(super) behind: usize,
    /// Whether these are all.
    pub(super) complete: bool,
}

impl Board {
    pub(super) fn new(metrics: Registry, clock: Clock, of: &Publication) -> Self {
        Self { metrics, clock, plugin: of.plugin, cluster: of.cluster.clone() }
    }

    /// A write ended.
    pub(super) fn wrote(&self, target: Target, outcome: &Result<(), ClusterError>, took: Duration) {
        let call = self.metrics.call("vouchsafe_bundle_write");
        call.observe(&self.labels(target), status(outcome), took);
    }

    /// Somebody else had changed what was right.
    pub(super) fn corrected(&self, target: Target) {
        self.metrics.counter("vouchsafe_bundle_corrections", &self.labels(target)).inc();
    }

    /// All objects of a kind were looked through.
    pub(super) fn count(&self, target: Target, count: Count) {
        let labels = self.labels(target);
        self.metrics.gauge("vouchsafe_bundle_objects", &labels).set(count.objects as f64);
        self.metrics.gauge("vouchsafe_bundle_objects_behind", &labels).set(count.behind as f64);
        let in_place = self.metrics.gauge("vouchsafe_bundle_in_place_seconds", &labels);
        if count.complete && count.behind == 0 {
            in_place.set(self.clock.unix_now() as f64);
        }
    }

    fn labels(&self, target: Target) -> [(&str, &str); 3] {
        [("plugin", self.plugin), ("cluster", &self.cluster), ("target", target.as_str())]
    }
}

/// The outcome, in the words of gRPC that all calls are counted with.
fn status(outcome: &Result<(), ClusterError>) -> &'static str {
    let Err(error) = outcome else { return "OK" };
    if error.is_forbidden() {
        return "PermissionDenied";
    }
    match error.class() {
        Class::Transient if error.is_conflict() => "Aborted",
        Class::Transient => "Unavailable",
        Class::Caller if error.is_not_found() => "NotFound",
        Class::Caller => "InvalidArgument",
        Class::Peer | Class::Permanent | Class::Bug => "Unknown",
    }
}
