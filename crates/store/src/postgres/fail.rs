//! From what PostgreSQL and the driver report to what callers are told.

use std::error::Error as StdError;
use std::sync::Arc;

use tokio_postgres::error::{Severity, SqlState};

use super::RETRY_AFTER;
use crate::error::{Cause, Error, Kind, Outcome, Rejected};

/// What the database or the driver said, without values: a message's detail may quote a row, and rows hold secrets.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Said {
    text: String,
    code: Option<SqlState>,
    /// Whether the connection ended with it.
    fatal: bool,
}

impl Said {
    pub(crate) fn code(&self) -> Option<&SqlState> {
        self.code.as_ref()
    }
}

/// A failure inside this engine. [`Fail::at`] adds what was being done before it leaves.
#[derive(Clone, Debug)]
pub(crate) enum Fail {
    /// The database's own, or the connection's.
    Sql(Arc<Said>),
    /// There is no database to talk to now, as far as is known.
    Away(Option<Cause>),
    /// The database is there, and not one that this program may use.
    Refused(Cause),
    /// A row that this program cannot have written.
    Row { table: &'static str, key: String, detail: String },
    /// Ready for the caller.
    Told(Error),
    /// A mistake of this program.
    Bug(String),
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Do the whole transaction again: another one was in its way, or the connection had ended before.
    Again,
    /// The database cannot do it now.
    Unavailable,
    Full,
    Damaged,
    Unfit,
    Other,
}

impl Fail {
    /// A stored value that does not parse.
    pub(crate) fn row(table: &'static str, key: &str, detail: impl ToString) -> Self {
        Self::Row { table, key: key.to_owned(), detail: detail.to_string() }
    }

    pub(crate) fn not_found(what: Kind, key: impl ToString) -> Self {
        Self::Told(Error::NotFound { what, key: key.to_string() })
    }

    pub(crate) fn already_exists(what: Kind, key: impl ToString) -> Self {
        Self::Told(Error::AlreadyExists { what, key: key.to_string() })
    }

    /// A failure of this program's own words.
    pub(crate) fn said(text: impl Into<String>) -> Self {
        Self::Sql(Arc::new(Said { text: text.into(), code: None, fatal: true }))
    }

    /// Whether the connection ended: what was sent before may or may not have been done.
    pub(crate) fn is_disconnect(&self) -> bool {
        matches!(self, Self::Sql(said) if said.fatal)
    }

    /// Whether the statement does not fit the tables.
    pub(crate) fn is_mistake(&self) -> bool {
        matches!(self, Self::Sql(said) if said.code().is_some_and(|code| code.code().starts_with("42")))
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Sql(said) => verdict(said),
            Self::Away(_) => Verdict::Unavailable,
            Self::Row { .. } => Verdict::Damaged,
            Self::Refused(_) | Self::Told(_) | Self::Bug(_) => Verdict::Other,
        }
    }

    /// The cause, to be shown with whatever could not be done.
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::Sql(said) => said,
            Self::Away(Some(cause)) | Self::Refused(cause) => cause,
            Self::Told(error) => Arc::new(error),
            other => Arc::new(Said { text: format!("{other:?}"), code: None, fatal: false }),
        }
    }

    /// The public error, if the failure is one object's own.
    ///
    /// # Errors
    ///
    /// The failure itself, if it is the database's.
    pub(crate) fn of_one(self, operation: &'static str, place: &str) -> Result<Error, Self> {
        match &self {
            Self::Told(_) | Self::Row { .. } => Ok(self.at(operation, place)),
            Self::Sql(_) | Self::Away(_) | Self::Refused(_) | Self::Bug(_) => Err(self),
        }
    }

    /// The public error for `operation` on the database `place`, when it is known what became of it.
    pub(crate) fn at(self, operation: &'static str, place: &str) -> Error {
        let verdict = self.verdict();
        let place = place.to_owned();
        match self {
            Self::Told(error) => error,
            Self::Bug(detail) => Error::Bug { operation, detail },
            Self::Away(source) => Error::Unavailable {
                operation,
                outcome: Outcome::NotWritten,
                retry_after: RETRY_AFTER,
                source,
            },
            Self::Refused(source) => Error::Failed { operation, place, source },
            Self::Row { table, key, detail } => {
                Error::Corrupt { operation, place, detail: format!("{table} {key}: {detail}"), source: None }
            }
            Self::Sql(source) => match verdict {
                Verdict::Again | Verdict::Unavailable => Error::Unavailable {
                    operation,
                    outcome: Outcome::NotWritten,
                    retry_after: RETRY_AFTER,
                    source: Some(source),
                },
                Verdict::Full => Error::DiskFull { operation, place, source: Some(source) },
                Verdict::Damaged => {
                    let detail = source.to_string();
                    Error::Corrupt { operation, place, detail, source: Some(source) }
                }
                Verdict::Unfit => {
                    Rejected::new("a text has a character that the database cannot store").into()
                }
                Verdict::Other => Error::Failed { operation, place, source },
            },
        }
    }
}

fn verdict(said: &Said) -> Verdict {
    let Some(code) = &said.code else {
        return if said.fatal { Verdict::Again } else { Verdict::Other };
    };
    match code.code() {
        // Serialization failure, deadlock, and a row that another server added between our look and our write.
        "40001" | "40003" | "40P01" | "23505" => Verdict::Again,
        // Statement, lock and idle deadlines; too many connections or too little memory; a server that starts, ends, or
        // has become a standby.
        "57014" | "55P03" | "25P03" | "53300" | "53200" | "53400" | "25006" => Verdict::Unavailable,
        "53100" => Verdict::Full,
        "22021" | "22P05" => Verdict::Unfit,
        code if code.starts_with("57P") => Verdict::Again,
        code if code.starts_with("08") => Verdict::Again,
        code if code.starts_with("XX0") && code != "XX000" => Verdict::Damaged,
        _ => Verdict::Other,
    }
}

/// Whether a code says by itself that the connection behind it ended, or that nobody knows what became of a commit: what
/// stands between this program and the database, such as a pooler, may call it a plain error.
fn is_end(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P") || code == "40003"
}

impl From<tokio_postgres::Error> for Fail {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(told) = error.as_db_error() {
            let severity = told.parsed_severity();
            let fatal =
                matches!(severity, Some(Severity::Fatal | Severity::Panic)) || is_end(told.code().code());
            let text = format!("{} (SQLSTATE {})", told.message(), told.code().code());
            return Self::Sql(Arc::new(Said { text, code: Some(told.code().clone()), fatal }));
        }
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(deeper) = source {
            text = format!("{text}: {deeper}");
            source = deeper.source();
        }
        // Everything but a column that does not convert is about the connection.
        let fatal = !text.starts_with("error deserializing") && !text.starts_with("error serializing");
        Self::Sql(Arc::new(Said { text, code: None, fatal }))
    }
}

impl From<Rejected> for Fail {
    fn from(rejected: Rejected) -> Self {
        Self::Told(rejected.into())
    }
}
