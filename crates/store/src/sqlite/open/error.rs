//! What can be wrong with a database file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Cause;
use crate::sqlite::fail::{Fail, Verdict, verdict};
use vouchsafe_runtime::class::Class;

/// Why a database file is not opened. The file is left as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file or its directory cannot be read or written.
    #[error("cannot open the database {}; check that its directory exists and that this user may read and write both", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Something else lives there.
    #[error("{} is {what}, not a Vouchsafe database; choose another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// Written by a newer version of this program.
    #[error(
        "the database {} has schema version {found}, and this version of vouchsafe knows up to {known}; \
         use the newer one again, or restore a backup from before it", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest schema version that this program knows.
        known: u32,
    },
    /// The file is truncated or overwritten.
    #[error(
        "the database {} is damaged: {detail}; restore a backup, or start with an empty registry; \
         before either, move the file and those beside it that end in -wal and -shm away", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no room to create or migrate the database.
    #[error("no space left for the database {}; free some and start again", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What the database or the operating system said.
        #[source]
        source: Cause,
    },
    /// Another program holds a lock on the file.
    #[error("the database {} is locked by another program; stop it and start again", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Cause,
    },
    /// Anything else.
    #[error("cannot use the database {}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Cause,
    },
}

impl OpenError {
    /// Who has to act.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Locked { .. } => Class::Transient,
            Self::Unreadable { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::DiskFull { .. }
            | Self::Failed { .. } => Class::Permanent,
        }
    }

    pub(in crate::sqlite) fn interrupted(path: PathBuf, source: tokio::task::JoinError) -> Self {
        Self::Failed { path, source: Arc::new(source) }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, source: Arc::new(source) }
            }
            _ => Self::Unreadable { path, source },
        }
    }

    pub(super) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }

    pub(super) fn fail(path: &Path, fail: Fail) -> Self {
        let path = path.to_owned();
        match fail {
            Fail::Sql(source) => match verdict(&source) {
                Verdict::Busy => Self::Locked { path, source },
                Verdict::Full => Self::DiskFull { path, source },
                Verdict::Damaged => Self::Damaged { path, detail: source.to_string() },
                Verdict::Mistake | Verdict::Other => Self::Failed { path, source },
            },
            Fail::Row { table, key, detail } => {
                Self::Damaged { path, detail: format!("{table} {key}: {detail}") }
            }
            Fail::Told(error) => Self::Failed { path, source: Arc::new(error) },
            Fail::Bug(detail) => Self::Damaged { path, detail },
        }
    }
}
