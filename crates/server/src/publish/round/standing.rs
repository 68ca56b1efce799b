//! What a round tells of its standing: readiness, and the log when all is in place.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Round;
use crate::publish::board::Count;
use crate::publish::decide::Track;
use crate::publish::object::Target;

impl Round {
    /// Tells what is missing, or that all is in place.
    pub(super) fn tell(&mut self, counts: &BTreeMap<Target, Count>, at: Instant) {
        let cluster = &self.setup.publication.cluster;
        let behind: usize = counts.values().map(|count| count.behind).sum();
        let unknown = counts.iter().find(|(_, count)| !count.complete).map(|(target, _)| target.as_str());
        let late = |track: &Track| track.behind_since().is_some_and(|since| at >= since + PATIENCE);
        let missing = if let Some((object, why)) = self.causes.iter().next() {
            Some(format!("{behind} objects of cluster {cluster} lack the trust bundle: {object}: {why}"))
        } else if let Some((object, _)) = self.tracks.iter().find(|(_, track)| late(track)) {
            Some(format!("{behind} objects of cluster {cluster} lack the trust bundle: {object}"))
        } else {
            let kind = unknown.filter(|_| at >= self.began + PATIENCE);
            kind.map(|kind| {
                format!("the {kind} of cluster {cluster} cannot be listed, to put the trust bundle there")
            })
        };
        self.setup.standing.tell(&self.setup.publication, missing);
        let is_in_place = behind == 0 && unknown.is_none() && self.bundle.is_some();
        if is_in_place && !self.was_in_place {
            let objects: usize = counts.values().map(|count| count.objects).sum();
            info!(cluster, objects, "The trust bundle is in place");
            self.was_in_place = true;
        }
    }
}

/// How long something may lack the bundle before readiness tells.
const PATIENCE: Duration = Duration::from_secs(20);
