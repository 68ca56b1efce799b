//! The trust domain's bundle in step with the authorities: each change is in the store, and in the read model, before
//! anybody acts on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use vouchsafe_ca::authority::AuthorityKind;
use vouchsafe_ca::authority::rotation::EffectError;
use vouchsafe_ca::authority::trust::{self, TrustError};
use vouchsafe_ca::upstream::{Published, UpstreamError};
use vouchsafe_store::{BundleUpdate, Rejected};
use vouchsafe_types::bundle::{Bundle, JwtAuthority};

use super::control::Refusal;
use super::{KEEP_EXPIRED, Shared};

/// Publishes JWT authorities of others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct JwtPublisher {
    shared: Arc<Shared>,
}

impl JwtPublisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Makes `authority` known; gives all that are.
    ///
    /// # Errors
    ///
    /// [`Full`]; or the upstream authority or the store did not take it, which is worth a retry.
    pub(crate) async fn publish(&self, authority: JwtAuthority) -> Result<Vec<JwtAuthority>, EffectError> {
        let held = held(&self.shared);
        if held.jwt_authorities.len() >= MAX_JWT_AUTHORITIES
            && held.jwt_authority(&authority.key_id).is_none()
        {
            return Err(Full.into());
        }
        publish_jwt(&self.shared, authority).await
    }
}

/// JWT authorities in the bundle beyond which none of other servers is added: it has to fit into one message to an agent.
/// This server's own are always added. A few that arrive at the same time may exceed it.
const MAX_JWT_AUTHORITIES: usize = 1_000;

/// There is no room for another server's JWT authority.
#[derive(Debug, thiserror::Error)]
#[error(
    "the bundle has {MAX_JWT_AUTHORITIES} JWT authorities; taint and revoke those that a server below should not have \
     published"
)]
struct Full;

/// How long the upstream authority may take to publish a JWT authority.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

/// What is done to the bundle. May be called more than once.
pub(super) type Change = Box<dyn Fn(&mut Bundle) -> Result<(), Rejected> + Send + Sync>;

/// Changes the bundle and waits until the read model, and so every agent that asks, has it.
pub(super) async fn change(shared: &Shared, change: Change) -> Result<BundleUpdate, EffectError> {
    let update = shared.store.update_bundle(&shared.plan.trust_domain, change).await?;
    if !shared.model.settled(update.position).await {
        return Err("the read model did not take the new bundle in time".into());
    }
    Ok(update)
}

/// Makes a JWT authority known: to the upstream authority, if it takes such, and to this trust domain's bundle. Gives all
/// JWT authorities that the bundle has then.
pub(super) async fn publish_jwt(
    shared: &Shared,
    authority: JwtAuthority,
) -> Result<Vec<JwtAuthority>, EffectError> {
    let mut known = match &shared.upstream {
        None => Vec::new(),
        Some(upstream) => {
            let published = timeout(PUBLISH_DEADLINE, upstream.publish_jwt_key(&authority)).await;
            match published.map_err(|_| UpstreamError::Deadline(PUBLISH_DEADLINE)).flatten()? {
                Published::Known(all) => all,
                Published::Unsupported => {
                    shared.jwt_stays_local.call_once(|| {
                        warn!(
                            plugin_name = upstream.name(),
                            "UpstreamAuthority plugin does not support JWT-SVIDs. Workloads managed by this server may \
                             have trouble communicating with workloads outside this cluster when using JWT-SVIDs."
                        );
                    });
                    Vec::new()
                }
            }
        }
    };
    known.push(authority);
    let append = move |bundle: &mut Bundle| {
        bundle.append([], known.clone());
        Ok(())
    };
    Ok(change(shared, Box::new(append)).await?.bundle.jwt_authorities)
}

/// Taints or revokes an authority in the bundle; `what` says what failed if it does.
pub(super) async fn distrust(
    shared: &Shared,
    what: &'static str,
    act: fn(&mut Bundle, AuthorityKind, &str) -> Result<(), TrustError>,
    (kind, id): (AuthorityKind, &str),
) -> Result<(), Refusal> {
    let owned = id.to_owned();
    let change: Change =
        Box::new(move |bundle| act(bundle, kind, &owned).map_err(|e| Rejected::new(e.to_string())));
    let updated = shared.store.update_bundle(&shared.plan.trust_domain, change).await;
    let updated = updated.map_err(|cause| Refusal::Store(what, cause))?;
    // Durable already: an agent sees it a moment later in the worst case.
    shared.model.settled(updated.position).await;
    Ok(())
}

/// Brings the bundle up to date with the upstream authority's.
pub(super) async fn follow(shared: &Shared, above: &Arc<Bundle>) -> Result<(), EffectError> {
    let tainted_before = tainted_ids(&held(shared));
    let from = Arc::clone(above);
    let follow = move |bundle: &mut Bundle| {
        trust::follow(bundle, &from);
        Ok(())
    };
    let after = change(shared, Box::new(follow)).await?.bundle;
    let left = after.x509_authorities.iter().filter_map(trust::authority_id).collect::<Vec<_>>();
    for subject_key_id in tainted_before.iter().filter(|id| !left.contains(id)) {
        info!(subject_key_id, "X.509 authority revoked");
    }
    Ok(())
}

/// Marks authorities of the upstream authority as tainted; those that are already, or gone, count as done.
pub(super) async fn taint_all(shared: &Shared, ids: Vec<String>) -> Result<(), EffectError> {
    let taint = move |bundle: &mut Bundle| {
        for id in &ids {
            // Unknown and tainted ones are the two errors, and both are what is wanted.
            trust::taint(bundle, AuthorityKind::X509, id).unwrap_or_default();
        }
        Ok(())
    };
    change(shared, Box::new(taint)).await.map(drop)
}

/// Removes authorities that expired long ago.
pub(super) async fn prune(shared: &Shared) {
    let call = shared.metrics.call("ca_manager_bundle_prune");
    let began = Instant::now();
    let keep = i64::try_from(KEEP_EXPIRED.as_secs()).unwrap_or(i64::MAX);
    let threshold = shared.clock.unix_now().saturating_sub(keep);
    let change = move |bundle: &mut Bundle| {
        bundle.prune(threshold).map(drop).map_err(|cause| Rejected::new(cause.to_string()))
    };
    let pruned = shared.store.update_bundle(&shared.plan.trust_domain, Box::new(change)).await;
    call.observe(&[], if pruned.is_ok() { "OK" } else { "Unknown" }, began.elapsed());
    match pruned {
        Ok(update) if update.changed => {
            shared.metrics.counter("ca_manager_bundle_pruned", &[]).inc();
            info!("Removed expired authorities from the bundle");
        }
        Ok(_) => {}
        Err(cause) => warn!(error = %cause, "Cannot remove expired authorities from the bundle"),
    }
}

/// The bundle as the read model has it.
pub(super) fn held(shared: &Shared) -> Arc<Bundle> {
    let trust_domain = &shared.plan.trust_domain;
    let held = shared.model.load().bundles.get(trust_domain).cloned();
    held.unwrap_or_else(|| Arc::new(Bundle::new(trust_domain.clone())))
}

fn tainted_ids(bundle: &Bundle) -> Vec<String> {
    let tainted = bundle.x509_authorities.iter().filter(|authority| authority.tainted);
    tainted.filter_map(trust::authority_id).collect()
}
