//! Writes how each object fares: its status, and an event when something is wrong with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};
use vouchsafe_cluster::{Cluster, ClusterError, EventType, Events, FieldManager, Kind, Name};
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;

use super::pauses::Pauses;
use crate::objects::Declaring;
use crate::status::{Complaints, Verdict, says, with_condition};

/// Cheap to clone; clones share what was told.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    cluster: Cluster,
    events: Events,
    clock: Clock,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By kind.
    complaints: HashMap<String, Complaints>,
    /// Kinds whose definition, not being ours, has no conditions.
    plain: Vec<String>,
    /// Kinds whose statuses cannot be written at present, such as in a folder that is only for reading.
    pauses: Pauses,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Told {
    /// The status says it.
    Said,
    /// It could not be written, and is not tried before this.
    Later(Instant),
}

impl Reports {
    pub(super) fn new(cluster: Cluster, events: Events, clock: Clock) -> Self {
        Self { cluster, events, clock, shared: Arc::default() }
    }

    /// Makes the object's status say `counts` and `verdict`. Writes nothing when it does, nor while statuses of the kind
    /// cannot be written.
    pub(super) async fn report<K: Declaring>(&self, object: &K, counts: Json, verdict: &Verdict) -> Told {
        self.tell(object, verdict);
        let status = if self.is_plain::<K>() {
            counts.clone()
        } else {
            with_condition(object, counts.clone(), verdict, self.clock.now())
        };
        if says(object, &status) {
            return Told::Said;
        }
        let (name, kind, now) = (Name::of(object), K::label(), Instant::now());
        let one = format!("{kind} {name}");
        if let Some(until) = self.lock().pauses.of(&[&kind, &one], now) {
            return Told::Later(until);
        }
        let manager = FieldManager::forcing(FIELD_MANAGER);
        let Ok(written) =
            timeout(LONGEST_WRITE, self.cluster.apply_status::<K>(&name, status, &manager)).await
        else {
            return self.pause(&kind, "no answer in time", |pauses, now| pauses.add(&kind, None, now));
        };
        match written {
            Ok(()) => {
                debug!(kind, object = %name, reason = verdict.reason, "Updated status");
                self.lock().pauses.end(&[&kind, &one]);
                Told::Said
            }
            Err(error) if error.is_not_found() => Told::Said,
            Err(error) if error.to_string().contains(UNDECLARED) && !self.is_plain::<K>() => {
                info!(kind, "The kind's definition has no conditions; writing counts only");
                self.lock().plain.push(kind);
                Told::Later(now)
            }
            Err(error) => self.failed((&kind, &one), &error),
        }
    }

    fn failed(&self, (kind, one): (&str, &str), error: &ClusterError) -> Told {
        let cause = error.to_string();
        match error.class() {
            Class::Transient => {
                self.pause(kind, &cause, |pauses, now| pauses.add(kind, error.retry_after(), now))
            }
            Class::Permanent => self.pause(kind, &cause, |pauses, now| pauses.add_longest(kind, now)),
            // Something about this object.
            _ => self.pause(one, &cause, |pauses, now| pauses.add_longest(one, now)),
        }
    }

    fn pause(
        &self,
        what: &str,
        cause: &str,
        add: impl FnOnce(&mut Pauses, Instant) -> (Instant, bool),
    ) -> Told {
        let (until, is_first) = add(&mut self.lock().pauses, Instant::now());
        if is_first {
            warn!(what, cause, "Failed to update status");
        }
        Told::Later(until)
    }

    /// An event for each new thing that is wrong.
    fn tell<K: Declaring>(&self, object: &K, verdict: &Verdict) {
        // What is on its way is nothing to speak of.
        if verdict.ready || verdict.reason == "Pending" {
            return;
        }
        let now = Instant::now();
        if !self.lock().complaints.entry(K::label()).or_default().is_due(object.name(), verdict, now) {
            return;
        }
        warn!(
            kind = K::label(),
            object = object.name(),
            reason = verdict.reason,
            cause = verdict.message,
            "Object is not ready"
        );
        self.events.record(&object.reference(), EventType::Warning, verdict.reason, &verdict.message);
    }

    /// Forgets objects that are gone.
    pub(super) fn keep<K: Kind>(&self, exists: impl Fn(&str) -> bool) {
        if let Some(complaints) = self.lock().complaints.get_mut(&K::label()) {
            complaints.keep(exists);
        }
    }

    fn is_plain<K: Kind>(&self) -> bool {
        self.lock().plain.contains(&K::label())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Owns the fields of statuses.
const FIELD_MANAGER: &str = "vouchsafe-registrar";
/// What the API server says of fields that a definition does not have.
const UNDECLARED: &str = "not declared in schema";
/// How long the write of one status may take.
const LONGEST_WRITE: Duration = Duration::from_secs(1);
