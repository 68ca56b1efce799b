//! The agent's own SVID: how it is taken over at start, renewed and kept.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::signer::Signer;
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_identity::own::OwnSvid;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::blocking;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::x509_svid::X509Svid;

use super::{Node, NodeError};
use crate::metrics::status_name;
use crate::rotation::Lifetime;
use crate::status::Phase;
use crate::taint;
use crate::trust::error_source;

/// The agent's own SVID as it is kept here.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) key_id: &'static str,
    pub(super) reattestable: bool,
    pub(super) lifetime: Lifetime,
    pub(super) suffix: String,
    /// The root that it leads to.
    pub(super) authority_key_id: Option<Box<[u8]>>,
    /// The server denied something to its holder.
    pub(super) denied: bool,
    /// Until then it is kept although its authority is tainted.
    pub(super) tolerated_until: Instant,
}

/// An SVID that was taken over at start.
#[derive(Clone, Debug)]
pub struct Restored {
    pub(super) own: Own,
}

impl Node {
    /// Takes over the SVID that the data directory and the key manager hold, if it can be used. Ended or not.
    ///
    /// # Errors
    ///
    /// [`NodeError::DataDir`], [`NodeError::Key`]; [`NodeError::OtherTrustDomain`] for the SVID of somebody else's agent.
    pub async fn restore(&self) -> Result<Option<Restored>, NodeError> {
        let Some((svid, reattestable)) = self.data_dir.svid().map_err(NodeError::DataDir)? else {
            return Ok(None);
        };
        if !svid.id.is_member_of(&self.trust_domain) {
            let expected = self.trust_domain.clone();
            return Err(NodeError::OtherTrustDomain { id: Box::new(svid.id), expected });
        }
        let leaf =
            Certificate::parse(&svid.chain[0]).map_err(|error| NodeError::Unusable(error.to_string()))?;
        let start = Instant::now();
        let keys = self.key_manager.list().await;
        self.metrics.get_keys().observe(&[], outcome(&keys), start.elapsed());
        let keys = keys.map_err(NodeError::Key)?;
        let key_id = keys.iter().find_map(|(id, key)| {
            let slot = KEY_SLOTS.iter().find(|slot| *slot == id)?;
            (key.public_key_der() == leaf.public_key_der).then_some(*slot)
        });
        let Some(key_id) = key_id else {
            match keys.is_empty() {
                true => warn!("SVID recovered, but no keys found. Generating new keypair"),
                false => warn!("SVID recovered, but no SVID key found. Generating new keypair"),
            }
            return Ok(None);
        };
        // When it arrived is not known any more; it was valid then.
        let own = self.install(&svid, key_id, reattestable, self.clock.unix_now().max(svid.not_before))?;
        info!(spiffe_id = %svid.id, "SVID loaded");
        Ok(Some(Restored { own }))
    }

    pub(super) async fn renew(&self, own: &Own) -> Result<Own, NodeError> {
        debug!("Rotating agent SVID");
        let start = Instant::now();
        let outcome = self.renew_once(own).await;
        let status = outcome.as_ref().map_or_else(|error| status_name(error.code()), |_| "OK");
        self.metrics.rotate().observe(&[], status, start.elapsed());
        outcome
    }

    async fn renew_once(&self, own: &Own) -> Result<Own, NodeError> {
        let (slot, csr) = self.new_request(own.key_id).await?;
        let issued = self.client.renew_agent(csr).await.map_err(NodeError::Server)?;
        let svid = read_svid(issued)?;
        let own = self.keep(svid.clone(), slot, own.reattestable).await?;
        info!(spiffe_id = %svid.id, "Successfully rotated agent SVID");
        Ok(own)
    }

    /// A new key in the slot that `current` is not in, and the request for its certificate.
    pub(super) async fn new_request(
        &self,
        current: &'static str,
    ) -> Result<(&'static str, Vec<u8>), NodeError> {
        let slot = if current == KEY_SLOTS[0] { KEY_SLOTS[1] } else { KEY_SLOTS[0] };
        let start = Instant::now();
        let key = self.key_manager.generate(slot, KeyType::EcP256).await;
        self.metrics.generate_key().observe(&[], outcome(&key), start.elapsed());
        let key: Arc<dyn Signer> = key.map_err(NodeError::Key)?;
        let csr = create_csr(key.as_ref(), None).await.map_err(NodeError::Sign)?;
        Ok((slot, csr))
    }

    /// Uses `svid` from now on and stores it.
    pub(super) async fn keep(
        &self,
        svid: X509Svid,
        slot: &'static str,
        reattestable: bool,
    ) -> Result<Own, NodeError> {
        let own = self.install(&svid, slot, reattestable, self.clock.unix_now())?;
        self.notes.node_is_well();
        self.notes.issued_at(svid.not_before, self.clock.unix_now());
        let data_dir = Arc::clone(&self.data_dir);
        let stored = blocking::run(move || data_dir.store_svid(&svid, reattestable)).await;
        if let Ok(Err(error)) = stored {
            warn!(error = %error, cause = error_source(&error), "Could not store SVID");
        }
        self.client.reconnect();
        Ok(own)
    }

    fn install(
        &self,
        svid: &X509Svid,
        slot: &'static str,
        reattestable: bool,
        received_at: i64,
    ) -> Result<Own, NodeError> {
        let start = Instant::now();
        let key = self.key_manager.private_key(slot).ok_or_else(|| NodeError::ForeignKey(slot.to_owned()));
        self.metrics.get_key().observe(&[], outcome(&key), start.elapsed());
        let pkcs8 = key?.pkcs8().map_err(|error| NodeError::Unusable(error.to_string()))?;
        self.cell.set(OwnSvid::from_pkcs8(&svid.chain, &pkcs8)).map_err(NodeError::Own)?;
        self.status.set(|status| {
            (status.id, status.svid_expires_at) = (Some(svid.id.clone()), Some(svid.not_after));
            if status.phase == Phase::Attesting {
                status.phase = Phase::Synchronizing;
            }
        });
        let key = svid.id.as_str().as_bytes();
        let lifetime = self.policy.lifetime((svid.not_before, svid.not_after), received_at, key);
        if self.policy.falls_back(svid.not_before, svid.not_after) {
            warn!(spiffe_id = %svid.id, "X509 SVID lifetime isn't long enough to guarantee the availability_target, falling back to the default rotation strategy");
        }
        Ok(Own {
            key_id: slot,
            reattestable,
            lifetime,
            suffix: svid.id.path().rsplit('/').next().unwrap_or_default().to_owned(),
            authority_key_id: taint::root_key_id(&svid.chain),
            denied: false,
            tolerated_until: Instant::now(),
        })
    }
}

pub(super) fn read_svid(svid: types::X509svid) -> Result<X509Svid, NodeError> {
    let chain = svid.cert_chain.iter().map(|der| Arc::from(der.as_ref())).collect();
    let svid = X509Svid::parse(chain).map_err(|error| NodeError::Unusable(error.to_string()))?;
    if !svid.id.is_agent() {
        return Err(NodeError::Unusable(format!("{} is not an agent", svid.id)));
    }
    Ok(svid)
}

fn outcome<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "OK" } else { "Unknown" }
}

/// SPIRE's names of the two keys that take turns.
pub(super) const KEY_SLOTS: [&str; 2] = ["agent-svid-A", "agent-svid-B"];
