//! From what SQLite reports to what callers are told.

use std::path::Path;
use std::sync::Arc;

use rusqlite::ErrorCode;

use super::RETRY_AFTER;
use crate::error::{Error, Kind, Outcome, Rejected};

/// A failure inside this engine. [`Fail::at`] adds what was being done before it leaves.
#[derive(Clone, Debug)]
pub(super) enum Fail {
    /// SQLite's own.
    Sql(Arc<rusqlite::Error>),
    /// A row that this program cannot have written.
    Row { table: &'static str, key: String, detail: String },
    /// Ready for the caller.
    Told(Error),
    /// A panic in a caller's change, or a value that cannot be stored.
    Bug(String),
}

impl Fail {
    /// A stored value that does not parse.
    pub(super) fn row(table: &'static str, key: &str, detail: impl ToString) -> Self {
        Self::Row { table, key: key.to_owned(), detail: detail.to_string() }
    }

    pub(super) fn not_found(what: Kind, key: impl ToString) -> Self {
        Self::Told(Error::NotFound { what, key: key.to_string() })
    }

    pub(super) fn already_exists(what: Kind, key: impl ToString) -> Self {
        Self::Told(Error::AlreadyExists { what, key: key.to_string() })
    }

    /// Whether the disk, or the file's quota, is full.
    pub(super) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Sql(source) if verdict(source) == Verdict::Full)
    }

    /// The public error, if the failure is one object's own.
    ///
    /// # Errors
    ///
    /// The failure itself, if it is the database's.
    pub(super) fn of_one(self, operation: &'static str, path: &Path) -> Result<Error, Self> {
        match &self {
            Self::Told(_) | Self::Row { .. } => Ok(self.at(operation, path)),
            Self::Sql(source)
                if verdict(source) == Verdict::Damaged
                    && !matches!(**source, rusqlite::Error::SqliteFailure(..)) =>
            {
                Ok(self.at(operation, path))
            }
            Self::Sql(_) | Self::Bug(_) => Err(self),
        }
    }

    /// The public error for `operation` on the database at `path`. SQLite rolled the transaction back.
    pub(super) fn at(self, operation: &'static str, path: &Path) -> Error {
        let place = path.display().to_string();
        match self {
            Self::Told(error) => error,
            Self::Bug(detail) => Error::Bug { operation, detail },
            Self::Row { table, key, detail } => {
                Error::Corrupt { operation, place, detail: format!("{table} {key}: {detail}"), source: None }
            }
            Self::Sql(source) => match verdict(&source) {
                Verdict::Busy => Error::Unavailable {
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
                Verdict::Mistake => Error::Bug { operation, detail: source.to_string() },
                Verdict::Other => Error::Failed { operation, place, source },
            },
        }
    }
}

/// What an error of SQLite amounts to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Busy,
    Full,
    Damaged,
    Mistake,
    Other,
}

pub(super) fn verdict(error: &rusqlite::Error) -> Verdict {
    use rusqlite::Error as Sql;
    match error {
        Sql::SqliteFailure(code, _) if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
            Verdict::Full
        }
        Sql::SqliteFailure(code, _) => match code.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OperationInterrupted => {
                Verdict::Busy
            }
            ErrorCode::DiskFull => Verdict::Full,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Verdict::Damaged,
            ErrorCode::ConstraintViolation | ErrorCode::ApiMisuse | ErrorCode::TypeMismatch => {
                Verdict::Mistake
            }
            _ => Verdict::Other,
        },
        Sql::FromSqlConversionFailure(..)
        | Sql::IntegralValueOutOfRange(..)
        | Sql::InvalidColumnType(..)
        | Sql::Utf8Error(..) => Verdict::Damaged,
        _ => Verdict::Mistake,
    }
}

impl From<rusqlite::Error> for Fail {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

impl From<Rejected> for Fail {
    fn from(rejected: Rejected) -> Self {
        Self::Told(rejected.into())
    }
}
