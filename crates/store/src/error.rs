//! What can go wrong in a store.
//!
//! No message holds the value of a join token: objects are named by [`Kind`] and a key that is safe to show.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use vouchsafe_runtime::class::Class;

use crate::change::Position;

/// Why a store call failed. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such object.
    #[error("{what} {key} does not exist")]
    NotFound {
        /// What kind of object.
        what: Kind,
        /// Its key.
        key: String,
    },
    /// An object with this key exists.
    #[error("{what} {key} already exists")]
    AlreadyExists {
        /// What kind of object.
        what: Kind,
        /// Its key.
        key: String,
    },
    /// The change was refused; nothing was written.
    #[error("{0}")]
    Rejected(#[source] Rejected),
    /// The feed no longer reaches back so far: load everything.
    #[error("changes after position {after} are pruned up to {pruned}; load everything again")]
    Pruned {
        /// Where the reader was.
        after: Position,
        /// The newest position that is pruned.
        pruned: Position,
    },
    /// The database is behind what was read from it before.
    #[error(
        "the database ends at position {newest}, but {after} was read from it before; \
         if a backup was restored, load everything again"
    )]
    Rewound {
        /// Where the reader was.
        after: Position,
        /// Where the database is.
        newest: Position,
    },
    /// The database did not answer in time, or is locked or out of reach.
    #[error("{operation}: the database is not available ({outcome}); try again in {retry_after:?}")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// What became of the write.
        outcome: Outcome,
        /// How long to wait before trying again.
        retry_after: Duration,
        /// What the database said, if it said something.
        #[source]
        source: Option<Cause>,
    },
    /// There is no room for the write; nothing was written.
    #[error("{operation}: no space left for {place}; free some, writes then work again without a restart")]
    DiskFull {
        /// What was being done.
        operation: &'static str,
        /// The database.
        place: String,
        /// What the database said.
        #[source]
        source: Option<Cause>,
    },
    /// The database holds something that was not written by this program, or was damaged.
    #[error("{operation}: {place} is damaged: {detail}; stop the server and restore a backup")]
    Corrupt {
        /// What was being done.
        operation: &'static str,
        /// The database.
        place: String,
        /// What is wrong.
        detail: String,
        /// What the database said, if it said something.
        #[source]
        source: Option<Cause>,
    },
    /// The database refuses the operation for another reason, such as permissions or an input/output error.
    #[error("{operation}: {place} cannot be used")]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// The database.
        place: String,
        /// What the database said.
        #[source]
        source: Cause,
    },
    /// This program made a mistake; nothing was written.
    #[error("{operation}: internal error: {detail}")]
    Bug {
        /// What was being done.
        operation: &'static str,
        /// What happened.
        detail: String,
    },
}

/// What an engine's driver reported. Shared, so that one failed group commit can answer all its writers.
pub type Cause = Arc<dyn StdError + Send + Sync>;

impl Error {
    /// Who has to act.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::AlreadyExists { .. } | Self::Rejected(_) => Class::Caller,
            Self::Pruned { .. } | Self::Rewound { .. } | Self::Unavailable { .. } => Class::Transient,
            Self::DiskFull { .. } | Self::Corrupt { .. } | Self::Failed { .. } => Class::Permanent,
            Self::Bug { .. } => Class::Bug,
        }
    }

    /// Whether a reader of the feed must load everything again instead of reading on.
    #[must_use]
    pub fn needs_reload(&self) -> bool {
        matches!(self, Self::Pruned { .. } | Self::Rewound { .. })
    }

    /// How long to wait before another attempt makes sense; `None` when waiting does not help by itself.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

/// What became of a write whose caller was told that the database is not available.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Nothing was written and nothing will be.
    NotWritten,
    /// It may be written, wholly or not at all; the change feed tells.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWritten => "nothing was written",
            Self::Unknown => "the write may or may not take effect",
        })
    }
}

/// Kinds of stored objects.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// A registration entry.
    Entry,
    /// An attested agent.
    Agent,
    /// A trust bundle.
    Bundle,
    /// A join token.
    JoinToken,
    /// A federation relationship.
    Federation,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "registration entry",
            Self::Agent => "agent",
            Self::Bundle => "bundle",
            Self::JoinToken => "join token",
            Self::Federation => "federation relationship",
        })
    }
}

/// Why a change was refused, in words for the caller.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejected {
    reason: Cow<'static, str>,
}

impl Rejected {
    /// A refusal for `reason`: lowercase, no secret in it.
    #[must_use]
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into() }
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unavailable_database_says_what_became_of_the_write_and_when_to_return() {
        let error = Error::Unavailable {
            operation: "create entry",
            outcome: Outcome::NotWritten,
            retry_after: Duration::from_secs(2),
            source: None,
        };
        assert_eq!(
            error.to_string(),
            "create entry: the database is not available (nothing was written); try again in 2s"
        );
        assert_eq!(error.class(), Class::Transient);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    }
}
