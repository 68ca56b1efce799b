//! Certificates in the exact profile of the reference.
//!
//! The order of extensions and attributes, the string types and the criticality flags are those that Go's
//! `crypto/x509` produces for the reference's templates, so certificates from a mixed fleet look alike and
//! byte-comparing verifiers (webpki) accept chains across it. An issuer's name is always copied byte for byte
//! from its certificate: AD-style names repeat attributes, and any re-encoding breaks the chain.

pub mod authority;
pub mod bridge;
pub mod csr;
pub mod downstream;
pub mod subject;
pub mod svid;

pub(crate) mod path;
mod profile;

pub use authority::{CaError, CaTemplate, X509Ca, self_signed_ca};
pub use bridge::cross_certify;
pub use downstream::{DownstreamTemplate, issue_downstream_ca};
pub use subject::Subject;
pub use svid::{IssueError, Issued, SvidTemplate, issue_svid, issue_svid_now};

/// How far `notBefore` lies at least before the time of issue, for verifiers whose clock is slow; as in SPIRE.
pub const BACKDATE_SECS: i64 = 10;

/// The same at most: servers, and those who verify, may differ by half a minute.
pub const MAX_BACKDATE_SECS: i64 = 40;

/// How far an SVID that lives for `ttl_secs` is backdated: a sixtieth of that, within the bounds above, so that half of
/// the life of a short one never lies in the past.
#[must_use]
pub fn backdate_secs(ttl_secs: i64) -> i64 {
    (ttl_secs / 60).clamp(BACKDATE_SECS, MAX_BACKDATE_SECS)
}

#[cfg(test)]
mod tests;
