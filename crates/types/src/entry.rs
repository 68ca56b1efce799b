//! Which selectors earn which SPIFFE ID, under which parent.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dns_name::{DnsNameError, check_dns_name};
use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;
use crate::trust_domain::TrustDomain;

#[cfg(test)]
mod tests;

/// A registration entry. A value that was read may still break a rule: [`Entry::validate`] decides.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, unique in the trust domain.
    pub id: EntryId,
    /// The identity that it grants.
    pub spiffe_id: SpiffeId,
    /// The agent, node alias or server under which it holds.
    pub parent_id: SpiffeId,
    /// All of these must be found on the workload (or, for a node alias, on the node).
    pub selectors: SelectorSet,
    /// Lifetime of its X.509-SVIDs in seconds; 0 for the server's default.
    pub x509_svid_ttl: u32,
    /// Lifetime of its JWT-SVIDs in seconds; 0 for the server's default.
    pub jwt_svid_ttl: u32,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
    /// Whether the workload may administer the server.
    pub admin: bool,
    /// Whether the workload may become an authority below this server.
    pub downstream: bool,
    /// Whether an agent stores the SVID in a secret store instead of serving it.
    pub store_svid: bool,
    /// When the entry ends, in Unix seconds; 0 for never.
    pub expires_at: i64,
    /// DNS names in its X.509-SVIDs; the first becomes the common name.
    pub dns_names: Vec<String>,
    /// How the workload tells this identity from its others. At most [`MAX_HINT_BYTES`].
    pub hint: String,
    /// Whether agents issue the X.509-SVID only when asked.
    pub disable_x509_svid_prefetch: bool,
    /// Whether its JWT-SVIDs carry a unique `jti` claim.
    pub jwt_svid_include_jti: bool,
    /// Raised by one at every update.
    pub revision_number: i64,
    /// When it was created, in Unix seconds. Never changes; tells a successor under the same id apart.
    pub created_at: i64,
}

impl Entry {
    /// An entry with nothing but what every entry has.
    #[must_use]
    pub fn new(id: EntryId, spiffe_id: SpiffeId, parent_id: SpiffeId, selectors: SelectorSet) -> Self {
        Self {
            id,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl: 0,
            jwt_svid_ttl: 0,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            store_svid: false,
            expires_at: 0,
            dns_names: Vec::new(),
            hint: String::new(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
            revision_number: 0,
            created_at: 0,
        }
    }

    /// Checks everything that an entry of `trust_domain` must fulfil, except that its id and content are unique.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks, in the order of the fields as SPIRE reports them.
    pub fn validate(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        check_member(&self.parent_id, trust_domain).map_err(EntryError::ParentId)?;
        check_workload(&self.spiffe_id, trust_domain).map_err(EntryError::SpiffeId)?;
        if self.dns_names.len() > MAX_DNS_NAMES {
            return Err(EntryError::DnsNames);
        }
        self.dns_names.iter().try_for_each(|name| check_dns_name(name)).map_err(EntryError::DnsName)?;
        if self.federates_with.len() > MAX_FEDERATES_WITH {
            return Err(EntryError::FederatesWith);
        }
        if self.selectors.is_empty() {
            return Err(EntryError::NoSelectors);
        }
        if self.selectors.len() > MAX_SELECTORS {
            return Err(EntryError::Selectors);
        }
        if self.hint.len() > MAX_HINT_BYTES {
            return Err(EntryError::Hint);
        }
        self.check_stored()?;
        check_ttl(self.x509_svid_ttl).map_err(|()| EntryError::X509SvidTtl)?;
        check_ttl(self.jwt_svid_ttl).map_err(|()| EntryError::JwtSvidTtl)
    }

    /// Whether both grant the same identity to the same workloads: such a pair is refused at creation.
    #[must_use]
    pub fn is_similar_to(&self, other: &Self) -> bool {
        self.spiffe_id == other.spiffe_id
            && self.parent_id == other.parent_id
            && self.selectors == other.selectors
    }

    /// Whether it has ended at `now` (Unix seconds).
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        self.expires_at != 0 && self.expires_at < now
    }

    /// A stored SVID is delivered by one kind of store, so its selectors are of one kind.
    fn check_stored(&self) -> Result<(), EntryError> {
        if !self.store_svid {
            return Ok(());
        }
        if self.disable_x509_svid_prefetch {
            return Err(EntryError::PrefetchOfStored);
        }
        let mut kinds = self.selectors.iter().map(crate::selector::Selector::kind);
        let first = kinds.next();
        if kinds.any(|kind| Some(kind) != first) {
            return Err(EntryError::KindsOfStored);
        }
        Ok(())
    }
}

/// Checks that `id` may stand as a parent: a member of `trust_domain` with a path.
///
/// # Errors
///
/// Says which of the two it is not.
pub fn check_member(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
    let place = || Place { id: id.clone(), trust_domain: trust_domain.clone() };
    if !id.is_member_of(trust_domain) {
        return Err(MembershipError::Foreign(place()));
    }
    if id.path().is_empty() {
        return Err(MembershipError::NoPath(place()));
    }
    Ok(())
}

