//! Everything that is wrong with a configuration, at once.

use std::cell::RefCell;
use std::fmt;

use crate::hcl::Position;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, if it is about something that stands in the file.
    pub position: Option<Position>,
    /// What, and what to do.
    pub message: String,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The file.
    pub path: String,
    /// What is wrong, in the order of the file. Never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.problems.len() > 1 {
            write!(f, "{} problems in {}", self.problems.len(), self.path)?;
        }
        for problem in &self.problems {
            if self.problems.len() > 1 {
                write!(f, "\n  ")?;
            }
            match problem.position {
                Some(position) => write!(f, "{}:{position}: {}", self.path, problem.message)?,
                None => write!(f, "{}", problem.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Collects problems and warnings while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
    /// Every key that was asked for, with the path of its section.
    #[cfg(test)]
    known: RefCell<std::collections::BTreeSet<(String, &'static str)>>,
}

impl Problems {
    pub(super) fn at(&self, position: Position, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { position: Some(position), message: message.into() });
    }

    pub(super) fn add(&self, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { position: None, message: message.into() });
    }

    /// Something to say that does not stand in the way.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.warnings.borrow_mut().push(message.into());
    }

    #[cfg(test)]
    pub(super) fn known(&self, section: &str, key: &'static str) {
        self.known.borrow_mut().insert((section.to_owned(), key));
    }

    #[cfg(test)]
    pub(super) fn known_keys(&self) -> std::collections::BTreeSet<(String, &'static str)> {
        self.known.borrow().clone()
    }

    /// The warnings, or the problems in the order of the file, those without a place first.
    pub(super) fn finish(self, path: &str) -> Result<Vec<String>, Invalid> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(self.warnings.into_inner());
        }
        problems.sort_by_key(|problem| problem.position);
        Err(Invalid { path: path.to_owned(), problems })
    }
}
