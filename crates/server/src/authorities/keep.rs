//! What goes on beside the rotation: the server's own SVID, and whom it trusts.

use tokio::sync::Mutex;
use tracing::warn;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};

use super::own_svid::OwnSvidRotation;
use super::{Shared, ticks};
use crate::model::ReadModel;

/// Renews the server's own SVID whenever it is due, and at once when another authority is active.
pub(super) async fn keep_issued(own: &Mutex<OwnSvidRotation>) {
    let mut tick = ticks();
    loop {
        tick.tick().await;
        if let Err(cause) = own.lock().await.rotate_if_due().await {
            warn!(error = %cause, "Cannot renew the server's own SVID; trying again");
        }
    }
}

/// Keeps trusting whom the bundles in the model name. Ends with the model.
pub(super) async fn keep_trusted(shared: &Shared, roots: &RootsCell) {
    let mut changed = shared.model.watch();
    while changed.changed().await.is_ok() {
        refresh(roots, &shared.model);
    }
}

pub(super) fn refresh(roots: &RootsCell, model: &ReadModel) {
    roots.set(TrustRoots::of(model.load().bundles.iter().map(|(_, bundle)| &**bundle)));
}
