//! The name of a trust root (SPIFFE-ID §2.1).

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::spiffe_id::{SpiffeId, SpiffeIdError};

/// A valid trust domain name, such as `example.org`. Cloning shares the text.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a bare name (`example.org`) or takes the trust domain of any SPIFFE ID (`spiffe://example.org/a`).
    ///
    /// # Errors
    ///
    /// What the name, or the SPIFFE ID that it is written as, breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        // A name cannot hold ':' or '/': anything that does is meant as a SPIFFE ID, `spiffe:/typo` included.
        if text.contains(":/") {
            return Ok(SpiffeId::parse(text)?.trust_domain());
        }
        check_name(text)?;
        Ok(Self(text.into()))
    }

    /// A name that a [`SpiffeId`] has checked already.
    pub(crate) fn checked(name: &str) -> Self {
        debug_assert!(check_name(name).is_ok());
        Self(name.into())
    }

    /// The bare name: `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain as text: `spiffe://example.org`.
    #[must_use]
    pub fn id_string(&self) -> String {
        format!("{}{}", crate::spiffe_id::SCHEME, self.0)
    }

    /// The SPIFFE ID of the trust domain, which has no path.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId::of_trust_domain(self)
    }
}

/// The rules for the `host` part of a SPIFFE ID.
pub(crate) fn check_name(name: &str) -> Result<(), SpiffeIdError> {
    // SPIFFE-ID §2.1: "The `host` part of the authority MUST NOT be empty."
    if name.is_empty() {
        return Err(SpiffeIdError::MissingTrustDomain);
    }
    // SPIFFE-ID §2.3: "therefore a maximum length of a trust domain name is 255 bytes."
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TrustDomainTooLong);
    }
    // SPIFFE-ID §2.1: "The `host` part of the authority MUST be lowercase." and "MUST contain only letters,
    // numbers, dots, dashes, and underscores ([a-z0-9.-_])." This also enforces "The `userinfo` and `port`
    // parts of the authority component MUST be empty." and "MUST NOT contain percent-encoded characters."
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if !name.bytes().all(allowed) {
        return Err(SpiffeIdError::TrustDomainCharacter);
    }
    Ok(())
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        Self::parse(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(name: TrustDomain) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Longest trust domain name. A longer one is refused.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, SpiffeIdError>) {
        let parsed = TrustDomain::parse(text);
        assert_eq!(parsed.as_ref().map(TrustDomain::as_str), expected.as_ref().copied(), "{text:?}");
    }

    #[test]
    fn bare_names_and_spiffe_ids_name_a_trust_domain() {
        check("example.org", Ok("example.org"));
        check("a", Ok("a"));
        check("1.2.3.4", Ok("1.2.3.4"));
        check("trust_domain-1.example", Ok("trust_domain-1.example"));
        check("..", Ok(".."));
        check("spiffe://example.org", Ok("example.org"));
        check("spiffe://example.org/a/b", Ok("example.org"));
        check(&"a".repeat(255), Ok(&"a".repeat(255)));
    }

    #[test]
    fn names_outside_the_alphabet_are_refused() {
        check("", Err(SpiffeIdError::MissingTrustDomain));
        check("spiffe://", Err(SpiffeIdError::MissingTrustDomain));
        check("spiffe:///path", Err(SpiffeIdError::MissingTrustDomain));
        check(&"a".repeat(256), Err(SpiffeIdError::TrustDomainTooLong));
        for name in
            ["Example.org", "a b", "a:80", "user@a", "a%41", "[::1]", "exämple.org", "a/b", "a\0", " a"]
        {
            check(name, Err(SpiffeIdError::TrustDomainCharacter));
        }
        for id in ["spiffe://Example.org", "spiffe://a:80", "spiffe://user@a", "spiffe://a?q", "spiffe://a#f"]
        {
            check(id, Err(SpiffeIdError::TrustDomainCharacter));
        }
        check("http://example.org", Err(SpiffeIdError::Scheme));
        check("spiffe:/example.org", Err(SpiffeIdError::Scheme));
        check("SPIFFE://example.org", Err(SpiffeIdError::Scheme));
        check("spiffe://example.org/", Err(SpiffeIdError::TrailingSlash));
    }

    #[test]
    fn a_stored_name_is_checked_again_when_it_is_read() {
        assert!(serde_json::from_str::<TrustDomain>("\"example.org\"").is_ok());
        assert!(serde_json::from_str::<TrustDomain>("\"Example.org\"").is_err());
    }

    proptest! {
        #[test]
        fn every_valid_name_round_trips(name in "[a-z0-9._-]{1,255}") {
            let parsed = TrustDomain::parse(&name).unwrap();
            prop_assert_eq!(parsed.as_str(), &name);
            prop_assert_eq!(TrustDomain::parse(&parsed.id_string()).unwrap(), parsed.clone());
            prop_assert_eq!(parsed.id().trust_domain(), parsed);
        }

        #[test]
        fn whatever_parses_keeps_to_the_alphabet(text in "\\PC{0,20}") {
            if let Ok(name) = TrustDomain::parse(&text) {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
                prop_assert!(name.as_str().chars().all(plain));
            }
        }
    }
}
