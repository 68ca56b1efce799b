//! Does what the slot machine planned: make, publish, record, activate, in this order.
//!
//! An authority signs nothing before it was published, so whoever can fetch the bundle can verify. If making or
//! publishing fails, the active authority stays what it was and the next tick tries again. A journal that cannot
//! be written costs a new authority after a restart and no more: it is reported and the rotation goes on.

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use super::plan::{Step, plan};
use super::slots::{SlotError, SlotId, Slots};
use super::{Authority, AuthorityKind};

/// What a rotation does to the world.
#[async_trait]
pub trait Effects<A: Authority>: Send + Sync {
    /// Makes an authority with a new key in `slot`; see [`super::create_x509_ca`] and [`super::create_jwt_key`].
    async fn create(&self, slot: SlotId) -> Result<A, EffectError>;

    /// Adds the authority to the bundle (or to the upstream's); returns when it is durably there.
    async fn publish(&self, authority: &A) -> Result<(), EffectError>;

    /// Writes a change into the journal; see [`crate::journal::Journal::record`].
    async fn record(&self, change: Change<'_, A>) -> Result<(), EffectError>;

    /// From now on this authority signs.
    fn activated(&self, authority: &Arc<A>);
}

/// Why an effect failed.
pub type EffectError = Box<dyn Error + Send + Sync>;

/// A change that the journal records.
#[derive(Debug)]
pub enum Change<'a, A> {
    /// An authority was prepared.
    Prepared {
        /// Where.
        slot: SlotId,
        /// The authority.
        authority: &'a A,
    },
    /// A prepared authority signs now, and the one before it, if any, is old.
    Activated {
        /// Id of the active authority.
        id: &'a str,
        /// Id of the old one.
        old: Option<&'a str>,
    },
}

/// A rotation stopped half-way; what was done stays done and is consistent.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// No authority was made.
    #[error("no new authority was made")]
    Create(#[source] EffectError),
    /// The bundle does not have it.
    #[error("the new authority could not be added to the bundle")]
    Publish(#[source] EffectError),
    /// The slots do not allow it.
    #[error("the authority's slot does not allow it")]
    Slot(#[source] SlotError),
}

/// Does whatever is due at `now`. Returns what was done.
///
/// # Errors
///
/// [`RotateError`]: try again at the next tick.
///
/// # Cancel safety
///
/// When dropped, the active authority is untouched; the other slot may be empty.
pub async fn rotate<A: Authority>(
    slots: &mut Slots<A>,
    now: SystemTime,
    effects: &dyn Effects<A>,
) -> Result<Vec<Step>, RotateError> {
    let steps = plan(now, slots);
    for step in &steps {
        match *step {
            Step::Prepare(slot) => drop(prepare_in(slot, slots, effects).await?),
            Step::Activate(slot) => drop(activate(slots, slot, effects).await?),
        }
    }
    Ok(steps)
}

/// Prepares an authority because an operator asked for it, in place of one that is already prepared.
///
/// # Errors
///
/// [`RotateError`].
pub async fn prepare<A: Authority>(
    slots: &mut Slots<A>,
    effects: &dyn Effects<A>,
) -> Result<Arc<A>, RotateError> {
    prepare_in(slots.preparation_slot(), slots, effects).await
}

/// Activates the authority that is prepared in `slot` ([`Slots::check_activation`] finds it).
///
/// # Errors
///
/// [`RotateError::Slot`].
pub async fn activate<A: Authority>(
    slots: &mut Slots<A>,
    slot: SlotId,
    effects: &dyn Effects<A>,
) -> Result<Arc<A>, RotateError> {
    let (active, before) = slots.activate(slot).map_err(RotateError::Slot)?;
    effects.activated(&active);
    log_activated(slot, &*active);
    let old = before.as_ref().map(|old| old.id());
    if let Err(error) = effects.record(Change::Activated { id: active.id(), old }).await {
        match A::KIND {
            AuthorityKind::X509 => {
                tracing::error!(%error, "Failed to update to activated status on X509CA journal entry");
            }
            AuthorityKind::Jwt => {
                tracing::error!(%error, "Failed to update to activated status on JWTKey journal entry");
            }
        }
    }
    Ok(active)
}

/// Lets the authority that was active before a restart sign again, if there is one.
pub fn resume<A: Authority>(slots: &Slots<A>, effects: &dyn Effects<A>) {
    if let Some((slot, active)) = slots.active_slot() {
        effects.activated(active);
        log_activated(slot, &**active);
    }
}

async fn prepare_in<A: Authority>(
    slot: SlotId,
    slots: &mut Slots<A>,
    effects: &dyn Effects<A>,
) -> Result<Arc<A>, RotateError> {
    slots.vacate(slot).map_err(RotateError::Slot)?;
    let authority = Arc::new(effects.create(slot).await.map_err(RotateError::Create)?);
    effects.publish(&authority).await.map_err(RotateError::Publish)?;
    slots.fill(slot, Arc::clone(&authority)).map_err(RotateError::Slot)?;
    let recorded = effects.record(Change::Prepared { slot, authority: &*authority }).await;
    let (local_authority_id, upstream_authority_id) = (authority.id(), authority.upstream_id());
    let (issued_at, expiration) = (authority.issued_at(), authority.not_after());
    match A::KIND {
        AuthorityKind::X509 => {
            if let Err(error) = recorded {
                tracing::error!(%slot, %error, "Unable to append X509 CA to journal");
            }
            let self_signed = upstream_authority_id.is_empty();
            tracing::info!(
                %slot, issued_at, expiration, self_signed, local_authority_id, upstream_authority_id,
                "X509 CA prepared"
            );
        }
        AuthorityKind::Jwt => {
            if let Err(error) = recorded {
                tracing::error!(%slot, %error, "Unable to append JWT key to journal");
            }
            tracing::info!(%slot, issued_at, expiration, local_authority_id, "JWT key prepared");
        }
    }
    Ok(authority)
}

fn log_activated<A: Authority>(slot: SlotId, authority: &A) {
    let (local_authority_id, upstream_authority_id) = (authority.id(), authority.upstream_id());
    let (issued_at, expiration) = (authority.issued_at(), authority.not_after());
    match A::KIND {
        AuthorityKind::X509 => tracing::info!(
            %slot, issued_at, expiration, local_authority_id, upstream_authority_id, "X509 CA activated"
        ),
        AuthorityKind::Jwt => {
            tracing::info!(%slot, issued_at, expiration, local_authority_id, "JWT key activated");
        }
    }
}
