//! What was signed by an authority that the operator declared tainted, or that is gone from the bundle.
//!
//! Such credentials are replaced as soon as the server gives better ones. They are matched by key identifiers: the root
//! that a chain leads to is named by the authority key identifier of its last certificate.

use std::sync::Arc;

use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::certificate::Certificate;

/// The X.509 authorities of a bundle, as far as they matter here.
#[derive(Debug, Default)]
pub struct Distrust {
    tainted: Vec<Box<[u8]>>,
    /// Those that are not; `None` when one has no key identifier, and so nobody can be said to be missing.
    trusted: Option<Vec<Box<[u8]>>>,
}

impl Distrust {
    /// As `bundle` has it.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        let (mut tainted, mut trusted) = (Vec::new(), Some(Vec::new()));
        for authority in &bundle.x509_authorities {
            let key_id = authority.parsed().map(|parsed| parsed.subject_key_id).unwrap_or_default();
            match (authority.tainted, &mut trusted) {
                (true, _) => tainted.push(key_id.into()),
                (false, _) if key_id.is_empty() => trusted = None,
                (false, Some(trusted)) => trusted.push(key_id.into()),
                (false, None) => {}
            }
        }
        Self { tainted, trusted: trusted.filter(|trusted| !trusted.is_empty()) }
    }

    /// Whether what leads to the root with this key identifier should be replaced.
    #[must_use]
    pub fn covers(&self, root: Option<&[u8]>) -> bool {
        let Some(root) = root else { return false };
        self.is_tainted(root)
            || self.trusted.as_ref().is_some_and(|trusted| !trusted.iter().any(|key_id| **key_id == *root))
    }

    /// Whether the bundle does not have the root with this key identifier, and is such that it would tell.
    #[must_use]
    pub fn lacks(&self, root: Option<&[u8]>) -> bool {
        root.is_some_and(|root| !self.is_tainted(root) && self.covers(Some(root)))
    }

    /// Whether the operator declared it tainted.
    #[must_use]
    pub fn is_tainted(&self, root: &[u8]) -> bool {
        self.tainted.iter().any(|key_id| **key_id == *root)
    }

    /// Key identifiers of the tainted ones.
    #[must_use]
    pub fn tainted(&self) -> &[Box<[u8]>] {
        &self.tainted
    }

    #[cfg(test)]
    pub(crate) fn for_tests(trusted: &[&[u8]], tainted: &[&[u8]]) -> Self {
        let boxed = |list: &[&[u8]]| list.iter().map(|key_id| Box::from(*key_id)).collect::<Vec<_>>();
        Self { tainted: boxed(tainted), trusted: Some(boxed(trusted)).filter(|trusted| !trusted.is_empty()) }
    }
}

/// Which keys of a bundle JWT-SVIDs may be signed by.
#[derive(Debug, Default)]
pub struct JwtKeys<'a> {
    keys: Vec<(&'a str, bool)>,
}

impl<'a> JwtKeys<'a> {
    /// As `bundle` has it; without a bundle nothing is known, and everything goes.
    #[must_use]
    pub fn of(bundle: Option<&'a Bundle>) -> Self {
        let authorities = bundle.into_iter().flat_map(|bundle| &bundle.jwt_authorities);
        Self { keys: authorities.map(|authority| (authority.key_id.as_str(), authority.tainted)).collect() }
    }

    /// Whether a token that `key_id` signed should go: the operator declared the key tainted.
    #[must_use]
    pub fn is_tainted(&self, key_id: &str) -> bool {
        self.keys.iter().any(|(held, tainted)| *held == key_id && *tainted)
    }

    /// Whether nobody can verify what `key_id` signed.
    #[must_use]
    pub fn is_missing(&self, key_id: &str) -> bool {
        !self.keys.is_empty() && !self.keys.iter().any(|(held, _)| *held == key_id)
    }

    /// Key identifiers of the tainted ones.
    pub fn tainted(&self) -> impl Iterator<Item = &'a str> {
        self.keys.iter().filter(|(_, tainted)| *tainted).map(|(key_id, _)| *key_id)
    }
}

/// The key identifier of the root that a chain (leaf first, without the root) leads to.
#[must_use]
pub fn root_key_id(chain: &[Arc<[u8]>]) -> Option<Box<[u8]>> {
    let certificates = chain.iter().rev().filter_map(|der| Certificate::parse(der).ok());
    certificates.map(|certificate| certificate.authority_key_id).find(|id| !id.is_empty()).map(Into::into)
}
