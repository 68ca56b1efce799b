//! Taking the place of a SPIRE server, and giving it back.
//!
//! Both ways the new database is built beside its place, whole, and only then moved there; the one that was there keeps
//! its content under another name. Agents notice nothing: their serial numbers, the entries with their revisions, the
//! bundle and the signing keys are the same on both sides.

mod shared;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use vouchsafe_ca::journal::{self, Journal};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::spire::{self, SpireDatabase, SpireJournal};
use vouchsafe_store::sqlite::Sqlite;
use vouchsafe_store::{JournalRecord, Record, Snapshot, Store};

use super::data_dir::DataDirLock;
use super::server::key_manager;
use crate::config::server::{Config, DataStore};

/// What was moved, or would be.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) entries: usize,
    pub(crate) agents: usize,
    pub(crate) bundles: usize,
    pub(crate) join_tokens: usize,
    pub(crate) federation: usize,
    /// Rows that are not understood, one sentence each.
    pub(crate) left_out: Vec<String>,
    /// Whether the key manager has the keys that the journals speak of.
    pub(crate) keys_known: bool,
    /// Where the database that was there is kept; `None` when nothing was changed.
    pub(crate) kept: Option<PathBuf>,
}

/// Whether anything is written, and what about rows that are not understood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Import {
    pub(crate) dry_run: bool,
    pub(crate) leave_out: bool,
}

/// Takes over the database and the keys of the SPIRE server that `config` belongs to.
pub(crate) async fn import(config: &Config, options: Import) -> anyhow::Result<Moved> {
    let _lock = at_rest(config)?;
    let path = match &config.data_store {
        DataStore::Sqlite { path } => path,
        DataStore::Postgres(settings) => {
            let moved = shared::import(config, settings, options).await?;
            if !options.dry_run {
                accept(config)?;
            }
            return Ok(moved);
        }
    };
    let kept = beside(path, ".spire");
    // A run that was interrupted between its two renames left SPIRE's under the second name alone.
    let source = if path.exists() { path } else { &kept };
    if source == path && kept.exists() {
        bail!("{} exists: it is the database of an earlier import; move it away first", kept.display());
    }
    let read = spire::read(source, &config.trust_domain).with_context(|| explain(source))?;
    let mut moved = look_over(config, &read).await?;
    options.check(&moved)?;
    if options.dry_run {
        return Ok(moved);
    }
    spire::fold_log(source).with_context(|| explain(source))?;
    let new = beside(path, ".import");
    remove(&new)?;
    let store = Sqlite::open(&new, Clock::system()).await.context("cannot create the new datastore")?;
    store.restore(read.contents).await.context("cannot fill the new datastore")?;
    store.close().await;
    exchange(&new, path, &kept)?;
    accept(config)?;
    moved.kept = Some(kept);
    Ok(moved)
}

/// What is imported goes before what an earlier run of this server may have held.
fn accept(config: &Config) -> anyhow::Result<()> {
    vouchsafe_server::acceptance::accept(&config.data_dir)
        .with_context(|| format!("cannot write to the data directory {}", config.data_dir.display()))
}

impl Import {
    /// Refuses to go on with what is not understood, unless told so.
    fn check(self, moved: &Moved) -> anyhow::Result<()> {
        if !moved.left_out.is_empty() && !self.leave_out && !self.dry_run {
            bail!(
                "not understood, so nothing was done; mend these with spire-server, or leave them out with -leaveOut:\n  {}",
                moved.left_out.join("\n  ")
            );
        }
        Ok(())
    }
}

/// What there is to import.
async fn look_over(config: &Config, read: &SpireDatabase) -> anyhow::Result<Moved> {
    let mut moved = count(&read.contents.records);
    moved.left_out.clone_from(&read.left_out);
    let keys = key_manager(&config.key_manager)?;
    let own = journal::own_authority_ids(&*keys).await.context("cannot read the signing keys")?;
    let journals = read.contents.journals.iter().map(|record| record.data.as_slice());
    moved.keys_known = journal::find(journals, &own).is_some();
    Ok(moved)
}

/// Writes what this server has into the SPIRE database that [`import`] kept, and puts that back in its place.
pub(crate) async fn export(config: &Config) -> anyhow::Result<Moved> {
    let _lock = at_rest(config)?;
    let path = match &config.data_store {
        DataStore::Sqlite { path } => path,
        DataStore::Postgres(settings) => return shared::export(settings).await,
    };
    let (spires, kept) = (beside(path, ".spire"), beside(path, ".vouchsafe"));
    if !spires.exists() {
        bail!(
            "{} is not there; copy the database of a SPIRE server of the same trust domain to that place (an empty one \
             will do: start spire-server once with another data_dir)",
            spires.display()
        );
    }
    let source = if path.exists() { path } else { &kept };
    let store = Sqlite::open(source, Clock::system()).await.context("cannot open the datastore")?;
    let held = Snapshot::load(&store).await.context("cannot read the datastore")?;
    let journals = store.load_journals().await.context("cannot read the journals of the signing keys")?;
    store.close().await;
    let journals = for_spire(&journals);
    let records = records(held);
    spire::write(&spires, &records, &journals).context("cannot fill the SPIRE database")?;
    spire::fold_log(&spires).context("cannot close the SPIRE database")?;
    exchange(&spires, path, &kept)?;
    Ok(Moved { kept: Some(kept), keys_known: !journals.is_empty(), ..count(&records) })
}

