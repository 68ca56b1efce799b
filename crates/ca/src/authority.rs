//! Authorities and their rotation, the same for every kind.
//!
//! A kind has two slots. In one is the active authority; the other holds the one that was prepared to follow it
//! (known to everybody through the bundle long before it signs anything) or remembers the one before it, which
//! may be tainted and revoked. [`mod@plan`] decides, [`rotation`] does, and neither knows what an authority is
//! beyond [`Authority`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vouchsafe_types::bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::der::time;
use crate::journal;
use crate::jwt::JwtKey;
use crate::key::KeyType;
use crate::key_manager::{KeyManager, KeyManagerError};
use crate::random::{NoEntropy, key_id};
use crate::upstream::{UpstreamAuthority, UpstreamError};
use crate::x509::csr::create_ca_csr;
use crate::x509::{BACKDATE_SECS, CaError, CaTemplate, Subject, X509Ca, self_signed_ca};
use vouchsafe_runtime::class::Class;

pub mod plan;
pub mod rotation;
pub mod slots;
pub mod trust;

pub use plan::{Step, plan};
pub use slots::{SlotId, Slots, Status};

/// Something that signs for a while.
pub trait Authority: Send + Sync + 'static {
    /// Which kind it is.
    const KIND: AuthorityKind;

    /// Its authority id.
    fn id(&self) -> &str;

    /// Subject key id of the upstream authority, in hex; empty if there is none.
    fn upstream_id(&self) -> &str {
        ""
    }

    /// When it was prepared, in seconds since 1970.
    fn issued_at(&self) -> i64;

    /// From when it may sign, in seconds since 1970. Before it, the clock went back.
    fn not_before(&self) -> i64;

    /// Until when it may sign, in seconds since 1970.
    fn not_after(&self) -> i64;

    /// Whether it cannot be trusted without the authority `id`: itself, or one above it.
    fn depends_on(&self, id: &str) -> bool {
        self.id() == id
    }

    /// What the journal keeps of it.
    fn entry(&self, slot: SlotId) -> journal::Entry;
}

/// The kinds of authority.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AuthorityKind {
    /// Signs X509-SVIDs.
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
}

impl AuthorityKind {
    /// The name of the key of a slot in the key manager, as the reference has it.
    #[must_use]
    pub fn key_id(self, slot: SlotId) -> String {
        match self {
            Self::X509 => format!("x509-CA-{slot}"),
            Self::Jwt => format!("JWT-Signer-{slot}"),
        }
    }
}

impl Authority for X509Ca {
    const KIND: AuthorityKind = AuthorityKind::X509;

    fn id(&self) -> &str {
        self.authority_id()
    }

    fn upstream_id(&self) -> &str {
        self.upstream_authority_id()
    }

    fn depends_on(&self, id: &str) -> bool {
        self.is_under(id)
    }

    fn issued_at(&self) -> i64 {
        self.issued_at()
    }

    fn not_before(&self) -> i64 {
        self.not_before()
    }

    fn not_after(&self) -> i64 {
        self.not_after()
    }

    fn entry(&self, slot: SlotId) -> journal::Entry {
        journal::Entry::X509(journal::X509Entry::of(self, slot))
    }
}

impl Authority for JwtKey {
    const KIND: AuthorityKind = AuthorityKind::Jwt;

    fn id(&self) -> &str {
        self.kid()
    }

    fn issued_at(&self) -> i64 {
        self.issued_at()
    }

    fn not_before(&self) -> i64 {
        self.issued_at().saturating_sub(BACKDATE_SECS)
    }

    fn not_after(&self) -> i64 {
        self.not_after()
    }

    fn entry(&self, slot: SlotId) -> journal::Entry {
        journal::Entry::Jwt(journal::JwtEntry::of(self, slot))
    }
}

/// How new authorities are made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// For which trust domain.
    pub trust_domain: TrustDomain,
    /// With which kind of key.
    pub key_type: KeyType,
    /// Living how long (`ca_ttl`).
    pub ttl: Duration,
}

