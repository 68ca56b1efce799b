//! From a journal and the key manager's keys back to slots.
//!
//! An entry counts only if its slot's key is still in the key manager and, for a root, if the bundle still has
//! it: nobody could verify what another would sign. What does not count is skipped with a warning, and the slot
//! machine makes a new authority.

use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use super::{Journal, JwtEntry, X509Entry};
use crate::authority::{Authority, SlotId, Slots, Status};
use crate::der::time;
use crate::jwt::JwtKey;
use crate::key_manager::{KeyManager, KeyManagerError};
use crate::signer::Signer;
use crate::x509::X509Ca;

/// The X.509 authorities of a journal. `bundle` is the trust domain's, if there is one yet; `has_upstream` says whether
/// new authorities are certified by an upstream authority.
///
/// # Errors
///
/// [`KeyManagerError`] if the key manager cannot be asked: it may come back, so nothing is made in its place.
pub async fn load_x509(
    journal: &Journal,
    keys: &dyn KeyManager,
    trust_domain: &TrustDomain,
    (bundle, has_upstream): (Option<&Bundle>, bool),
    now: SystemTime,
) -> Result<Slots<X509Ca>, KeyManagerError> {
    let mut held = Vec::new();
    for entry in &journal.x509 {
        let Some((slot, signer)) = key_of::<X509Ca>(&entry.slot_id, keys).await? else { continue };
        match x509_authority(entry, signer, trust_domain, (bundle, has_upstream), now) {
            Ok((authority, tainted)) => {
                held.push((slot, entry.status().into(), Arc::new(authority), tainted))
            }
            Err(reason) => {
                let (status, local_authority_id) = (Status::from(entry.status()), &entry.authority_id);
                tracing::warn!(%slot, %status, local_authority_id, reason, "X509CA slot unusable");
            }
        }
    }
    Ok(Slots::restored(held))
}

/// The JWT authorities of a journal. `bundle` is the trust domain's, if there is one yet.
///
/// # Errors
///
/// [`KeyManagerError`] if the key manager cannot be asked: it may come back, so nothing is made in its place.
pub async fn load_jwt(
    journal: &Journal,
    keys: &dyn KeyManager,
    trust_domain: &TrustDomain,
    bundle: Option<&Bundle>,
    now: SystemTime,
) -> Result<Slots<JwtKey>, KeyManagerError> {
    let mut held = Vec::new();
    for entry in &journal.jwt {
        let Some((slot, signer)) = key_of::<JwtKey>(&entry.slot_id, keys).await? else { continue };
        match jwt_authority(entry, signer, trust_domain, bundle, now) {
            Ok((authority, tainted)) => {
                held.push((slot, entry.status().into(), Arc::new(authority), tainted))
            }
            Err(reason) => {
                let (status, local_authority_id) = (Status::from(entry.status()), &entry.authority_id);
                tracing::warn!(%slot, %status, local_authority_id, reason, "JWT key slot unusable");
            }
        }
    }
    Ok(Slots::restored(held))
}

type HeldKey = (SlotId, Arc<dyn Signer>);

async fn key_of<A: Authority>(slot: &str, keys: &dyn KeyManager) -> Result<Option<HeldKey>, KeyManagerError> {
    let Some(slot) = SlotId::parse(slot) else { return Ok(None) };
    let signer = keys.get(&A::KIND.key_id(slot)).await?;
    Ok(signer.map(|signer| (slot, signer)))
}

fn x509_authority(
    entry: &X509Entry,
    signer: Arc<dyn Signer>,
    trust_domain: &TrustDomain,
    (bundle, has_upstream): (Option<&Bundle>, bool),
    now: SystemTime,
) -> Result<(X509Ca, bool), String> {
    if entry.not_after < time::unix(now) {
        return Err("slot expired".into());
    }
    let listed = |bundle: &Bundle| {
        bundle.x509_authorities.iter().find(|held| *held.der == *entry.certificate).map(|held| held.tainted)
    };
    let root = entry.upstream_chain.is_empty();
    let tainted = match bundle {
        Some(bundle) if root => listed(bundle).ok_or("not in the trust domain's bundle")?,
        _ => false,
    };
    if !root && !has_upstream {
        return Err("certified by an upstream authority, and there is none now".into());
    }
    let chain = entry.upstream_chain.iter().map(|der| Arc::from(der.as_slice())).collect();
    let certificate = Arc::from(entry.certificate.as_slice());
    let ca = X509Ca::new(trust_domain.clone(), certificate, chain, signer, entry.issued_at);
    let ca = ca.map_err(|error| error.to_string())?;
    let below_tainted = bundle.is_some_and(|bundle| !root && is_below_tainted(&ca, bundle));
    Ok((ca, tainted || below_tainted))
}

/// Whether the root that `ca` leads to is tainted.
fn is_below_tainted(ca: &X509Ca, bundle: &Bundle) -> bool {
    let tainted = bundle.x509_authorities.iter().filter(|authority| authority.tainted);
    tainted.filter_map(|authority| authority.parsed().ok()).any(|root| ca.is_under(&root.authority_id()))
}

fn jwt_authority(
    entry: &JwtEntry,
    signer: Arc<dyn Signer>,
    trust_domain: &TrustDomain,
    bundle: Option<&Bundle>,
    now: SystemTime,
) -> Result<(JwtKey, bool), String> {
    if entry.not_after < time::unix(now) {
        return Err("slot expired".into());
    }
    if signer.public_key_der() != entry.public_key {
        return Err("public key does not match key manager key".into());
    }
    let listed = |bundle: &Bundle| bundle.jwt_authority(&entry.kid).map(|held| held.tainted);
    let tainted = match bundle {
        Some(bundle) => listed(bundle).ok_or("not in the trust domain's bundle")?,
        None => false,
    };
    let key = JwtKey::new(trust_domain.clone(), signer, entry.kid.clone(), entry.issued_at, entry.not_after);
    Ok((key, tainted))
}
