//! Brings the schema up to date, one numbered file at a time.
//!
//! `PRAGMA user_version` holds the number of the last applied file and changes in the transaction of that file, so
//! a crash leaves the schema before or after a migration, never between. A released file never changes.

use rusqlite::{Connection, TransactionBehavior};

use super::fail::Fail;

/// "VCHF", in the file header: whose database this is.
pub(super) const APPLICATION_ID: i32 = 0x5643_4846;

/// All migrations; the file at index `n` leads from version `n` to `n + 1`.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_registry.sql"), include_str!("migrations/0002_federation.sql")];

/// The version that this program works with.
pub(super) const NEWEST: u32 = MIGRATIONS.len() as u32;

/// Applies what is missing and returns the version found. Calling it again changes nothing.
pub(super) fn migrate(conn: &mut Connection) -> Result<u32, Fail> {
    apply(conn, MIGRATIONS)
}

fn apply(conn: &mut Connection, migrations: &[&str]) -> Result<u32, Fail> {
    let found: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, sql) in (1_u32..).zip(migrations).skip(found as usize) {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
        tracing::info!(version, "Database schema migrated");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(conn: &Connection) -> u32 {
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_second_run_changes_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut conn).unwrap(), 0);
        assert_eq!(migrate(&mut conn).unwrap(), NEWEST);
        assert_eq!(version(&conn), NEWEST);
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_before_it() {
        let mut conn = Connection::open_in_memory().unwrap();
        let broken = ["CREATE TABLE a (x)", "CREATE TABLE b (x); INSERT INTO missing VALUES (1)"];
        apply(&mut conn, &broken).unwrap_err();
        assert_eq!(version(&conn), 1);
        assert!(!conn.table_exists(None, "b").unwrap(), "half a migration stayed");

        apply(&mut conn, &["CREATE TABLE a (x)", "CREATE TABLE b (x)"]).unwrap();
        assert_eq!(version(&conn), 2);
        assert!(conn.table_exists(None, "b").unwrap());
    }
}
