//! Who someone is: a URI of a trust domain name and a path (SPIFFE-ID §2).
//!
//! Only the canonical spelling is read. SPIFFE-ID §2.4 calls the scheme and the trust domain name
//! case-insensitive, but §2.1 requires the name in lower case, and every verifier in the field compares bytes:
//! accepting a second spelling would make one identity look like two.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::trust_domain::{TrustDomain, check_name};

/// A valid SPIFFE ID. Cloning shares the text. Compares, orders and hashes as its text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path starts in `text`; its length if there is none.
    path_at: u16,
}

impl SpiffeId {
    /// Reads `spiffe://trust-domain/path`, with or without a path.
    ///
    /// # Errors
    ///
    /// The first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        // SPIFFE-ID §2.3: "SPIFFE implementations MUST support SPIFFE URIs up to 2048 bytes in length and
        // SHOULD NOT generate URIs of length greater than 2048 bytes."
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        // SPIFFE-ID §2: "Valid SPIFFE IDs MUST have the scheme set to `spiffe`, include a non-zero trust domain
        // name, and MUST NOT include a query or fragment component." The last is enforced by the alphabets.
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let name_len = rest.find('/').unwrap_or(rest.len());
        check_name(&rest[..name_len])?;
        check_path(&rest[name_len..])?;
        Ok(Self { text: text.into(), path_at: offset(SCHEME.len() + name_len) })
    }

    /// Joins a trust domain and a path, which is empty or starts with a slash.
    ///
    /// # Errors
    ///
    /// The first rule that the path breaks.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        let text = format!("{SCHEME}{trust_domain}{path}");
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        Ok(Self { text: text.into(), path_at: offset(SCHEME.len() + trust_domain.as_str().len()) })
    }

    /// The identity of the servers of a trust domain: `/spire/server`.
    #[must_use]
    pub fn server(trust_domain: &TrustDomain) -> Self {
        Self::within_bounds(trust_domain, SERVER_PATH)
    }

    /// The identity of an agent: `/spire/agent/` and a suffix such as `join_token/7b7f…`.
    ///
    /// # Errors
    ///
    /// The first rule that the suffix breaks.
    pub fn agent(trust_domain: &TrustDomain, suffix: &str) -> Result<Self, SpiffeIdError> {
        Self::new(trust_domain, &format!("{AGENT_PATH_PREFIX}{suffix}"))
    }

    pub(crate) fn of_trust_domain(trust_domain: &TrustDomain) -> Self {
        Self::within_bounds(trust_domain, "")
    }

    /// For paths of ours: valid, and short enough beside any trust domain name.
    fn within_bounds(trust_domain: &TrustDomain, path: &'static str) -> Self {
        let text = format!("{SCHEME}{trust_domain}{path}");
        Self { text: text.into(), path_at: offset(SCHEME.len() + trust_domain.as_str().len()) }
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path with its leading slash, or the empty string.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path_at)..]
    }

    /// The trust domain. Allocates; [`SpiffeId::trust_domain_name`] does not.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::checked(self.trust_domain_name())
    }

    /// The bare name of the trust domain.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.path_at)]
    }

    /// Whether the trust domain is `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// Whether the path lies in the agents' namespace, `/spire/agent/…`.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        self.path().starts_with(AGENT_PATH_PREFIX)
    }

    /// Whether the path lies in the namespace of agents that `attestor` attested.
    #[must_use]
    pub fn is_agent_of(&self, attestor: &str) -> bool {
        let suffix = self.path().strip_prefix(AGENT_PATH_PREFIX);
        let rest = suffix.and_then(|suffix| suffix.strip_prefix(attestor));
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether the path is reserved for servers and agents: `/spire` and all below it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.path() == RESERVED_PATH || self.path().starts_with(RESERVED_PATH_PREFIX)
    }
}

