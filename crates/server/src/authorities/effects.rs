//! What a rotation of the signing keys does to the bundle, the journal and the issuer.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::warn;
use vouchsafe_ca::authority::rotation::{Change, EffectError, Effects};
use vouchsafe_ca::authority::{
    Authority, SlotId, create_jwt_key, create_x509_ca, jwt_bundle_entry, x509_bundle_entry,
};
use vouchsafe_ca::jwt::JwtKey;
use vouchsafe_ca::x509::{X509Ca, cross_certify};
use vouchsafe_runtime::metrics::sanitize;
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};

use super::{OwnJournal, Shared};

/// Effects of rotating the X.509 authority.
pub(super) struct X509Effects {
    shared: Arc<Shared>,
    journal: Arc<OwnJournal>,
    before: Option<Arc<X509Ca>>,
    activated: Mutex<Option<Arc<X509Ca>>>,
}

/// Effects of rotating the JWT authority.
pub(super) struct JwtEffects {
    shared: Arc<Shared>,
    journal: Arc<OwnJournal>,
}

/// A certificate for a new authority by the one before it.
#[derive(Clone, Debug)]
pub(super) struct Bridge {
    /// The authority that is certified.
    pub(super) authority_id: String,
    /// The certificate.
    pub(super) der: Arc<[u8]>,
}

impl X509Effects {
    pub(super) fn new(shared: Arc<Shared>, journal: Arc<OwnJournal>, before: Option<Arc<X509Ca>>) -> Self {
        Self { shared, journal, before, activated: Mutex::new(None) }
    }

    /// The bridge to an authority that signs although nobody can know it yet; `None` when no such one was activated.
    pub(super) async fn bridge(self) -> Option<Bridge> {
        let activated = self.activated.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        let before = self.before?;
        let now = self.shared.clock.unix_now();
        if now.saturating_sub(activated.issued_at()) >= ADOPTION_SECS || activated.id() == before.id() {
            return None;
        }
        // Valid before today too: the clock may jump back, and who trusts `before` alone must still get through.
        let since = now.saturating_sub(BRIDGE_BACKDATE_SECS);
        match cross_certify(&before, &activated, since).await {
            Ok(der) => Some(Bridge { authority_id: activated.id().to_owned(), der: der.into() }),
            Err(error) => {
                warn!(%error, "The new X.509 authority is not certified by the one before it");
                None
            }
        }
    }
}

impl JwtEffects {
    pub(super) fn new(shared: Arc<Shared>, journal: Arc<OwnJournal>) -> Self {
        Self { shared, journal }
    }
}

/// After this time everybody has fetched the bundle with a new authority.
const ADOPTION_SECS: i64 = 600;

/// As long as [`crate::authorize::RENEWAL_GRACE`].
const BRIDGE_BACKDATE_SECS: i64 = 96 * 3600;

#[async_trait]
impl Effects<X509Ca> for X509Effects {
    async fn create(&self, slot: SlotId) -> Result<X509Ca, EffectError> {
        let Shared { plan, keys, clock, metrics, .. } = &*self.shared;
        let began = Instant::now();
        let made = create_x509_ca(&**keys, slot, &plan.x509, &plan.subject, clock.now()).await;
        metrics.call("ca_manager_x509_ca_prepare").observe(&[], outcome(&made), began.elapsed());
        Ok(made?)
    }

    async fn publish(&self, authority: &X509Ca) -> Result<(), EffectError> {
        publish(&self.shared, x509_bundle_entry(authority).into_iter().collect(), Vec::new()).await
    }

    async fn record(&self, change: Change<'_, X509Ca>) -> Result<(), EffectError> {
        record(&self.shared, &self.journal, &change).await
    }

    fn activated(&self, authority: &Arc<X509Ca>) {
        let Shared { issuer, metrics, plan, .. } = &*self.shared;
        issuer.activate_x509(authority.clone());
        metrics.counter("ca_manager_x509_ca_activate", &[]).inc();
        let trust_domain = sanitize(plan.trust_domain.as_str());
        let expiration =
            metrics.gauge("manager_x509_ca_rotate_expiration", &[("trust_domain_id", &trust_domain)]);
        expiration.set(authority.not_after() as f64);
        *self.activated.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority.clone());
    }
}

#[async_trait]
impl Effects<JwtKey> for JwtEffects {
    async fn create(&self, slot: SlotId) -> Result<JwtKey, EffectError> {
        let Shared { plan, keys, clock, metrics, .. } = &*self.shared;
        let began = Instant::now();
        let made = create_jwt_key(&**keys, slot, &plan.jwt, clock.now()).await;
        metrics.call("ca_manager_jwt_key_prepare").observe(&[], outcome(&made), began.elapsed());
        Ok(made?)
    }

    async fn publish(&self, authority: &JwtKey) -> Result<(), EffectError> {
        publish(&self.shared, Vec::new(), vec![jwt_bundle_entry(authority)]).await
    }

    async fn record(&self, change: Change<'_, JwtKey>) -> Result<(), EffectError> {
        record(&self.shared, &self.journal, &change).await
    }

    fn activated(&self, authority: &Arc<JwtKey>) {
        self.shared.issuer.activate_jwt(authority.clone());
        self.shared.metrics.counter("manager_jwt_key_activate", &[]).inc();
    }
}

/// Appends to the bundle and waits until the read model, and so every agent that asks, has it.
async fn publish(
    shared: &Shared,
    x509: Vec<X509Authority>,
    jwt: Vec<JwtAuthority>,
) -> Result<(), EffectError> {
    let change = move |bundle: &mut Bundle| {
        bundle.append(x509.clone(), jwt.clone());
        Ok(())
    };
    let update = shared.store.update_bundle(&shared.plan.trust_domain, Box::new(change)).await?;
    if !shared.model.settled(update.position).await {
        return Err("the read model did not take the new bundle in time".into());
    }
    Ok(())
}

async fn record<A: Authority>(
    shared: &Shared,
    own: &OwnJournal,
    change: &Change<'_, A>,
) -> Result<(), EffectError> {
    let mut journal = own.journal.lock().await;
    journal.record(change);
    Ok(shared.store.save_journal(&own.key, journal.encode()).await?)
}

fn outcome<T, E>(made: &Result<T, E>) -> &'static str {
    if made.is_ok() { "OK" } else { "Unknown" }
}
