//! What people are told about writes: the log, and events on the objects.

use tracing::{debug, error, info, warn};
use vouchsafe_cluster::{ClusterError, EventType, Events};
use vouchsafe_runtime::class::Class;

use super::object::Object;
use crate::status::Chain;

/// Tells about the writes of one cluster.
pub(super) struct Reports {
    pub(super) cluster: String,
    pub(super) events: Events,
}

impl Reports {
    /// A write or a look failed, for the `failures`th time.
    pub(super) fn failed(&self, object: &Object, uid: &str, (cause, failures): (&ClusterError, u32)) {
        let why = Chain(cause).to_string();
        let (cluster, told) = (&self.cluster, object);
        match cause.class() {
            _ if failures > 1 => {
                debug!(cluster, object = %told, error = why, failures, "The trust bundle is still not written");
            }
            Class::Permanent => {
                error!(cluster, object = %told, error = why, "Cannot write the trust bundle; trying again");
            }
            _ => {
                warn!(cluster, object = %told, error = why, "Cannot write the trust bundle yet; trying again")
            }
        }
        // One that lost a race, or whose API server is away, is nothing to read about on the object.
        if cause.class() != Class::Transient {
            let message = format!("the trust bundle is not written: {why}");
            self.events.record(&object.reference(uid), EventType::Warning, "BundleNotWritten", &message);
        }
    }

    /// Somebody else changed what was right.
    pub(super) fn corrects(&self, object: &Object, uid: &str) {
        let message = "somebody else writes where the trust bundle is kept; it is put back, at a low rate";
        warn!(
            cluster = self.cluster, object = %object,
            "Somebody else changed the trust bundle in an object; putting it back"
        );
        self.events.record(&object.reference(uid), EventType::Warning, "BundleOverwritten", message);
    }

    /// A write succeeded; `failures` had failed before.
    pub(super) fn written(&self, object: &Object, failures: u32) {
        let cluster = &self.cluster;
        if failures > 0 {
            info!(cluster, object = %object, failures, "The trust bundle is written at last");
        } else {
            debug!(cluster, object = %object, "The trust bundle is written");
        }
    }
}
