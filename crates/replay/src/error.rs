//! Why a replay has no result.

use std::fmt::Display;

/// What kept a replay from its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program is not installed.
    #[error("cannot be set up: {what} is missing; {cure}")]
    Missing {
        /// What.
        what: String,
        /// What to do about it.
        cure: String,
    },
    /// The machine does not let us.
    #[error("cannot be set up: {doing}: {problem}")]
    Setup {
        /// What was tried.
        doing: String,
        /// What came of it.
        problem: String,
    },
    /// What is tested ended, or did not get as far as it must.
    #[error("{what}")]
    Broken {
        /// In one or more lines.
        what: String,
    },
    /// A signal came.
    #[error("interrupted; everything that was started has ended")]
    Interrupted,
}

impl Error {
    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self::Broken { what: what.into() }
    }

    pub(crate) fn setup(doing: impl Into<String>, problem: impl Display) -> Self {
        Self::Setup { doing: doing.into(), problem: problem.to_string() }
    }
}

/// Says what was being done when something of the machine failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|problem| Error::setup(what, problem))
    }
}
