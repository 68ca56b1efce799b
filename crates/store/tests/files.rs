//! What is in the database's place at start: the right file, another one, half of one, none.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::sqlite::OpenError;
use vouchsafe_store::{Snapshot, Sqlite, Store};
use vouchsafe_testkit::samples::{agent, entry, full_entry, join_token};

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("registry.db")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn open(&self) -> Result<Sqlite, OpenError> {
        Sqlite::open(self.path(), Clock::system()).await
    }

    /// A database with some content, closed.
    async fn filled() -> (Self, Snapshot) {
        let place = Self::new();
        let store = place.open().await.unwrap();
        for number in 0..200 {
            store.create_entry(entry(&format!("e{number}"))).await.unwrap();
        }
        store.create_entry(full_entry("full")).await.unwrap();
        store.put_agent(agent("a")).await.unwrap();
        store.create_join_token(join_token("t", 1), None).await.unwrap();
        let content = Snapshot::load(&store).await.unwrap();
        store.close().await;
        (place, content)
    }

    /// Opens what must be refused, and sees that it stays as it is.
    async fn refused(&self) -> OpenError {
        let before = fs::read(self.path()).ok();
        let error = self.open().await.unwrap_err();
        assert_eq!(fs::read(self.path()).ok(), before, "a refused file changed");
        error
    }
}

#[tokio::test]
async fn a_second_start_finds_everything_and_goes_on() {
    let (place, before) = Place::filled().await;
    let first = place.open().await.unwrap();
    let epoch = first.epoch().await.unwrap();
    assert_eq!(Snapshot::load(&first).await.unwrap(), before);
    assert_eq!(*first.watch().borrow(), before.position);
    let position = first.put_agent(agent("b")).await.unwrap();
    assert!(position > before.position);
    first.close().await;

    let second = place.open().await.unwrap();
    assert_eq!(second.epoch().await.unwrap(), epoch);
    assert_eq!(second.changes_after(before.position, 10).await.unwrap().position, position);
    let other = Place::new().open().await.unwrap();
    assert_ne!(other.epoch().await.unwrap(), epoch, "two databases share an epoch");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.create_entry(entry("a")).await.unwrap();
    // What a killed process leaves behind: the files as they are now.
    let after = Place::new();
    for name in ["registry.db", "registry.db-wal"] {
        fs::copy(place.file(name), after.file(name)).unwrap();
    }
    let recovered = after.open().await.unwrap();
    assert_eq!(Snapshot::load(&recovered).await.unwrap(), Snapshot::load(&store).await.unwrap());
}

#[tokio::test]
async fn only_its_owner_may_read_it() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.put_agent(agent("a")).await.unwrap();
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        let mode = fs::metadata(place.file(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name} has mode {mode:o}");
    }
}

#[tokio::test]
async fn a_truncated_file_is_refused_wherever_it_was_cut() {
    let (whole, _) = Place::filled().await;
    let bytes = fs::read(whole.path()).unwrap();
    let end = bytes.len();
    for keep in [0, 1, 15, 16, 99, 100, 4095, 4096, 5000, 20_000, end - 4096, end - 1] {
        let place = Place::new();
        fs::write(place.path(), &bytes[..keep]).unwrap();
        let error = place.refused().await;
        assert!(matches!(error, OpenError::Damaged { .. }), "cut to {keep}: {error:?}");
        assert!(error.to_string().contains("restore a backup"), "{error}");
    }
}

#[tokio::test]
async fn a_file_with_an_overwritten_part_is_refused() {
    let (place, _) = Place::filled().await;
    let mut bytes = fs::read(place.path()).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(place.path(), bytes).unwrap();
    let error = place.refused().await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_gone_while_its_log_is_there_is_not_replaced_by_an_empty_one() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.put_agent(agent("a")).await.unwrap();
    let after = Place::new();
    fs::copy(place.file("registry.db-wal"), after.file("registry.db-wal")).unwrap();
    let error = after.refused().await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("registry.db-wal"), "{error}");
}

#[tokio::test]
async fn a_file_of_something_else_is_refused() {
    let place = Place::new();
    fs::write(place.path(), "trust_domain = \"example.org\"\n").unwrap();
    let error = place.refused().await;
    assert!(error.to_string().contains("not a SQLite file"), "{error}");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    for (sql, what) in [
        ("CREATE TABLE notes (text TEXT)", "another program"),
        ("PRAGMA user_version = 1", "another program"),
        ("CREATE TABLE registered_entries (id INTEGER)", "a SPIRE datastore"),
    ] {
        let place = Place::new();
        let other = rusqlite::Connection::open(place.path()).unwrap();
        other.execute_batch(sql).unwrap();
        drop(other);
        let error = place.refused().await;
        assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (place, _) = Place::filled().await;
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.pragma_update(None, "user_version", 7_000).unwrap();
    drop(other);
    let error = place.refused().await;
    assert!(matches!(error, OpenError::Newer { found: 7_000, .. }), "{error:?}");
    assert!(error.to_string().contains("use the newer one again"), "{error}");
}

#[tokio::test]
async fn a_directory_in_its_place_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    let error = place.refused().await;
    assert!(error.to_string().contains("a directory"), "{error}");
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let place = Place::new();
    for path in [place.file("missing/registry.db"), Path::new("/proc/version/registry.db").to_owned()] {
        let error = Sqlite::open(&path, Clock::system()).await.unwrap_err();
        assert!(matches!(error, OpenError::Unreadable { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_refused() {
    let (place, _) = Place::filled().await;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(place.path()).is_ok() {
        return; // This user may read everything.
    }
    let error = place.open().await.unwrap_err();
    assert!(matches!(error, OpenError::Unreadable { .. }), "{error:?}");
}

#[tokio::test]
async fn leftovers_of_a_crash_during_creation_do_not_matter() {
    let place = Place::new();
    fs::write(place.file("registry.db.new"), [0xa5; 5000]).unwrap();
    fs::write(place.file("registry.db.new-journal"), [0xa5; 5000]).unwrap();
    let store = place.open().await.unwrap();
    assert_eq!(Snapshot::load(&store).await.unwrap(), Snapshot::default());
    assert!(!place.file("registry.db.new").exists());
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_named_and_never_served() {
    let (place, _) = Place::filled().await;
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.execute("UPDATE entries SET spiffe_id = 'spiffe://EXAMPLE/../x' WHERE id = 'e7'", []).unwrap();
    drop(other);
    let store = place.open().await.unwrap();
    let error = Snapshot::load(&store).await.unwrap_err();
    assert!(matches!(error, vouchsafe_store::Error::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("entries e7"), "{error}");
}
