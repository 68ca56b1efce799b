//! Trust bundles in the forms in which they are handed out, encoded once when they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use vouchsafe_types::bundle::{Bundle, format};
use vouchsafe_types::trust_domain::TrustDomain;

/// A bundle and its two encodings.
#[derive(Debug)]
pub struct BundleView {
    /// The bundle.
    pub bundle: Bundle,
    /// The certificates of all X.509 authorities, DER, one after the other.
    pub x509_der: Bytes,
    /// The JWT authorities as a JWK set.
    pub jwks: Bytes,
    /// `spiffe://<trust domain>`, the key of the Workload API's bundle maps.
    pub id: String,
}

impl BundleView {
    /// Encodes `bundle`.
    #[must_use]
    pub fn new(bundle: Bundle) -> Self {
        let jwks = format::jwt_jwks(&bundle).unwrap_or_else(|error| {
            tracing::warn!(trust_domain = %bundle.trust_domain, %error, "bundle has JWT authorities that cannot be served");
            br#"{"keys":[]}"#.to_vec()
        });
        let id = bundle.trust_domain.id_string();
        Self { x509_der: bundle.x509_concatenated().into(), jwks: jwks.into(), id, bundle }
    }
}

/// The bundle of the agent's own trust domain and those of the trust domains that its entries federate with.
#[derive(Clone, Debug)]
pub struct Bundles {
    /// The own trust domain's.
    pub own: Arc<BundleView>,
    /// The others', by trust domain.
    pub federated: BTreeMap<TrustDomain, Arc<BundleView>>,
}

impl Bundles {
    /// A set with nothing but `own`.
    #[must_use]
    pub fn of(own: Bundle) -> Self {
        Self { own: Arc::new(BundleView::new(own)), federated: BTreeMap::new() }
    }

    /// The bundle of `trust_domain`, if it is held.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<BundleView>> {
        if self.own.bundle.trust_domain == *trust_domain {
            Some(&self.own)
        } else {
            self.federated.get(trust_domain)
        }
    }

    /// The set after a synchronization that brought `fetched`; views of bundles that did not change are taken over.
    /// Returns whether anything changed.
    #[must_use]
    pub fn replace(&self, own: Bundle, fetched: impl IntoIterator<Item = Bundle>) -> (Self, bool) {
        let mut changed = false;
        let mut view = |bundle: Bundle| match self.get(&bundle.trust_domain) {
            Some(held) if held.bundle == bundle => Arc::clone(held),
            _ => {
                changed = true;
                Arc::new(BundleView::new(bundle))
            }
        };
        let own = view(own);
        let federated: BTreeMap<_, _> =
            fetched.into_iter().map(|bundle| (bundle.trust_domain.clone(), view(bundle))).collect();
        let changed = changed || federated.len() != self.federated.len();
        (Self { own, federated }, changed)
    }

    /// How many bundles are held.
    #[must_use]
    pub fn len(&self) -> usize {
        1 + self.federated.len()
    }

    /// Never: the own bundle is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(trust_domain: &str, sequence_number: u64) -> Bundle {
        Bundle {
            trust_domain: TrustDomain::parse(trust_domain).unwrap(),
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number,
        }
    }

    #[test]
    fn a_bundle_that_did_not_change_keeps_its_view() {
        let (first, changed) =
            Bundles::of(bundle("a.org", 1)).replace(bundle("a.org", 1), [bundle("b.org", 1)]);
        assert!(changed);
        let (second, changed) = first.replace(bundle("a.org", 1), [bundle("b.org", 2)]);
        assert!(changed);
        assert!(Arc::ptr_eq(&first.own, &second.own));
        let (_, changed) = second.replace(bundle("a.org", 1), [bundle("b.org", 2)]);
        assert!(!changed);
        let (third, changed) = second.replace(bundle("a.org", 1), []);
        assert!(changed && third.federated.is_empty());
    }
}