/// No authority was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No key.
    #[error("no key for the new authority")]
    Key(#[source] KeyManagerError),
    /// No CA certificate.
    #[error("no certificate for the new X.509 authority")]
    Certificate(#[source] CaError),
    /// The upstream authority did not certify it.
    #[error("the upstream authority did not certify the new X.509 authority")]
    Upstream(#[source] UpstreamError),
    /// No key id.
    #[error("no key id for the new JWT authority")]
    KeyId(#[source] NoEntropy),
}

impl CreateError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Key(error) => error.class(),
            Self::Certificate(error) => error.class(),
            Self::Upstream(error) => error.class(),
            Self::KeyId(_) => Class::Transient,
        }
    }
}

/// Makes a self-signed X.509 authority with a new key for `slot`, which replaces the slot's key.
///
/// # Errors
///
/// [`CreateError`]; the slot's key may be gone, the caller's other slot is untouched.
pub async fn create_x509_ca(
    keys: &dyn KeyManager,
    slot: SlotId,
    recipe: &Recipe,
    subject: &Subject,
    now: SystemTime,
) -> Result<X509Ca, CreateError> {
    let id = AuthorityKind::X509.key_id(slot);
    let signer = keys.generate(&id, recipe.key_type).await.map_err(CreateError::Key)?;
    let now = time::unix(now);
    let trust_domain = &recipe.trust_domain;
    let template = CaTemplate { trust_domain, subject, now, not_after: end(now, recipe.ttl) };
    let der = self_signed_ca(&*signer, &template).await.map_err(CreateError::Certificate)?;
    let ca = X509Ca::new(trust_domain.clone(), der.into(), Vec::new(), signer, now);
    ca.map_err(CreateError::Certificate)
}

/// Makes an X.509 authority with a new key for `slot`, which replaces the slot's key, certified by `upstream`. Comes with
/// the roots that must be in the bundle before it signs.
///
/// # Errors
///
/// [`CreateError`]; the slot's key may be gone, the caller's other slot is untouched.
pub async fn create_upstream_x509_ca(
    (keys, slot): (&dyn KeyManager, SlotId),
    (recipe, subject): (&Recipe, &Subject),
    upstream: &dyn UpstreamAuthority,
    now: SystemTime,
) -> Result<(X509Ca, Vec<bundle::X509Authority>), CreateError> {
    let id = AuthorityKind::X509.key_id(slot);
    let signer = keys.generate(&id, recipe.key_type).await.map_err(CreateError::Key)?;
    let trust_domain = &recipe.trust_domain;
    let csr = create_ca_csr(&*signer, subject, trust_domain).await.map_err(CreateError::Certificate)?;
    let minted = upstream.mint_x509_ca(&csr, recipe.ttl, now).await.map_err(CreateError::Upstream)?;
    let certificate = minted.chain.first().cloned().unwrap_or_else(|| Arc::from([]));
    let ca = X509Ca::new(trust_domain.clone(), certificate, minted.chain, signer, time::unix(now));
    Ok((ca.map_err(CreateError::Certificate)?, minted.roots))
}

/// Makes a JWT authority with a new key for `slot`, which replaces the slot's key.
///
/// # Errors
///
/// [`CreateError`]; the slot's key may be gone, the caller's other slot is untouched.
pub async fn create_jwt_key(
    keys: &dyn KeyManager,
    slot: SlotId,
    recipe: &Recipe,
    now: SystemTime,
) -> Result<JwtKey, CreateError> {
    let id = AuthorityKind::Jwt.key_id(slot);
    let kid = key_id().map_err(CreateError::KeyId)?;
    let signer = keys.generate(&id, recipe.key_type).await.map_err(CreateError::Key)?;
    let now = time::unix(now);
    Ok(JwtKey::new(recipe.trust_domain.clone(), signer, kid, now, end(now, recipe.ttl)))
}

/// The entry of an X.509 authority in the bundle: itself, if it is a root.
#[must_use]
pub fn x509_bundle_entry(ca: &X509Ca) -> Option<bundle::X509Authority> {
    let root = ca.chain().is_empty();
    root.then(|| bundle::X509Authority { der: Arc::clone(ca.cert_der()), tainted: false })
}

/// The entry of a JWT authority in the bundle.
#[must_use]
pub fn jwt_bundle_entry(key: &JwtKey) -> bundle::JwtAuthority {
    bundle::JwtAuthority {
        key_id: key.kid().to_owned(),
        public_key_der: key.signer().public_key_der().into(),
        expires_at: key.not_after(),
        tainted: false,
    }
}

fn end(now: i64, ttl: Duration) -> i64 {
    now.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))
}
