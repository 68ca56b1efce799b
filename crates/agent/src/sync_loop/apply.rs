//! From what a server said to what is served.

use std::sync::Arc;

use tracing::{debug, info};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::SyncLoop;
use crate::bundles::Bundles;
use crate::entries::EntryIndex;
use crate::explain::Notes;
use crate::identities::Snapshot;
use crate::metrics::Metrics;
use crate::push::Delta;
use crate::sync::{Outcome, Stats};

impl SyncLoop {
    /// Puts the answer of a full synchronization in the place of what is held.
    pub(super) fn apply(&self, outcome: Outcome, own: Bundle, federated: Vec<Bundle>) {
        let metrics = &self.metrics;
        let notes = &self.notes;
        self.identities.edit(|snapshot| {
            let bundles = snapshot.bundles.take();
            let (bundles, bundles_changed) = match &bundles {
                Some(held) => held.replace(own, federated),
                None => Bundles::of(own.clone()).replace(own, federated),
            };
            let first = !std::mem::replace(&mut snapshot.synchronized, true);
            snapshot.bundles = Some(Arc::new(bundles));
            if outcome.changed {
                let next = EntryIndex::build(outcome.entries, &snapshot.index);
                report(metrics, &snapshot.index, &next);
                note_removed(notes, &snapshot.index, &next);
                snapshot.index = Arc::new(next);
                drop_orphans(snapshot);
            }
            bundles_changed || outcome.changed || first
        });
    }

    /// Changes some of what is held. `bundles` are the own one and all of the trust domains that entries federate with, if
    /// any of them may differ.
    pub(super) fn apply_delta(&self, delta: Delta, bundles: Option<(Bundle, Vec<Bundle>)>) -> Stats {
        let (metrics, notes) = (&self.metrics, &self.notes);
        let mut stats = Stats::default();
        self.identities.edit(|snapshot| {
            let mut changed = false;
            if let (Some((own, federated)), Some(held)) = (bundles, &snapshot.bundles) {
                let (next, differs) = held.replace(own, federated);
                changed = differs;
                snapshot.bundles = Some(Arc::new(next));
            }
            stats.total = snapshot.index.len();
            if delta.changed.is_empty() && delta.removed.is_empty() {
                return changed;
            }
            let known =
                |entry: &&crate::entries::WorkloadEntry| snapshot.index.get(entry.id.as_str()).is_some();
            stats.stale = delta.changed.iter().filter(known).count();
            (stats.missing, stats.dropped) = (delta.changed.len() - stats.stale, delta.removed.len());
            let next = snapshot.index.with(delta.changed, &delta.removed);
            stats.total = next.len();
            report(metrics, &snapshot.index, &next);
            note_removed(notes, &snapshot.index, &next);
            snapshot.index = Arc::new(next);
            drop_orphans(snapshot);
            true
        });
        stats
    }
}

/// Takes away SVIDs that no entry stands for any more, or whose entry means somebody else now.
fn drop_orphans(snapshot: &mut Snapshot) {
    let index = Arc::clone(&snapshot.index);
    let stands =
        |id: &str, spiffe_id: &SpiffeId| index.get(id).is_some_and(|slot| slot.entry.spiffe_id == *spiffe_id);
    if snapshot.svids.iter().any(|(id, svid)| !stands(id.as_str(), &svid.spiffe_id)) {
        Arc::make_mut(&mut snapshot.svids).retain(|id, svid| stands(id.as_str(), &svid.spiffe_id));
    }
}

fn report(metrics: &Metrics, before: &EntryIndex, after: &EntryIndex) {
    let (mut added, mut updated, mut removed) = (0, 0, 0);
    for slot in after.iter() {
        let (entry_id, spiffe_id) = (&slot.entry.id, &slot.entry.spiffe_id);
        match before.get(entry_id.as_str()) {
            None => {
                added += 1;
                debug!(%entry_id, %spiffe_id, "Entry created");
            }
            Some(old) if !Arc::ptr_eq(old, slot) => {
                updated += 1;
                debug!(%entry_id, %spiffe_id, "Entry updated");
            }
            Some(_) => {}
        }
    }
    for slot in before.iter().filter(|slot| after.get(slot.entry.id.as_str()).is_none()) {
        removed += 1;
        debug!(entry_id = %slot.entry.id, spiffe_id = %slot.entry.spiffe_id, "Entry removed");
    }
    if added + updated + removed > 0 {
        info!(added, updated, removed, total = after.len(), "entries changed");
    }
    metrics.entries_changed(added, updated, removed, after.len());
}

fn note_removed(notes: &Notes, before: &EntryIndex, after: &EntryIndex) {
    before
        .iter()
        .filter(|slot| after.get(slot.entry.id.as_str()).is_none())
        .for_each(|slot| notes.removed(&slot.entry));
}

/// The sequence number grows with every change of a bundle; 0 means that nobody counts.
pub(super) fn is_older(held: Option<&Bundles>, offered: &Bundle) -> bool {
    offered.sequence_number != 0
        && held.is_some_and(|held| offered.sequence_number < held.own.bundle.sequence_number)
}