/// Every path starts within the scheme and the longest trust domain name, far below 65,536.
fn offset(position: usize) -> u16 {
    u16::try_from(position).unwrap_or(u16::MAX)
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(SpiffeIdError::NoLeadingSlash)?;
    // SPIFFE-ID §2.2: "The path component MUST NOT include a trailing `/`."
    if segments.ends_with('/') || segments.is_empty() {
        return Err(SpiffeIdError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    // SPIFFE-ID §2.2: "The path component MUST NOT include segments that are empty or are relative path
    // modifiers (i.e. `.`, `..`)".
    match segment {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    // SPIFFE-ID §2.2: "Individual path segments MUST contain only letters, numbers, dots, dashes, and underscores
    // ([a-zA-Z0-9.-_])." and "The path component MUST NOT include percent-encoded characters."
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !segment.bytes().all(allowed) {
        return Err(SpiffeIdError::PathCharacter);
    }
    Ok(())
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SpiffeId({})", self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().to_owned()
    }
}

/// Why a text is no SPIFFE ID or trust domain name. SPIRE's tools show these sentences, so they are interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// No text at all.
    #[error("cannot be empty")]
    Empty,
    /// Longer than [`MAX_SPIFFE_ID_BYTES`].
    #[error("SPIFFE ID is longer than {MAX_SPIFFE_ID_BYTES} bytes")]
    TooLong,
    /// Does not start with `spiffe://`.
    #[error("scheme is missing or invalid")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// Longer than [`crate::trust_domain::MAX_TRUST_DOMAIN_BYTES`].
    #[error("trust domain is longer than {} bytes", crate::trust_domain::MAX_TRUST_DOMAIN_BYTES)]
    TrustDomainTooLong,
    /// Something else than `[a-z0-9.-_]`, for example a capital, a port, a user, a query or a fragment.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    TrustDomainCharacter,
    /// A path that is not empty and does not start with a slash.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// A path that ends with a slash, the root path included.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// Two slashes in a row.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// Something else than `[a-zA-Z0-9.-_]` in a segment.
    #[error("path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
    PathCharacter,
}

/// Longest SPIFFE ID. A longer one is refused.
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

pub(crate) const SCHEME: &str = "spiffe://";
const SERVER_PATH: &str = "/spire/server";
const AGENT_PATH_PREFIX: &str = "/spire/agent/";
const RESERVED_PATH: &str = "/spire";
const RESERVED_PATH_PREFIX: &str = "/spire/";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), SpiffeIdError>) {
        let parsed = SpiffeId::parse(text);
        let parts = parsed.as_ref().map(|id| (id.trust_domain_name(), id.path()));
        assert_eq!(parts, expected.as_ref().copied(), "{text:?}");
    }

    #[test]
    fn a_spiffe_id_is_a_trust_domain_and_a_path() {
        check("spiffe://example.org", Ok(("example.org", "")));
        check("spiffe://example.org/a", Ok(("example.org", "/a")));
        check("spiffe://example.org/ns/a/sa/b", Ok(("example.org", "/ns/a/sa/b")));
        check("spiffe://1.2.3.4/a", Ok(("1.2.3.4", "/a")));
        check("spiffe://td/...", Ok(("td", "/...")));
        check("spiffe://td/a..b/.c/d.", Ok(("td", "/a..b/.c/d.")));
        check("spiffe://td/aAzZ09._-", Ok(("td", "/aAzZ09._-")));
        check("spiffe://td_0-a./A", Ok(("td_0-a.", "/A")));
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        check("", Err(SpiffeIdError::Empty));
        for text in [
            "s",
            "spiffe:",
            "spiffe:/td",
            "http://td/a",
            "SPIFFE://td/a",
            "Spiffe://td",
            " spiffe://td",
            "/a",
        ] {
            check(text, Err(SpiffeIdError::Scheme));
        }
        check("spiffe://", Err(SpiffeIdError::MissingTrustDomain));
        check("spiffe:///a", Err(SpiffeIdError::MissingTrustDomain));
        for text in [
            "spiffe://TD/a",
            "spiffe://a@td/a",
            "spiffe://td:1/a",
            "spiffe://[::1]/a",
            "spiffe://%74d",
            "spiffe://t d",
        ] {
            check(text, Err(SpiffeIdError::TrustDomainCharacter));
        }
        check("spiffe://td/", Err(SpiffeIdError::TrailingSlash));
        check("spiffe://td/a/", Err(SpiffeIdError::TrailingSlash));
        check("spiffe://td//", Err(SpiffeIdError::TrailingSlash));
        check("spiffe://td//a", Err(SpiffeIdError::EmptySegment));
        check("spiffe://td/a//b", Err(SpiffeIdError::EmptySegment));
        check("spiffe://td/./a", Err(SpiffeIdError::DotSegment));
        check("spiffe://td/a/..", Err(SpiffeIdError::DotSegment));
        for text in [
            "spiffe://td/a?q",
            "spiffe://td/a#f",
            "spiffe://td/%41",
            "spiffe://td/ä",
            "spiffe://td/a:b",
            "spiffe://td/a b",
        ] {
            check(text, Err(SpiffeIdError::PathCharacter));
        }
    }

    #[test]
    fn length_is_bounded_at_2048_bytes_in_both_constructors() {
        let path = format!("/{}", "a".repeat(MAX_SPIFFE_ID_BYTES - "spiffe://td/".len()));
        let td = TrustDomain::parse("td").unwrap();
        assert_eq!(SpiffeId::new(&td, &path).unwrap().as_str().len(), MAX_SPIFFE_ID_BYTES);
        check(&format!("spiffe://td{path}"), Ok(("td", &path)));
        assert_eq!(SpiffeId::new(&td, &format!("{path}a")), Err(SpiffeIdError::TooLong));
        check(&format!("spiffe://td{path}a"), Err(SpiffeIdError::TooLong));
        check(&format!("spiffe://{}/a", "a".repeat(256)), Err(SpiffeIdError::TrustDomainTooLong));
    }

    #[test]
    fn agents_and_servers_have_their_own_namespace() {
        let td = TrustDomain::parse("example.org").unwrap();
        let agent = SpiffeId::agent(&td, "join_token/abc").unwrap();
        assert_eq!(agent.as_str(), "spiffe://example.org/spire/agent/join_token/abc");
        assert!(agent.is_agent() && agent.is_agent_of("join_token") && agent.is_reserved());
        assert!(!agent.is_agent_of("join"));
        let server = SpiffeId::server(&td);
        assert_eq!(server.as_str(), "spiffe://example.org/spire/server");
        assert!(server.is_reserved() && !server.is_agent());
        assert!(!SpiffeId::new(&td, "/spire/agentx/a").unwrap().is_agent());
        assert!(!SpiffeId::new(&td, "/spirex").unwrap().is_reserved());
        assert!(SpiffeId::agent(&td, "").is_err());
        assert!(SpiffeId::new(&td, "a").is_err());
    }

    #[test]
    fn membership_compares_whole_names() {
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        assert!(id.is_member_of(&TrustDomain::parse("example.org").unwrap()));
        assert!(!id.is_member_of(&TrustDomain::parse("example.or").unwrap()));
        assert!(!id.is_member_of(&TrustDomain::parse("example.org.evil").unwrap()));
    }

    proptest! {
        #[test]
        fn every_valid_id_round_trips(name in "[a-z0-9._-]{1,60}", segments in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}", 0..8)) {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            let td = TrustDomain::parse(&name).unwrap();
            let id = SpiffeId::new(&td, &path).unwrap();
            prop_assert_eq!(id.path(), &path);
            prop_assert_eq!(id.trust_domain(), td);
            prop_assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id.clone());
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id);
        }

        #[test]
        fn whatever_parses_is_spelled_canonically(text in "spiffe:/{1,3}[a-zA-Z.]{0,5}(/[a-z./%?#:]{0,5}){0,3}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()).unwrap(), id);
            }
        }
    }
}
