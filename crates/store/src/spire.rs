//! The database of a SPIRE server, read whole and written whole.
//!
//! For a server that takes the place of another, and for the way back: registration entries, agents with their selectors
//! and serial numbers, bundles, join tokens, federation relationships and the journals of the signing keys. A log that
//! SPIRE left beside the file is taken into account.
//!
//! Facts from SPIRE 1.15 (`pkg/server/datastore/sqlstore`): times of objects are texts with a zone, times of entries and
//! tokens are Unix seconds, a bundle is one protobuf message, a banned agent has no serial number.

mod bundle;
mod rows;
pub mod shared;
mod write;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::change::Record;
use crate::store::Contents;

/// Everything that a SPIRE server kept.
#[derive(Debug)]
pub struct SpireDatabase {
    /// What can be taken over; one journal for each server that used the database.
    pub contents: Contents,
    /// What cannot be taken over, one sentence each.
    pub left_out: Vec<String>,
}

/// The journal of one server's signing keys, as SPIRE finds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpireJournal {
    /// Its content.
    pub data: Vec<u8>,
    /// The X.509 authority that signs by it, by which its server finds it.
    pub active_x509_authority_id: String,
}

/// The database was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpireError {
    /// The file cannot be opened, read or written.
    #[error("cannot use {}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: rusqlite::Error,
    },
    /// The shared database cannot be read or written.
    #[error("cannot use SPIRE's tables in the {place}")]
    Shared {
        /// Which database.
        place: String,
        /// Why.
        #[source]
        cause: crate::error::Cause,
    },
    /// It is not a SPIRE server's.
    #[error("{} is not the database of a SPIRE server: {why}", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What is not as it should be.
        why: String,
    },
}

/// The schema of SPIRE 1.15. Older ones lack columns; starting SPIRE 1.15 once brings them up to date.
const SCHEMA: i64 = 25;

/// Reads the database at `path`. Blocks.
///
/// # Errors
///
/// [`SpireError`]. A single row that is not understood is no error: it is named in [`SpireDatabase::left_out`].
pub fn read(path: &Path, trust_domain: &TrustDomain) -> Result<SpireDatabase, SpireError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = open(path, flags)?;
    // One moment for all tables, also when a server still writes.
    let unusable = |cause| SpireError::Unusable { path: path.to_owned(), cause };
    let moment = connection.transaction().map_err(unusable)?;
    let mut read = SpireDatabase { contents: Contents::default(), left_out: Vec::new() };
    rows::read_all(&moment, trust_domain, &mut read).map_err(unusable)?;
    Ok(read)
}

/// Writes the log that a server left beside the database back into it, so that the file alone is the database. Blocks.
///
/// # Errors
///
/// [`SpireError`], also when another program has the database open.
pub fn fold_log(path: &Path) -> Result<(), SpireError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = open(path, flags)?;
    // Leaving WAL mode needs the database for oneself, and removes the log. SPIRE turns it on again when it starts.
    let mode =
        connection.pragma_update_and_check(None, "journal_mode", "delete", |row| row.get::<_, String>(0));
    match mode {
        Ok(mode) if mode == "delete" => Ok(()),
        Ok(_) => {
            Err(SpireError::Foreign { path: path.to_owned(), why: "another program has it open".to_owned() })
        }
        Err(cause) => Err(SpireError::Unusable { path: path.to_owned(), cause }),
    }
}

/// Replaces what the database at `path` holds, wholly or not at all; its schema stays. Blocks.
///
/// # Errors
///
/// [`SpireError`]; the database is as it was.
pub fn write(path: &Path, records: &[Record], journals: &[SpireJournal]) -> Result<(), SpireError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = open(path, flags)?;
    let mut replace = || {
        let tx = connection.transaction()?;
        write::write_all(&tx, records, journals)?;
        tx.commit()
    };
    replace().map_err(|cause| SpireError::Unusable { path: path.to_owned(), cause })
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, SpireError> {
    let foreign = |why: String| SpireError::Foreign { path: path.to_owned(), why };
    let connection = Connection::open_with_flags(path, flags)
        .map_err(|cause| SpireError::Unusable { path: path.to_owned(), cause })?;
    let schema =
        schema(&connection).map_err(|error| foreign(format!("it has no table of migrations ({error})")))?;
    if schema != SCHEMA {
        return Err(foreign(unknown_schema(schema)));
    }
    Ok(connection)
}

fn unknown_schema(schema: i64) -> String {
    format!(
        "its schema is {schema}, and {SCHEMA} is understood; start SPIRE 1.15 on it once, which migrates it"
    )
}

fn schema(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT version FROM migrations ORDER BY id LIMIT 1", [], |row| row.get(0))
}

#[cfg(test)]
mod tests;
