//! Positions in the history of a kind.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A `resourceVersion`. Kubernetes from 1.35 on specifies what was so before: for kinds that kube-apiserver itself serves,
/// versions of the same kind are integers of any length that grow (KEP-5504). Versions of extension API servers may
/// be anything; those are equal or not comparable.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ResourceVersion(Arc<str>);

impl ResourceVersion {
    /// The version as the API server wrote it; `None` for no version (`""`) and for `0`, which means any.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && text != "0" && text.len() <= MAX_LENGTH).then(|| Self(text.into()))
    }

    /// As the API server wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is certain that this version is older than `other`.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Less)
    }

    fn is_number(&self) -> bool {
        !self.0.starts_with('0') && self.0.bytes().all(|byte| byte.is_ascii_digit())
    }
}

impl PartialOrd for ResourceVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        // Without leading zeros the longer number is the larger one.
        let ordered = || self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0));
        (self.is_number() && other.is_number()).then(ordered)
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest version that is taken.
const MAX_LENGTH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> ResourceVersion {
        ResourceVersion::parse(text).unwrap()
    }

    proptest! {
        #[test]
        fn versions_compare_as_numbers(a in 1_u128.., b in 1_u128..) {
            let (x, y) = (version(&a.to_string()), version(&b.to_string()));
            prop_assert_eq!(x.partial_cmp(&y), Some(a.cmp(&b)));
        }
    }

    #[test]
    fn what_is_no_number_is_neither_older_nor_newer() {
        for other in ["abc", "007", "12a", "-1"] {
            assert!(!version(other).is_older_than(&version("5")), "{other}");
            assert!(!version("5").is_older_than(&version(other)), "{other}");
        }
        assert_eq!(version("abc"), version("abc"));
    }

    #[test]
    fn no_version_and_any_version_are_no_positions() {
        assert_eq!(ResourceVersion::parse(""), None);
        assert_eq!(ResourceVersion::parse("0"), None);
        assert_eq!(ResourceVersion::parse(&"1".repeat(257)), None);
    }
}
