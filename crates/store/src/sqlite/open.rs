//! Opening and creating the database file.
//!
//! A new database is built beside its place, under the suffix `.new`, and renamed once it is whole; so a file in
//! its place that is empty was truncated, and is refused rather than taken for a new one. A file in its place is
//! looked at before anything is written to it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::fail::{Fail, Verdict, verdict};
use super::{feed, migrate};
use crate::change::Position;
use crate::error::{Cause, Class};

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
        "the database {} is damaged: {detail}; restore a backup, or move the file away to start with an empty registry",
        path.display()
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

    pub(super) fn interrupted(path: PathBuf, source: tokio::task::JoinError) -> Self {
        Self::Failed { path, source: std::sync::Arc::new(source) }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, source: std::sync::Arc::new(source) }
            }
            _ => Self::Unreadable { path, source },
        }
    }

    fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }

    fn fail(path: &Path, fail: Fail) -> Self {
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
            Fail::Told(error) => Self::Failed { path, source: std::sync::Arc::new(error) },
            Fail::Bug(detail) => Self::Damaged { path, detail },
        }
    }
}

/// An open database: the connection that writes, and what there is.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) epoch: u64,
    pub(super) newest: Position,
}

/// Opens the database at `path`, creating and migrating it as needed. Blocks.
pub(super) fn open(path: &Path, busy: Duration) -> Result<Opened, OpenError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let what = if found.is_dir() { "a directory" } else { "a special file" };
            return Err(OpenError::Foreign { path: path.to_owned(), what: what.to_owned() });
        }
        Ok(_) => inspect(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, busy)?,
        Err(error) => return Err(OpenError::io(path, error)),
    }
    let mut conn = connect(path, busy).map_err(|error| OpenError::fail(path, error.into()))?;
    check_owner(&conn, path)?;
    prepare(&mut conn).map_err(|fail| OpenError::fail(path, fail))?;
    check_pages(&conn, path)?;
    let epoch = feed::meta(&conn, "epoch").map_err(|fail| OpenError::fail(path, fail))?;
    let newest = feed::newest(&conn).map_err(|fail| OpenError::fail(path, fail))?;
    Ok(Opened { conn, epoch: epoch.unsigned_abs(), newest })
}

/// A connection that only reads, for a database that [`open`] opened before.
pub(super) fn reader(path: &Path, busy: Duration) -> Result<Connection, rusqlite::Error> {
    let conn = connect(path, busy)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// Looks at the file's first bytes without SQLite, which would take an empty file for a new database.
fn inspect(path: &Path) -> Result<(), OpenError> {
    let unreadable = |error| OpenError::io(path, error);
    let mut head = Vec::new();
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(unreadable)?;
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(unreadable)?;
    if head.is_empty() {
        return Err(OpenError::damaged(path, "it is empty, so it was truncated"));
    }
    if !MAGIC.starts_with(&head) {
        return Err(OpenError::Foreign { path: path.to_owned(), what: "not a SQLite file".to_owned() });
    }
    if head.len() < MAGIC.len() {
        return Err(OpenError::damaged(path, "it is shorter than a header, so it was truncated"));
    }
    Ok(())
}

/// Builds a new database beside its place and moves it there.
fn create(path: &Path, busy: Duration) -> Result<(), OpenError> {
    let log = with_suffix(path, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let detail = format!("it is gone, but its log {} is there", log.display());
        return Err(OpenError::damaged(path, detail));
    }
    let new = with_suffix(path, ".new");
    for leftover in [new.clone(), with_suffix(&new, "-journal")] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::io(path, error)),
            _ => {}
        }
    }
    let unusable = |error| OpenError::io(path, error);
    drop(OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new).map_err(unusable)?);
    let built = connect(&new, busy).map_err(Fail::from).and_then(|mut conn| {
        migrate::migrate(&mut conn)?;
        conn.close().map_err(|(_, error)| error.into())
    });
    if let Err(fail) = built {
        // The reason for the failure matters more than a leftover, which the next start removes.
        drop(fs::remove_file(&new));
        return Err(OpenError::fail(path, fail));
    }
    fs::rename(&new, path).map_err(unusable)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)
}

fn connect(path: &Path, busy: Duration) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(busy)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(conn)
}

fn check_owner(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let read = |pragma| -> Result<i64, OpenError> {
        conn.pragma_query_value(None, pragma, |row| row.get(0))
            .map_err(|error| OpenError::fail(path, error.into()))
    };
    let (owner, version) = (read("application_id")?, read("user_version")?);
    if owner != i64::from(migrate::APPLICATION_ID) {
        let is_spire = conn.table_exists(None, "registered_entries").unwrap_or(false);
        let what = if is_spire { "a SPIRE datastore" } else { "a SQLite database of another program" };
        return Err(OpenError::Foreign { path: path.to_owned(), what: what.to_owned() });
    }
    if version > i64::from(migrate::NEWEST) {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known: migrate::NEWEST });
    }
    Ok(())
}

/// What only the writing connection needs.
fn prepare(conn: &mut Connection) -> Result<(), Fail> {
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fail::Told(crate::Rejected::new(NO_LOG).into()));
    }
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "secure_delete", true)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    migrate::migrate(conn)?;
    Ok(())
}

/// Walks all pages of a small file, so that damage shows now and not when the page is needed. Larger ones are read
/// by the load that follows anyway.
fn check_pages(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let length = fs::metadata(path).map_err(|error| OpenError::io(path, error))?.len();
    if length > CHECKED_BYTES {
        return Ok(());
    }
    let finding: String = conn
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| OpenError::fail(path, error.into()))?;
    if finding == "ok" { Ok(()) } else { Err(OpenError::damaged(path, finding)) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// How every SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Join tokens are in it.
const FILE_MODE: u32 = 0o600;
/// Page cache of each connection.
const CACHE_KIB: i64 = 1024;
/// Write-ahead log that is kept for reuse after a checkpoint.
const LOG_BYTES_KEPT: i64 = 8 << 20;
/// Largest file whose pages are all checked at open; about 30 ms.
const CHECKED_BYTES: u64 = 32 << 20;

const NO_LOG: &str = "the file system has no shared memory for a write-ahead log; use a local one";