/// Checks that `id` may be granted: a member of `trust_domain` with a path outside the reserved namespace.
///
/// # Errors
///
/// Says which of these it is not.
pub fn check_workload(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
    let place = || Place { id: id.clone(), trust_domain: trust_domain.clone() };
    if id.is_member_of(trust_domain) && id.path().is_empty() {
        return Err(MembershipError::NotAWorkload(place()));
    }
    check_member(id, trust_domain)?;
    if id.is_reserved() {
        return Err(MembershipError::Reserved(place()));
    }
    Ok(())
}

/// SPIRE's API carries lifetimes as `int32`.
fn check_ttl(seconds: u32) -> Result<(), ()> {
    i32::try_from(seconds).map(drop).map_err(drop)
}

/// The name of an entry: up to [`MAX_ENTRY_ID_BYTES`] of `[A-Za-z0-9._-]`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryId(Arc<str>);

impl EntryId {
    /// Reads an entry id.
    ///
    /// # Errors
    ///
    /// Empty, too long, or outside the alphabet.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        if text.is_empty() {
            return Err(EntryError::NoId);
        }
        if text.len() > MAX_ENTRY_ID_BYTES {
            return Err(EntryError::IdTooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !text.bytes().all(allowed) {
            return Err(EntryError::IdCharacter);
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "EntryId({})", self.0)
    }
}

impl Borrow<str> for EntryId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for EntryId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for EntryId {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for EntryId {
    type Error = EntryError;

    fn try_from(text: String) -> Result<Self, EntryError> {
        Self::parse(&text)
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// Why an entry cannot be. SPIRE's tools show most of these sentences, so they are interface.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The entry id is empty.
    #[error("entry ID is missing")]
    NoId,
    /// The entry id is longer than [`MAX_ENTRY_ID_BYTES`].
    #[error("entry ID too long")]
    IdTooLong,
    /// The entry id holds something else than `[A-Za-z0-9._-]`.
    #[error("entry ID contains invalid characters")]
    IdCharacter,
    /// The parent id cannot be one.
    #[error("invalid parent ID")]
    ParentId(#[source] MembershipError),
    /// The SPIFFE ID cannot be granted.
    #[error("invalid spiffe ID")]
    SpiffeId(#[source] MembershipError),
    /// A DNS name cannot stand in a certificate.
    #[error("invalid DNS name")]
    DnsName(#[source] DnsNameError),
    /// More than [`MAX_DNS_NAMES`].
    #[error("more than {MAX_DNS_NAMES} DNS names")]
    DnsNames,
    /// More than [`MAX_FEDERATES_WITH`].
    #[error("federates with more than {MAX_FEDERATES_WITH} trust domains")]
    FederatesWith,
    /// No selector: the entry would hold for everyone.
    #[error("selector list is empty")]
    NoSelectors,
    /// More than [`MAX_SELECTORS`].
    #[error("more than {MAX_SELECTORS} selectors")]
    Selectors,
    /// The hint is longer than [`MAX_HINT_BYTES`].
    #[error("hint is too long, max length is {MAX_HINT_BYTES} characters")]
    Hint,
    /// The SVID is to be stored and not to be issued ahead of need.
    #[error("specifying cache behaviour is incompatible with storable SVIDs")]
    PrefetchOfStored,
    /// The SVID is to be stored and the selectors are of several kinds.
    #[error("selector types must be the same when store SVID is enabled")]
    KindsOfStored,
    /// The lifetime of X.509-SVIDs exceeds what the API can carry.
    #[error("X509-SVID TTL is longer than 2147483647 seconds")]
    X509SvidTtl,
    /// The lifetime of JWT-SVIDs exceeds what the API can carry.
    #[error("JWT-SVID TTL is longer than 2147483647 seconds")]
    JwtSvidTtl,
}

/// Why a SPIFFE ID cannot take a place in a trust domain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Of another trust domain.
    #[error("{0}")]
    Foreign(Place),
    /// The trust domain itself, where a member is wanted.
    #[error("{0}; path is empty")]
    NoPath(Place),
    /// The trust domain itself, where a workload is wanted.
    #[error("\"{id}\" is not a workload in trust domain \"{trust_domain}\"; path is empty", id = .0.id, trust_domain = .0.trust_domain)]
    NotAWorkload(Place),
    /// In the namespace of servers and agents.
    #[error(
        "\"{id}\" is not a workload in trust domain \"{trust_domain}\"; path is in the reserved namespace",
        id = .0.id, trust_domain = .0.trust_domain
    )]
    Reserved(Place),
}

/// A SPIFFE ID and the trust domain that it should fit into.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The SPIFFE ID in question.
    pub id: SpiffeId,
    /// Where it should belong.
    pub trust_domain: TrustDomain,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\" is not a member of trust domain \"{}\"", self.id, self.trust_domain)
    }
}

/// Longest entry id. A longer one is refused.
pub const MAX_ENTRY_ID_BYTES: usize = 255;
/// Longest hint. A longer one is refused.
pub const MAX_HINT_BYTES: usize = 1024;
/// Most selectors of an entry. More are refused.
pub const MAX_SELECTORS: usize = 1024;
/// Most DNS names of an entry. More are refused.
pub const MAX_DNS_NAMES: usize = 1024;
/// Most foreign trust domains of an entry. More are refused.
pub const MAX_FEDERATES_WITH: usize = 1024;
