//! What a rotation of the signing keys does to the bundle, the journal and the issuer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};
use vouchsafe_ca::authority::rotation::{Change, EffectError, Effects};
use vouchsafe_ca::authority::{
    Authority, CreateError, SlotId, create_jwt_key, create_upstream_x509_ca, create_x509_ca,
    jwt_bundle_entry, trust, x509_bundle_entry,
};
use vouchsafe_ca::jwt::JwtKey;
use vouchsafe_ca::upstream::{UpstreamAuthority, UpstreamError};
use vouchsafe_ca::x509::{SvidTemplate, X509Ca, cross_certify, issue_svid};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::verify::SvidVerifier;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::sanitize;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::own_journal::OwnJournal;
use super::{Shared, bundle};

/// Effects of rotating the X.509 authority.
pub(super) struct X509Effects {
    shared: Arc<Shared>,
    journal: Arc<OwnJournal>,
    before: Option<Arc<X509Ca>>,
    /// Roots that an upstream authority sent with what it certified.
    roots: Mutex<Vec<X509Authority>>,
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
        Self { shared, journal, before, roots: Mutex::default(), activated: Mutex::new(None) }
    }

    /// The bridge to an authority that signs although nobody can know it yet; `None` when no such one was activated.
    pub(super) async fn bridge(self) -> Option<Bridge> {
        let activated = self.activated.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        // Who trusts the upstream authority's roots reaches every authority that it certified.
        let before = self.before.filter(|before| before.chain().is_empty())?;
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

impl X509Effects {
    /// An authority that the upstream authority certifies, once it was seen to work.
    async fn create_below(
        &self,
        upstream: &dyn UpstreamAuthority,
        slot: SlotId,
    ) -> Result<X509Ca, EffectError> {
        let Shared { plan, keys, clock, .. } = &*self.shared;
        let recipe = (&plan.x509, &plan.subject);
        let minted = create_upstream_x509_ca((&**keys, slot), recipe, upstream, clock.now());
        let late = |_| CreateError::Upstream(UpstreamError::Deadline(MINT_DEADLINE));
        let (ca, roots) = timeout(MINT_DEADLINE, minted).await.map_err(late).flatten()?;
        try_out(&ca, &roots, clock).await?;
        *self.roots.lock().unwrap_or_else(PoisonError::into_inner) = roots;
        Ok(ca)
    }
}

/// How long the upstream authority may take to certify one of ours.
const MINT_DEADLINE: Duration = Duration::from_secs(30);

/// Whether an SVID by `ca` would be believed by who has `roots`.
async fn try_out(ca: &X509Ca, roots: &[X509Authority], clock: &Clock) -> Result<(), EffectError> {
    let trust_domain = ca.trust_domain();
    let spiffe_id = SpiffeId::new(trust_domain, "/spire/throwaway")?;
    let template = SvidTemplate {
        spiffe_id: &spiffe_id,
        public_key_der: ca.signer().public_key_der(),
        dns_names: &[],
        ttl: Duration::from_secs(60),
        now: clock.now(),
        subject: None,
    };
    let issued = issue_svid(ca, &template).await?;
    let mut trusted = TrustRoots::new();
    trusted.insert(trust_domain, roots.iter().map(|root| &*root.der));
    let chain: Vec<_> = issued.chain.iter().map(|der| CertificateDer::from(&**der)).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(clock.unix_now())?));
    let verified = SvidVerifier::new(RootsCell::new(trusted)).verify(&chain, now);
    verified.map(drop).map_err(|error| {
        format!("X509 CA minted by upstream authority is invalid: {}", super::chain(&error)).into()
    })
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
        let began = Instant::now();
        let made = match &self.shared.upstream {
            None => {
                let Shared { plan, keys, clock, .. } = &*self.shared;
                let made = create_x509_ca(&**keys, slot, &plan.x509, &plan.subject, clock.now()).await;
                made.map_err(EffectError::from)
            }
            Some(upstream) => self.create_below(&**upstream, slot).await,
        };
        let call = self.shared.metrics.call("ca_manager_x509_ca_prepare");
        call.observe(&[], outcome(&made), began.elapsed());
        made
    }

    async fn publish(&self, authority: &X509Ca) -> Result<(), EffectError> {
        let roots = match x509_bundle_entry(authority) {
            Some(own) => vec![own],
            None => std::mem::take(&mut *self.roots.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        let has_upstream = self.shared.upstream.is_some();
        let add = move |bundle: &mut Bundle| {
            match has_upstream {
                true => trust::follow_roots(bundle, &roots),
                false => drop(bundle.append(roots.clone(), [])),
            }
            Ok(())
        };
        bundle::change(&self.shared, Box::new(add)).await.map(drop)
    }

    async fn record(&self, change: Change<'_, X509Ca>) -> Result<(), EffectError> {
        record(&self.shared, &self.journal, &change).await
    }

    fn activated(&self, authority: &Arc<X509Ca>) {
        let Shared { issuer, metrics, plan, clock, .. } = &*self.shared;
        issuer.activate_x509(authority.clone());
        let ttl = authority.not_after().saturating_sub(clock.unix_now());
        debug!(trust_domain_id = plan.trust_domain.id_string(), ttl, "Successfully rotated X.509 CA");
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
        bundle::publish_jwt(&self.shared, jwt_bundle_entry(authority)).await.map(drop)
    }

    async fn record(&self, change: Change<'_, JwtKey>) -> Result<(), EffectError> {
        record(&self.shared, &self.journal, &change).await
    }

    fn activated(&self, authority: &Arc<JwtKey>) {
        self.shared.issuer.activate_jwt(authority.clone());
        self.shared.metrics.counter("manager_jwt_key_activate", &[]).inc();
    }
}

async fn record<A: Authority>(
    shared: &Shared,
    own: &OwnJournal,
    change: &Change<'_, A>,
) -> Result<(), EffectError> {
    let data = own.record(change).await;
    Ok(shared.store.save_journal(&own.key, data).await?)
}

fn outcome<T, E>(made: &Result<T, E>) -> &'static str {
    if made.is_ok() { "OK" } else { "Unknown" }
}
