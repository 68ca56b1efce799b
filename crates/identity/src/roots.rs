//! Whom we believe: X.509 authorities by trust domain.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use vouchsafe_types::{Bundle, TrustDomain};

/// The authorities of some trust domains. Immutable; build a new one and [`RootsCell::set`] it.
#[derive(Clone, Default)]
pub struct TrustRoots {
    anchors: HashMap<TrustDomain, Arc<[TrustAnchor<'static>]>>,
}

impl TrustRoots {
    /// Believes nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The authorities of `bundles`, tainted ones included: what they have signed stays valid until they are revoked,
    /// which removes them from the bundle.
    #[must_use]
    pub fn of<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Self {
        let mut roots = Self::new();
        for bundle in bundles {
            roots.insert(
                &bundle.trust_domain,
                bundle.x509_authorities.iter().map(|authority| &*authority.der),
            );
        }
        roots
    }

    /// Replaces the authorities of one trust domain.
    ///
    /// A certificate that cannot be read as an authority (X.509 version 1, for example) is left out with a warning:
    /// the others still count.
    pub fn insert<'a>(
        &mut self,
        trust_domain: &TrustDomain,
        authorities: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let mut anchors = Vec::new();
        for der in authorities {
            match webpki::anchor_from_trusted_cert(&CertificateDer::from(der)) {
                Ok(anchor) => anchors.push(anchor.to_owned()),
                Err(error) => tracing::warn!(%trust_domain, %error, "authority in bundle is unusable"),
            }
        }
        self.anchors.insert(trust_domain.clone(), anchors.into());
    }

    /// The trust domains, in no order.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.anchors.keys()
    }

    pub(crate) fn anchors(&self, trust_domain_name: &str) -> Option<&Arc<[TrustAnchor<'static>]>> {
        self.anchors.get(trust_domain_name)
    }
}

impl fmt::Debug for TrustRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.anchors.iter().map(|(name, anchors)| (name.as_str(), anchors.len())))
            .finish()
    }
}

/// The current [`TrustRoots`]. Cheap to clone; all clones see a change at once.
#[derive(Clone, Debug, Default)]
pub struct RootsCell {
    current: Arc<ArcSwap<TrustRoots>>,
}

impl RootsCell {
    /// Starts with `roots`.
    #[must_use]
    pub fn new(roots: TrustRoots) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(roots)) }
    }

    /// Replaces the roots; counts from the next handshake on.
    pub fn set(&self, roots: TrustRoots) {
        self.current.store(Arc::new(roots));
    }

    /// What counts now.
    #[must_use]
    pub fn load(&self) -> Arc<TrustRoots> {
        self.current.load_full()
    }
}