/// The journals in the form in which SPIRE finds them.
fn for_spire(journals: &[JournalRecord]) -> Vec<SpireJournal> {
    let journals = journals.iter().filter_map(|record| {
        let journal = Journal::decode(&record.data).ok()?;
        let active = journal.active_x509_authority_id()?.to_owned();
        Some(SpireJournal { data: record.data.clone(), active_x509_authority_id: active })
    });
    journals.collect()
}

/// Refuses to start a server on the empty place that an interrupted [`import`] left: it would begin with new keys.
pub(super) fn check_finished(path: &Path) -> anyhow::Result<()> {
    let kept = beside(path, ".spire");
    if !path.exists() && kept.exists() {
        bail!(
            "{} is there and {} is not: an import was interrupted; run `vouchsafe server import` again",
            kept.display(),
            path.display()
        );
    }
    Ok(())
}

/// No server may run on what is moved.
fn at_rest(config: &Config) -> anyhow::Result<DataDirLock> {
    if UnixStream::connect(&config.socket_path).is_ok() {
        bail!(
            "a server is running on {}; stop it first (agents go on serving what they hold)",
            config.socket_path.display()
        );
    }
    DataDirLock::acquire(&config.data_dir, "server")
}

fn explain(source: &Path) -> String {
    format!("cannot import {} (it must be the SQLite database of a stopped SPIRE server)", source.display())
}

fn count(records: &[Record]) -> Moved {
    let mut moved = Moved::default();
    for record in records {
        match record {
            Record::Entry(_) => moved.entries += 1,
            Record::Agent(_) => moved.agents += 1,
            Record::Bundle(_) => moved.bundles += 1,
            Record::JoinToken(_) => moved.join_tokens += 1,
            Record::Federation(_) => moved.federation += 1,
        }
    }
    moved
}

fn records(held: Snapshot) -> Vec<Record> {
    let entries = held.entries.into_iter().map(Record::Entry);
    let agents = held.agents.into_iter().map(Record::Agent);
    let bundles = held.bundles.into_iter().map(Record::Bundle);
    let tokens = held.join_tokens.into_iter().map(Record::JoinToken);
    let federation = held.federation.into_iter().map(Record::Federation);
    entries.chain(agents).chain(bundles).chain(tokens).chain(federation).collect()
}

/// Puts the database `new` in the place of `path`, whose content is kept as `kept`, unless an interrupted run has moved it
/// there already. Nobody has any of them open.
///
/// A log beside one of them was not written back, for want of room mostly: then half of the database is in the log, which
/// does not move along and would be read as part of the other one.
fn exchange(new: &Path, path: &Path, kept: &Path) -> anyhow::Result<()> {
    for log in [beside(new, "-wal"), beside(path, "-wal")] {
        if log.exists() {
            bail!(
                "{} was not written back into its database; is the disk full? Nothing was moved",
                log.display()
            );
        }
    }
    let has_moved = path.exists();
    if has_moved {
        put(path, kept)?;
    }
    // Without a database in its place, a server that is started would make an empty one, and new signing keys.
    put(new, path).or_else(|error| {
        if has_moved {
            put(kept, path)?;
        }
        Err(error)
    })
}

fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &Path) -> String {
        std::fs::read_to_string(file).unwrap_or_default()
    }

    #[test]
    fn a_database_is_not_moved_away_from_its_log_nor_under_the_log_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let [new, path, kept] = ["new", "registry", "kept"].map(|name| dir.path().join(name));
        std::fs::write(&new, "new").unwrap();
        std::fs::write(&path, "old").unwrap();
        for log in [beside(&new, "-wal"), beside(&path, "-wal")] {
            std::fs::write(&log, "half of a database").unwrap();
            let refused = exchange(&new, &path, &kept).unwrap_err().to_string();
            assert!(refused.contains(log.to_str().unwrap()), "{refused}");
            assert_eq!((&*text(&new), &*text(&path), &*text(&kept)), ("new", "old", ""));
            std::fs::remove_file(log).unwrap();
        }
        exchange(&new, &path, &kept).unwrap();
        assert_eq!((&*text(&new), &*text(&path), &*text(&kept)), ("", "new", "old"));
    }

    #[test]
    fn an_exchange_that_fails_leaves_the_database_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let [new, path, kept] = ["new", "registry", "kept"].map(|name| dir.path().join(name));
        std::fs::write(&path, "old").unwrap();
        exchange(&new, &path, &kept).unwrap_err();
        assert_eq!((&*text(&path), &*text(&kept)), ("old", ""));
    }

    #[test]
    fn a_server_does_not_begin_anew_where_an_import_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry");
        check_finished(&path).unwrap();
        std::fs::write(beside(&path, ".spire"), "theirs").unwrap();
        assert!(check_finished(&path).unwrap_err().to_string().contains("server import` again"));
        std::fs::write(&path, "ours").unwrap();
        check_finished(&path).unwrap();
    }
}
