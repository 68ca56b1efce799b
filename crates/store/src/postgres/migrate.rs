//! Brings the schema up to date, one numbered file at a time.
//!
//! Servers that start at the same time take turns by a lock that ends with its transaction, and so with its holder. The
//! version changes in the transaction of the file, so a crash leaves the schema before or after a migration.

use std::time::Duration;

use tokio::time::timeout;

use super::READ_DEADLINE;
use super::fail::Fail;
use super::session::Session;

/// "VCHF": whose schema this is.
const APPLICATION: i64 = 0x5643_4846;

/// All migrations; the file at index `n` leads from version `n` to `n + 1`.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_registry.sql")];

/// The version that this program works with.
const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Longest that bringing the schema up to date takes, the wait for another server that does it included.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(300);

/// Why a database is left alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedSchema {
    /// Another program's tables are in the schema.
    #[error("the schema \"vouchsafe\" has tables of another program; use another database")]
    Foreign,
    /// Written by a newer version of this program.
    #[error(
        "the schema has version {found}, and this version of vouchsafe knows up to {NEWEST}; use the newer one again, or \
             restore a backup from before it"
    )]
    Newer {
        /// Its version.
        found: i64,
    },
    /// It was there when this process used it before.
    #[error(
        "the schema that this server used is gone; restore a backup, or restart the servers to begin with an empty one"
    )]
    Gone,
    /// Older than this program, which may not change it.
    #[error(
        "the schema has version {found} and this version of vouchsafe needs {NEWEST}, but disable_migration is set; start one \
             server without it"
    )]
    Older {
        /// Its version; 0 when there is none.
        found: i64,
    },
}

/// Applies what is missing. Calling it again changes nothing.
/// `had_one` says that this process has used the schema before.
pub(super) async fn migrate(session: &Session, disabled: bool, had_one: bool) -> Result<(), Fail> {
    // A database that stands still answers nothing, and keeps its connections open.
    let found = timeout(READ_DEADLINE, version(session)).await.unwrap_or_else(|_| Err(late()))?;
    if found == NEWEST {
        return Ok(());
    }
    if found == 0 && had_one {
        return Err(refuse(RefusedSchema::Gone));
    }
    if disabled {
        return Err(refuse(RefusedSchema::Older { found }));
    }
    timeout(MIGRATION_DEADLINE, apply(session)).await.unwrap_or_else(|_| Err(late()))
}

async fn apply(session: &Session) -> Result<(), Fail> {
    session.batch(BEGIN).await?;
    // Somebody else may have been here before us.
    let mut at = version(session).await?;
    if at == 0 {
        session.batch("CREATE SCHEMA IF NOT EXISTS vouchsafe").await?;
    }
    let missing = usize::try_from(at).unwrap_or(0);
    for sql in MIGRATIONS.iter().skip(missing) {
        session.batch(sql).await?;
        at += 1;
    }
    let set = "UPDATE meta SET value = $1 WHERE name = 'schema_version'";
    session.execute(set, &[at.into()]).await?;
    session.batch("COMMIT").await?;
    tracing::info!(version = at, "Database schema migrated");
    Ok(())
}

/// The version found, 0 for none.
async fn version(session: &Session) -> Result<i64, Fail> {
    let tables = "SELECT count(*), count(*) FILTER (WHERE table_name = 'meta')
                  FROM information_schema.tables WHERE table_schema = 'vouchsafe'";
    let row = session.one(tables, &[]).await?;
    let (tables, ours): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if tables == 0 {
        return Ok(0);
    }
    if ours == 0 {
        return Err(refuse(RefusedSchema::Foreign));
    }
    let values = "SELECT (SELECT value FROM meta WHERE name = 'application'),
                         (SELECT value FROM meta WHERE name = 'schema_version')";
    let row = match session.one(values, &[]).await {
        // Its columns are others.
        Err(fail) if fail.is_mistake() => return Err(refuse(RefusedSchema::Foreign)),
        row => row?,
    };
    let (application, version): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    match version {
        Some(found) if application == Some(APPLICATION) && found > NEWEST => {
            Err(refuse(RefusedSchema::Newer { found }))
        }
        Some(found) if application == Some(APPLICATION) => Ok(found),
        _ => Err(refuse(RefusedSchema::Foreign)),
    }
}

fn late() -> Fail {
    Fail::said("no answer within the deadline")
}

fn refuse(why: RefusedSchema) -> Fail {
    Fail::Refused(std::sync::Arc::new(why))
}

/// The lock is waited for longer than others: its holder creates tables.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = 60000; SET LOCAL statement_timeout = 120000;
    SET LOCAL idle_in_transaction_session_timeout = 30000; SELECT pg_advisory_xact_lock(1447249990)";
