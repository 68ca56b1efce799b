//! The server's own X.509-SVID, which it presents on its TCP listener.
//!
//! Issued by the active authority like any other, renewed at half its life, at once when another authority is
//! activated, and at once when the clock no longer lies within its life.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info};
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::signer::Signer;
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::Shared;
use super::effects::Bridge;

/// Issues into a cell that the listener reads at each handshake.
pub(super) struct OwnSvidRotation {
    shared: Arc<Shared>,
    cell: SvidCell,
    issued_by: Option<String>,
    /// To the authorities that had to sign at once, newest first.
    bridges: VecDeque<Bridge>,
}

/// Most jumps of the clock, one soon after the other, that a client may have missed.
const MAX_BRIDGES: usize = 4;

impl OwnSvidRotation {
    pub(super) fn new(shared: Arc<Shared>, cell: SvidCell) -> Self {
        Self { shared, cell, issued_by: None, bridges: VecDeque::new() }
    }

    /// From the next SVID on, which is due at once, the chain reaches the authorities before the active one too.
    pub(super) fn cross(&mut self, bridge: Bridge) {
        self.bridges.truncate(MAX_BRIDGES - 1);
        self.bridges.push_front(bridge);
        self.issued_by = None;
    }

    /// Has the SVID replaced if the tainted authority `id` is in its chain.
    pub(super) fn leave(&mut self, id: &str) {
        let Some(held) = self.cell.load() else { return };
        let read = held.chain.iter().filter_map(|der| Certificate::parse(der).ok());
        if read.map(|certificate| certificate.issuer_authority_id()).any(|issuer| issuer == id) {
            info!("Server SVID signed using a tainted authority, forcing rotation of the Server SVID");
            self.issued_by = None;
        }
    }

    /// From the next SVID on, nobody is reached any more through an authority that was revoked.
    pub(super) fn drop_bridges(&mut self) {
        if !self.bridges.is_empty() {
            self.bridges.clear();
            self.issued_by = None;
        }
    }

    /// Issues a new SVID if one is due.
    pub(super) async fn rotate_if_due(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let now = self.shared.clock.unix_now();
        let held = self.cell.load();
        let fresh = held.is_some_and(|svid| {
            let half = svid.not_before + (svid.not_after - svid.not_before) / 2;
            (svid.not_before..half).contains(&now)
        });
        let active = self.shared.issuer.x509_authority_id();
        if fresh && active == self.issued_by {
            return Ok(());
        }
        let began = Instant::now();
        let issued = self.issue(active.as_deref()).await;
        let status = if issued.is_ok() { "OK" } else { "Unknown" };
        self.shared.metrics.call("svid_rotate").observe(&[], status, began.elapsed());
        issued?;
        self.issued_by = active;
        Ok(())
    }

    async fn issue(&self, authority: Option<&str>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        debug!("Rotating server SVID");
        let id = SpiffeId::server(&self.shared.plan.trust_domain);
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let mut issued = self.shared.issuer.workload_x509(&id, key.public_key_der(), &[], 0, None).await?;
        // All of them: a clock that jumps twice leaves people behind who know neither of the last two.
        if self.bridges.front().is_some_and(|newest| Some(newest.authority_id.as_str()) == authority) {
            issued.chain.extend(self.bridges.iter().map(|bridge| bridge.der.clone()));
        }
        self.cell.set(OwnSvid::from_pkcs8(&issued.chain, &key.pkcs8()?))?;
        info!(spiffe_id = %id, expiration = issued.not_after, "Signed X509 SVID");
        Ok(())
    }
}
