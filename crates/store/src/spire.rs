//! The database of a SPIRE server, read whole.
//!
//! For a server that takes the place of another: registration entries, agents with their selectors and serial numbers,
//! bundles, join tokens, federation relationships and the journals of the signing keys. The file is opened for reading
//! and is not changed; a log that SPIRE left beside it is taken into account.
//!
//! Facts from SPIRE 1.15 (`pkg/server/datastore/sqlstore`): times of objects are texts with a zone, times of entries and
//! tokens are Unix seconds, a bundle is one protobuf message, a banned agent has no serial number.

mod bundle;
mod rows;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::change::Record;
use crate::store::JournalRecord;

/// Everything that a SPIRE server kept.
#[derive(Debug)]
pub struct SpireDatabase {
    /// In order of creation within each kind.
    pub records: Vec<Record>,
    /// One for each server that used the database.
    pub journals: Vec<JournalRecord>,
    /// What cannot be taken over, one sentence each.
    pub left_out: Vec<String>,
}

/// The database was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpireError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: rusqlite::Error,
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

/// Schemas of SPIRE 1.12 to 1.15; older ones are brought up to date by starting SPIRE 1.15 once.
const SCHEMAS: std::ops::RangeInclusive<i64> = 23..=25;

/// Reads the database at `path`. Blocks.
///
/// # Errors
///
/// [`SpireError`]. A single row that is not understood is no error: it is named in [`SpireDatabase::left_out`].
pub fn read(path: &Path, trust_domain: &TrustDomain) -> Result<SpireDatabase, SpireError> {
    let unreadable = |cause| SpireError::Unreadable { path: path.to_owned(), cause };
    let foreign = |why: String| SpireError::Foreign { path: path.to_owned(), why };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(unreadable)?;
    // One moment for all tables, also when a server still writes.
    let moment = connection.transaction().map_err(unreadable)?;
    let schema =
        schema(&moment).map_err(|error| foreign(format!("it has no table of migrations ({error})")))?;
    if !SCHEMAS.contains(&schema) {
        return Err(foreign(format!(
            "its schema is {schema}, and {} to {} are understood; start SPIRE 1.15 on it once, which migrates it",
            SCHEMAS.start(),
            SCHEMAS.end()
        )));
    }
    let mut read = SpireDatabase { records: Vec::new(), journals: Vec::new(), left_out: Vec::new() };
    rows::read_all(&moment, trust_domain, &mut read).map_err(unreadable)?;
    Ok(read)
}

fn schema(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT version FROM migrations ORDER BY id LIMIT 1", [], |row| row.get(0))
}

#[cfg(test)]
mod tests;
