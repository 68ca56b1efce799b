//! New SVIDs wait for the bundle that verifies them.
//!
//! An agent that was cut off while the server's authority changed may get SVIDs of the new authority before the bundle that
//! has it. Handed out with the bundle of before, nobody could verify them, and what they replace may still be good. So they
//! wait for the bundle, which the synchronization fetches by itself. After [`PATIENCE`] they are taken as they are: a server
//! may sign with an authority that is in no bundle, and [`super::tolerance`] deals with that.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::{IssueLoop, Results};
use crate::taint::Distrust;

impl IssueLoop {
    /// Waits until the bundle has the authorities of `results`.
    pub(super) async fn await_bundle(&self, results: &Results) {
        let mut changes = self.identities.watch();
        let arrives =
            async { while self.bundle_lacks_an_authority_of(results) && changes.changed().await.is_ok() {} };
        if timeout(PATIENCE, arrives).await.is_err() {
            warn!("new SVIDs are signed by an authority that is not in the trust bundle");
        }
    }

    fn bundle_lacks_an_authority_of(&self, results: &Results) -> bool {
        let snapshot = self.identities.load();
        let Some(bundles) = &snapshot.bundles else { return false };
        let distrust = Distrust::of(&bundles.own.bundle);
        let issued = results.iter().filter_map(|(_, result)| result.as_ref().ok());
        issued.into_iter().any(|svid| distrust.lacks(svid.authority_key_id.as_deref()))
    }
}

/// How long new SVIDs wait for their bundle.
const PATIENCE: Duration = Duration::from_secs(30);
