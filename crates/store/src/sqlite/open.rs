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

use super::fail::Fail;
use super::{feed, migrate};
use crate::change::Position;

mod error;

pub use error::OpenError;

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
    check_pages(&conn, path)?;
    prepare(&mut conn).map_err(|fail| OpenError::fail(path, fail))?;
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

/// Looks at the file without SQLite, which takes an empty file for a new database and reads bytes that are missing
/// from the last page as zeros.
fn inspect(path: &Path) -> Result<(), OpenError> {
    let unreadable = |error| OpenError::io(path, error);
    let mut head = Vec::new();
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    file.take(HEADER_BYTES).read_to_end(&mut head).map_err(unreadable)?;
    if head.is_empty() {
        return Err(OpenError::damaged(path, "it is empty, so it was truncated"));
    }
    if !head.starts_with(MAGIC) && !MAGIC.starts_with(&head) {
        return Err(OpenError::Foreign { path: path.to_owned(), what: "not a SQLite file".to_owned() });
    }
    let Some(wanted) = stated_length(&head) else {
        return Err(OpenError::damaged(path, "it is shorter than its header, so it was truncated"));
    };
    // A crash in the middle of writing the log back leaves a short file, and the log mends it.
    let mended = ["-wal", "-journal"]
        .iter()
        .any(|suffix| fs::metadata(with_suffix(path, suffix)).is_ok_and(|log| log.len() > 0));
    if length < wanted && !mended {
        let detail = format!("it has {length} of {wanted} bytes, so it was truncated");
        return Err(OpenError::damaged(path, detail));
    }
    Ok(())
}

/// How long the file is by its own header ("Database File Format" §1.3), 0 if the header does not say; `None` if
/// the header is cut off.
fn stated_length(head: &[u8]) -> Option<u64> {
    let number = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let page_size = match u16::from_be_bytes(head.get(16..18)?.try_into().ok()?) {
        1 => 65_536,
        size => u64::from(size),
    };
    let (change_counter, pages, valid_for) = (number(24)?, number(28)?, number(92)?);
    Some(if change_counter == valid_for { page_size * u64::from(pages) } else { 0 })
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
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
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
/// Length of what precedes the first page's content.
const HEADER_BYTES: u64 = 100;
/// Join tokens are in it.
const FILE_MODE: u32 = 0o600;
/// Page cache of each connection.
const CACHE_KIB: i64 = 1024;
/// Prepared statements that each connection keeps; there are fewer kinds of them.
const STATEMENTS: usize = 64;
/// Write-ahead log that is kept for reuse after a checkpoint.
const LOG_BYTES_KEPT: i64 = 8 << 20;
/// Largest file whose pages are all checked at open: there, a fraction of the second that a start may take.
const CHECKED_BYTES: u64 = 32 << 20;

const NO_LOG: &str = "the file system has no shared memory for a write-ahead log; use a local one";
