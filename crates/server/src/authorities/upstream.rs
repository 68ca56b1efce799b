//! What the upstream authority's bundle means for the authorities here. Done again at each tick until it succeeded, so a
//! taint above is never missed.
//!
//! The order matters: what a tainted authority certified here is replaced first, and only then is the authority marked as
//! tainted in this bundle. Agents and servers below start their own rotation at that mark, and must find a clean
//! authority to move to.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};
use vouchsafe_ca::authority::rotation::{self, EffectError};
use vouchsafe_ca::authority::trust;
use vouchsafe_types::bundle::Bundle;

use super::{Authorities, bundle};

/// Follows the upstream authority's bundle.
pub(super) struct Above {
    told: Option<watch::Receiver<Option<Arc<Bundle>>>>,
    /// What was told and is not done yet.
    due: Option<Arc<Bundle>>,
    /// Authorities whose taint was logged: at most those of one bundle.
    announced: BTreeSet<String>,
}

impl Above {
    pub(super) fn new(told: Option<watch::Receiver<Option<Arc<Bundle>>>>) -> Self {
        Self { told, due: None, announced: BTreeSet::new() }
    }

    /// Waits for news; for ever, if there will be none.
    pub(super) async fn news(&mut self) {
        if let Some(told) = &mut self.told
            && told.changed().await.is_ok()
        {
            self.due = told.borrow_and_update().clone();
            return;
        }
        self.told = None;
        std::future::pending().await
    }
}

impl Authorities {
    /// Does what the upstream authority's bundle asks for. Says whether nothing is left to do.
    pub(super) async fn follow_upstream(&mut self) -> bool {
        let Some(above) = self.above.due.clone() else { return true };
        match self.take_over(&above).await {
            Ok(()) => self.above.due = None,
            Err(error) => warn!(error, "Failed to process tainted keys on upstream authority"),
        }
        self.show();
        self.above.due.is_none()
    }

    async fn take_over(&mut self, above: &Arc<Bundle>) -> Result<(), String> {
        let told = |error: EffectError| super::chain(&*error);
        bundle::follow(&self.shared, above).await.map_err(told)?;
        self.note_tainted_jwt();
        let tainted = trust::newly_tainted(&bundle::held(&self.shared), above);
        if tainted.is_empty() {
            return Ok(());
        }
        self.above.announced.retain(|id| tainted.contains(id));
        for subject_key_id in &tainted {
            if self.above.announced.insert(subject_key_id.clone()) {
                info!(subject_key_id, "X.509 authority tainted");
            }
            self.x509.note_tainted(subject_key_id);
        }
        if self.x509.active_is_tainted() {
            info!("Current root CA is signed by a tainted upstream authority, preparing rotation");
            let effects = self.x509_effects();
            let now = self.shared.clock.now();
            let rotated = rotation::rotate(&mut self.x509, now, &effects).await;
            rotated.map_err(|error| super::chain(&error))?;
            self.cross(effects).await;
        }
        bundle::taint_all(&self.shared, tainted.clone()).await.map_err(told)?;
        let mut own = self.own.lock().await;
        tainted.iter().for_each(|id| own.leave(id));
        Ok(())
    }

    fn note_tainted_jwt(&mut self) {
        for authority in &bundle::held(&self.shared).jwt_authorities {
            if authority.tainted {
                self.jwt.note_tainted(&authority.key_id);
            }
        }
    }
}
