//! Which signers are allowed: issuer and subject, by text or by pattern.
//!
//! A text with one of `*+?^${}[]|()` in it is a pattern, as in SPIRE; it is searched for, so that one without `^` and `$`
//! also fits a part. Classes as `\w` are of ASCII, as in Go.

use regex::bytes::{Regex, RegexBuilder};

/// The signers that count.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    /// `None`: everybody whose certificate leads to a trusted root.
    pairs: Option<Vec<(Wanted, Wanted)>>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Text(String),
    Pattern(Regex),
}

impl Allowed {
    /// The subjects of each issuer. With no issuer at all everybody is allowed, as in SPIRE.
    ///
    /// # Errors
    ///
    /// Every [`AllowedError`] there is.
    pub(crate) fn new(identities: &[(String, Vec<String>)]) -> Result<Self, Vec<AllowedError>> {
        let mut problems = Vec::new();
        let mut pairs = Vec::new();
        for (issuer, subjects) in identities {
            if subjects.is_empty() {
                problems.push(AllowedError::NoSubject { issuer: issuer.clone() });
            }
            let by = Wanted::new(issuer).map_err(|problem| problems.push(problem)).ok();
            for subject in subjects {
                let whom = Wanted::new(subject).map_err(|problem| problems.push(problem)).ok();
                pairs.extend(by.clone().zip(whom));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { pairs: (!identities.is_empty()).then_some(pairs) })
    }

    /// Whether everybody is.
    #[must_use]
    pub(crate) fn is_everybody(&self) -> bool {
        self.pairs.is_none()
    }

    /// Whether one of `subjects` of `issuer` is.
    #[must_use]
    pub(crate) fn has(&self, issuer: &str, subjects: &[String]) -> bool {
        let Some(pairs) = &self.pairs else { return true };
        pairs.iter().any(|(by, whom)| by.fits(issuer) && subjects.iter().any(|subject| whom.fits(subject)))
    }
}

impl Wanted {
    fn new(text: &str) -> Result<Self, AllowedError> {
        if text.is_empty() {
            return Err(AllowedError::Empty);
        }
        if !text.contains(PATTERN_CHARACTERS) {
            return Ok(Self::Text(text.to_owned()));
        }
        let built = RegexBuilder::new(text).unicode(false).size_limit(MAX_PATTERN).build();
        built
            .map(Self::Pattern)
            .map_err(|source| AllowedError::Pattern { pattern: text.to_owned(), source: Box::new(source) })
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Text(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text.as_bytes()),
        }
    }
}

const PATTERN_CHARACTERS: &[char] = &['*', '+', '?', '^', '$', '{', '}', '[', ']', '|', '(', ')'];

/// Bytes of a compiled pattern.
const MAX_PATTERN: usize = 256 * 1024;

/// What is wrong with an allowed identity.
#[derive(Debug, thiserror::Error)]
pub enum AllowedError {
    /// SPIRE would then allow everybody, if there is no other issuer.
    #[error(
        "issuer {issuer:?} has no subject: nobody of it would be allowed; list subjects, or \".*\" for all"
    )]
    NoSubject {
        /// Whose.
        issuer: String,
    },
    /// SPIRE would then allow anything.
    #[error("an issuer or subject is empty; write \".*\" for any")]
    Empty,
    /// It cannot be read.
    #[error("the pattern {pattern:?} cannot be used")]
    Pattern {
        /// It.
        pattern: String,
        /// Why.
        #[source]
        source: Box<regex::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(identities: &[(&str, &[&str])], issuer: &str, subject: &str) -> bool {
        let owned: Vec<_> = identities
            .iter()
            .map(|(issuer, subjects)| {
                ((*issuer).to_owned(), subjects.iter().map(|s| (*s).to_owned()).collect())
            })
            .collect();
        Allowed::new(&owned).unwrap().has(issuer, &["other".to_owned(), subject.to_owned()])
    }

    #[test]
    fn texts_fit_exactly_and_patterns_anywhere() {
        let google: &[(&str, &[&str])] =
            &[("https://accounts.google.com", &["a@example.com", "^b.*@example\\.com$"])];
        for (subject, fits) in [
            ("a@example.com", true),
            ("a@exampleXcom", false),
            ("xa@example.com", false),
            ("bob@example.com", true),
            ("bob@example.com.evil.org", false),
        ] {
            assert_eq!(has(google, "https://accounts.google.com", subject), fits, "{subject}");
            assert!(!has(google, "https://evil.example", subject), "{subject}");
        }
        assert!(has(&[("(issuer)", &["part|of"])], "https://issuer/x", "a part of"), "unanchored, as in Go");
    }

    #[test]
    fn an_issuer_never_allows_the_subjects_of_another_one() {
        let two: &[(&str, &[&str])] = &[("https://a", &["x"]), ("https://b", &["y"])];
        assert!(has(two, "https://a", "x"));
        assert!(!has(two, "https://a", "y"));
    }

    #[test]
    fn without_any_issuer_everybody_is_allowed() {
        assert!(has(&[], "https://anybody", "anything"));
    }

    #[test]
    fn classes_are_of_ascii() {
        assert!(has(&[("https://a", &["^\\wbc$"])], "https://a", "abc"));
        assert!(!has(&[("https://a", &["^\\wbc$"])], "https://a", "аbc"), "a Cyrillic letter");
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let problems = Allowed::new(&[
            ("https://a".to_owned(), vec![]),
            ("(".to_owned(), vec!["[".to_owned(), String::new(), "x{1000}{1000}".to_owned()]),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 5, "{problems:?}");
    }
}
