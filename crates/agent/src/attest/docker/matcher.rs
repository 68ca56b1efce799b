//! Patterns that say where in a cgroup path the container ID is: `container_id_cgroup_matchers`.
//!
//! A pattern is a path in which the segment `*` stands for any one segment and `<id>`, exactly once, for the container
//! ID. Two patterns that could match the same path are refused at start, so that order never matters.

/// A set of patterns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Matchers {
    patterns: Vec<Vec<Box<str>>>,
}

/// Why patterns cannot be used. The texts are SPIRE's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MatcherError {
    /// Nothing to match with.
    #[error("dockerfinder: at least 1 pattern must be supplied")]
    None,
    /// Some path could be matched by two of them.
    #[error("dockerfinder: patterns must not be ambiguous: {0:?}")]
    Ambiguous(Vec<String>),
    /// `<id>` is missing, or there twice.
    #[error("pattern {0:?} must contain the container id token \"<id>\" exactly once")]
    Token(String),
}

impl Matchers {
    /// Reads patterns.
    ///
    /// # Errors
    ///
    /// [`MatcherError`]: what an operator must put right.
    pub fn parse(patterns: &[String]) -> Result<Self, MatcherError> {
        if patterns.is_empty() {
            return Err(MatcherError::None);
        }
        let split: Vec<Vec<Box<str>>> =
            patterns.iter().map(|pattern| pattern.split('/').map(Box::from).collect()).collect();
        let mut ambiguous: Vec<String> = split
            .iter()
            .enumerate()
            .filter(|(place, one)| {
                split.iter().enumerate().any(|(other, two)| *place != other && overlap(one, two))
            })
            .map(|(place, _)| patterns[place].clone())
            .collect();
        if !ambiguous.is_empty() {
            ambiguous.sort_unstable();
            ambiguous.dedup();
            return Err(MatcherError::Ambiguous(ambiguous));
        }
        for (pattern, segments) in patterns.iter().zip(&split) {
            if segments.iter().filter(|segment| &***segment == ID).count() != 1 {
                return Err(MatcherError::Token(pattern.clone()));
            }
        }
        Ok(Self { patterns: split })
    }

    /// The container ID in `path`, if a pattern matches it. It may be empty.
    #[must_use]
    pub fn id_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        self.patterns.iter().find_map(|pattern| {
            let mut segments = path.split('/');
            let mut id = None;
            for expected in pattern {
                let segment = segments.next()?;
                match &**expected {
                    ANY => {}
                    ID => id = Some(segment),
                    literal if literal == segment => {}
                    _ => return None,
                }
            }
            if segments.next().is_none() { id } else { None }
        })
    }
}

fn overlap(one: &[Box<str>], two: &[Box<str>]) -> bool {
    let free = |segment: &str| matches!(segment, ANY | ID);
    one.len() == two.len() && one.iter().zip(two).all(|(a, b)| a == b || free(a) || free(b))
}

const ANY: &str = "*";
const ID: &str = "<id>";

#[cfg(test)]
mod tests {
    use super::*;

    fn matchers(patterns: &[&str]) -> Result<Matchers, MatcherError> {
        Matchers::parse(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_pattern_finds_the_id_in_paths_of_its_shape_only() {
        let set = matchers(&["/docker/<id>", "/my.slice/*/<id>/*"]).unwrap();
        assert_eq!(set.id_in("/docker/abc"), Some("abc"));
        assert_eq!(set.id_in("/my.slice/x/abc/y"), Some("abc"));
        assert_eq!(set.id_in("/docker/"), Some(""));
        for other in ["/docker", "/docker/abc/x", "/podman/abc", "docker/abc", "/my.slice/abc"] {
            assert_eq!(set.id_in(other), None, "{other}");
        }
    }

    #[test]
    fn patterns_are_not_regular_expressions() {
        let set = matchers(&["/a.b/<id>"]).unwrap();
        assert_eq!((set.id_in("/a.b/1"), set.id_in("/axb/1")), (Some("1"), None));
    }

    #[test]
    fn patterns_that_could_match_the_same_path_are_refused_together() {
        let error = matchers(&["/c/<id>", "/a/b/<id>", "/*/b/<id>"]).unwrap_err();
        assert_eq!(error, MatcherError::Ambiguous(vec!["/*/b/<id>".into(), "/a/b/<id>".into()]));
        assert!(matchers(&["/<id>/b", "/a/<id>"]).is_err());
        assert!(matchers(&["/a/<id>", "/b/<id>", "/b/<id>/c"]).is_ok());
    }

    #[test]
    fn the_id_must_be_there_exactly_once() {
        for pattern in ["/a", "/<id>/<id>", "/a<id>"] {
            let text = matchers(&[pattern]).unwrap_err().to_string();
            assert_eq!(
                text,
                format!("pattern {pattern:?} must contain the container id token \"<id>\" exactly once")
            );
        }
        assert_eq!(matchers(&[]).unwrap_err(), MatcherError::None);
    }
}
