//! What an attestor found out about a process or a node, as `kind:value`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One finding: `unix:uid:1000` has the kind `unix` and the value `uid:1000`. Orders by kind, then value.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: Arc<str>,
    /// Length of the kind, which ends at the first colon.
    kind_len: u32,
}

impl Selector {
    /// A selector of its two parts.
    ///
    /// # Errors
    ///
    /// An empty part, a colon in the kind, or more than [`MAX_SELECTOR_BYTES`] in all.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::MissingKind);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInKind);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        let len = kind.len().saturating_add(value.len()).saturating_add(1);
        if len > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong);
        }
        let kind_len = u32::try_from(kind.len()).map_err(|_| SelectorError::TooLong)?;
        Ok(Self { text: format!("{kind}:{value}").into(), kind_len })
    }

    /// Reads `kind:value`.
    ///
    /// # Errors
    ///
    /// As [`Selector::new`], or there is no colon.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or(SelectorError::NoColon)?;
        Self::new(kind, value)
    }

    /// The attestor that makes such findings, `unix`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.text[..self.kind_len as usize]
    }

    /// The finding, `uid:1000`.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.text[self.kind_len as usize + 1..]
    }

    /// Both parts, `unix:uid:1000`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.kind(), self.value()).cmp(&(other.kind(), other.value()))
    }
}

impl std::hash::Hash for Selector {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, out)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        Self::parse(&text)
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.text.as_ref().to_owned()
    }
}

/// Selectors in order, each once.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(from = "Vec<Selector>", into = "Vec<Selector>")]
pub struct SelectorSet(Box<[Selector]>);

impl SelectorSet {
    /// The selectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// The selectors in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Selector] {
        &self.0
    }

    /// Number of selectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `selector` is in the set. Logarithmic.
    #[must_use]
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Whether every selector of `other` is in this set; true for an empty `other`. Linear in both.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        let mut mine = self.0.iter();
        other.len() <= self.len() && other.iter().all(|wanted| mine.by_ref().any(|held| held == wanted))
    }

    /// Whether at least one selector is in both sets. Linear in both.
    #[must_use]
    pub fn contains_any(&self, other: &Self) -> bool {
        other.iter().any(|wanted| self.contains(wanted))
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut list: Vec<Selector> = selectors.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self(list.into_boxed_slice())
    }
}

impl From<Vec<Selector>> for SelectorSet {
    fn from(list: Vec<Selector>) -> Self {
        list.into_iter().collect()
    }
}

impl From<SelectorSet> for Vec<Selector> {
    fn from(set: SelectorSet) -> Self {
        set.0.into_vec()
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Why a text or a pair of texts is no selector. SPIRE's tools show these sentences, so they are interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// No colon at all.
    #[error("must be formatted as type:value")]
    NoColon,
    /// Nothing before the colon.
    #[error("missing selector type")]
    MissingKind,
    /// A kind given on its own holds a colon.
    #[error("selector type contains ':'")]
    ColonInKind,
    /// Nothing after the colon.
    #[error("missing selector value")]
    MissingValue,
    /// Longer than [`MAX_SELECTOR_BYTES`].
    #[error("selector is longer than {MAX_SELECTOR_BYTES} bytes")]
    TooLong,
}

/// Longest selector, kind, colon and value together. A longer one is refused.
pub const MAX_SELECTOR_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), SelectorError>) {
        let parsed = Selector::parse(text);
        let parts = parsed.as_ref().map(|selector| (selector.kind(), selector.value()));
        assert_eq!(parts, expected.as_ref().copied(), "{text:?}");
    }

    fn set(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
    }

    #[test]
    fn the_kind_ends_at_the_first_colon() {
        check("unix:uid:1000", Ok(("unix", "uid:1000")));
        check("a:b", Ok(("a", "b")));
        check("a::", Ok(("a", ":")));
        check("docker:env:Ä=ö b", Ok(("docker", "env:Ä=ö b")));
    }

    #[test]
    fn a_selector_needs_a_kind_and_a_value() {
        check("", Err(SelectorError::NoColon));
        check("unix", Err(SelectorError::NoColon));
        check(":", Err(SelectorError::MissingKind));
        check(":uid", Err(SelectorError::MissingKind));
        check("unix:", Err(SelectorError::MissingValue));
        check(&format!("a:{}", "b".repeat(MAX_SELECTOR_BYTES - 1)), Err(SelectorError::TooLong));
        assert!(Selector::parse(&format!("a:{}", "b".repeat(MAX_SELECTOR_BYTES - 2))).is_ok());
        assert_eq!(Selector::new("a:b", "c"), Err(SelectorError::ColonInKind));
    }

    #[test]
    fn a_set_keeps_each_selector_once_whatever_the_order() {
        assert_eq!(set(&["b:1", "a:2", "b:1"]), set(&["a:2", "b:1"]));
        assert_eq!(set(&["b:1", "a:2", "b:1"]).len(), 2);
        let order: Vec<_> = set(&["b:1", "a:2", "a-b:0"]).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["a:2", "a-b:0", "b:1"]);
    }

    #[test]
    fn the_empty_set_is_part_of_every_set() {
        assert!(set(&[]).contains_all(&set(&[])));
        assert!(set(&["a:1"]).contains_all(&set(&[])));
        assert!(!set(&[]).contains_all(&set(&["a:1"])));
        assert!(!set(&["a:1"]).contains_any(&set(&[])));
    }

    proptest! {
        #[test]
        fn every_selector_round_trips(kind in "[a-z0-9_]{1,10}", value in "\\PC{1,30}") {
            let selector = Selector::new(&kind, &value).unwrap();
            prop_assert_eq!((selector.kind(), selector.value()), (kind.as_str(), value.as_str()));
            prop_assert_eq!(Selector::parse(selector.as_str()).unwrap(), selector.clone());
            let json = serde_json::to_string(&selector).unwrap();
            prop_assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
        }

        #[test]
        fn containment_is_that_of_sets(mine in prop::collection::vec(0_u8..8, 0..8), theirs in prop::collection::vec(0_u8..8, 0..8)) {
            let build = |numbers: &[u8]| -> SelectorSet {
                numbers.iter().map(|n| Selector::new("n", &n.to_string()).unwrap()).collect()
            };
            let (a, b): (BTreeSet<_>, BTreeSet<_>) = (mine.iter().collect(), theirs.iter().collect());
            prop_assert_eq!(build(&mine).contains_all(&build(&theirs)), a.is_superset(&b));
            prop_assert_eq!(build(&mine).contains_any(&build(&theirs)), !a.is_disjoint(&b));
        }
    }
}
