//! An entry as it is declared: all of it but its id.

use vouchsafe_proto::spire::api::types;
use vouchsafe_types::entry::{Entry, EntryError, EntryId};
use vouchsafe_types::{SelectorSet, SpiffeId, TrustDomain};

/// What an entry is to grant.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of an entry")]
pub struct Draft {
    pub spiffe_id: SpiffeId,
    pub parent_id: SpiffeId,
    pub selectors: SelectorSet,
    pub x509_svid_ttl: u32,
    pub jwt_svid_ttl: u32,
    pub federates_with: Vec<TrustDomain>,
    pub admin: bool,
    pub downstream: bool,
    pub dns_names: Vec<String>,
    pub hint: String,
    pub store_svid: bool,
}

/// What makes two entries similar: a server has at most one entry of each.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    /// Whom it grants.
    pub spiffe_id: SpiffeId,
    /// Under whom it holds.
    pub parent_id: SpiffeId,
    /// Who gets it.
    pub selectors: SelectorSet,
}

impl Draft {
    /// What it is similar by.
    #[must_use]
    pub fn key(&self) -> Key {
        Key {
            spiffe_id: self.spiffe_id.clone(),
            parent_id: self.parent_id.clone(),
            selectors: self.selectors.clone(),
        }
    }

    /// Whether an entry that says `self` must be updated to say `wanted`. The order of DNS names is no difference: the one
    /// that came first stays the common name.
    #[must_use]
    pub fn differs_from(&self, wanted: &Self) -> bool {
        let rest = |draft: &Self| {
            (draft.x509_svid_ttl, draft.jwt_svid_ttl, draft.admin, draft.downstream, draft.store_svid)
        };
        rest(self) != rest(wanted)
            || self.hint != wanted.hint
            || sorted(&self.federates_with) != sorted(&wanted.federates_with)
            || sorted(&self.dns_names) != sorted(&wanted.dns_names)
    }

    /// Checks it as a server of `trust_domain` would.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        let mut entry = Entry::new(
            EntryId::parse("draft")?,
            self.spiffe_id.clone(),
            self.parent_id.clone(),
            self.selectors.clone(),
        );
        (entry.x509_svid_ttl, entry.jwt_svid_ttl) = (self.x509_svid_ttl, self.jwt_svid_ttl);
        entry.federates_with.clone_from(&self.federates_with);
        entry.dns_names.clone_from(&self.dns_names);
        entry.hint.clone_from(&self.hint);
        entry.store_svid = self.store_svid;
        entry.validate(trust_domain)
    }

    /// The message that creates or replaces it under `id`, which the server chooses when it is empty.
    #[must_use]
    pub fn to_proto(&self, id: &str) -> types::Entry {
        let seconds = |ttl: u32| i32::try_from(ttl).unwrap_or(i32::MAX);
        types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(vouchsafe_proto::convert::spiffe_id_to_proto(&self.spiffe_id)),
            parent_id: Some(vouchsafe_proto::convert::spiffe_id_to_proto(&self.parent_id)),
            selectors: self.selectors.iter().map(vouchsafe_proto::convert::selector_to_proto).collect(),
            x509_svid_ttl: seconds(self.x509_svid_ttl),
            jwt_svid_ttl: seconds(self.jwt_svid_ttl),
            federates_with: self.federates_with.iter().map(|name| name.as_str().to_owned()).collect(),
            admin: self.admin,
            downstream: self.downstream,
            dns_names: self.dns_names.clone(),
            hint: self.hint.clone(),
            store_svid: self.store_svid,
            ..types::Entry::default()
        }
    }
}

impl From<Entry> for Draft {
    fn from(entry: Entry) -> Self {
        Self {
            spiffe_id: entry.spiffe_id,
            parent_id: entry.parent_id,
            selectors: entry.selectors,
            x509_svid_ttl: entry.x509_svid_ttl,
            jwt_svid_ttl: entry.jwt_svid_ttl,
            federates_with: entry.federates_with,
            admin: entry.admin,
            downstream: entry.downstream,
            dns_names: entry.dns_names,
            hint: entry.hint,
            store_svid: entry.store_svid,
        }
    }
}

impl Key {
    /// The Pod that it is for, by the selector that every entry for a Pod has.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        let mut selectors = self.selectors.iter().filter(|selector| selector.kind() == "k8s");
        selectors.find_map(|selector| selector.value().strip_prefix("pod-uid:"))
    }

    /// Whether the server made it for a join token. Such entries are nobody's to delete.
    #[must_use]
    pub fn is_of_join_token(&self) -> bool {
        self.parent_id.path().starts_with("/spire/agent/join_token/")
            && self.selectors.iter().any(|selector| selector.kind() == "spiffe_id")
    }
}

fn sorted<T: Ord>(values: &[T]) -> Vec<&T> {
    let mut values: Vec<_> = values.iter().collect();
    values.sort_unstable();
    values
}
