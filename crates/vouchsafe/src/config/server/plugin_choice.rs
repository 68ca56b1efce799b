//! Which plugins a server uses.

use std::path::PathBuf;

use super::node_attestors::{self, NodeAttestors};
use super::upstream::{self, Upstream};
use super::{DataStore, KeyManager};
use crate::config::plugins::{self, Plugin};
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

/// What the `plugins` section comes to.
pub(super) struct Plugins {
    pub(super) data_store: DataStore,
    pub(super) key_manager: KeyManager,
    pub(super) node_attestors: NodeAttestors,
    pub(super) upstream: Option<Upstream>,
}

/// Reads the `plugins` section.
pub(super) fn read(section: Section<'_>, problems: &Problems) -> Plugins {
    let stores = plugins::enabled(&section, "DataStore");
    if stores.len() != 1 {
        let count = stores.len();
        let text = format!(
            "plugins: exactly one DataStore must be configured and enabled, not {count}; use \"sql\""
        );
        problems.at(section.position(), text);
    }
    let mut path = PathBuf::new();
    for store in stores {
        match store.name.as_str() {
            "sql" => path = read_sql(&store, problems).unwrap_or_default(),
            name => plugins::unsupported("DataStore", name, &["sql"], store.position(), problems),
        }
        plugins::finish_if_supported(store, &["sql"]);
    }
    let node_attestors = node_attestors::read(&section, problems);
    let key_manager = plugins::key_manager(&section, problems, "keys_path", PathBuf::from);
    let upstream = upstream::read(&section, problems);
    plugins::refuse_kind(&section, "Notifier", "remove it and publish what `bundle show` prints", problems);
    plugins::refuse_kind(
        &section,
        "BundlePublisher",
        "remove it and publish what `bundle show` prints",
        problems,
    );
    plugins::refuse_kind(&section, "CredentialComposer", "remove it", problems);
    section.finish();
    Plugins { data_store: DataStore::Sqlite { path }, key_manager, node_attestors, upstream }
}

fn read_sql(store: &Plugin<'_>, problems: &Problems) -> Option<PathBuf> {
    store.read_data(problems, |data| {
        match database_type(data) {
            Some(kind) if kind == "sqlite3" => {}
            Some(kind) => {
                let kind = go::quote(&kind);
                data.problem("database_type", &format!("{kind} is not supported yet: use \"sqlite3\""));
            }
            None => data.problem("database_type", "must be configured: \"sqlite3\""),
        }
        let path = data.parsed("connection_string", sqlite_path);
        if path.is_none() && data.text("connection_string").is_none() {
            data.problem("connection_string", "must be configured: the path of the database file");
        }
        for key in ["ro_connection_string", "root_ca_path", "client_cert_path", "client_key_path"] {
            data.not_built(key, "remove it; it has no meaning for sqlite3");
        }
        data.not_built("disable_migration", "remove it; the database is always brought up to date");
        data.not_built("log_sql", "remove it");
        // Bounds on a pool of connections; SQLite is used through fewer.
        for key in ["max_open_conns", "max_idle_conns", "conn_max_lifetime"] {
            data.no_effect(key);
        }
        path
    })
}

/// `database_type = "name"`, or `database_type "name" { … }`.
fn database_type(data: &Section<'_>) -> Option<String> {
    if data.is_object("database_type") {
        return data.named_sections("database_type").into_iter().next().map(|(name, _)| name);
    }
    data.text("database_type")
}

/// The file that a connection string of SQLite names: a path, or `file:path?options`.
fn sqlite_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("file:").unwrap_or(text);
    let (path, options) = path.split_once('?').unwrap_or((path, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    if path == ":memory:" || path.is_empty() || options.split('&').any(|option| option == "mode=memory") {
        return Err("a database in memory loses every entry at each restart; name a file".to_owned());
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_names_a_file() {
        for (text, expected) in [
            ("./.data/datastore.sqlite3", "./.data/datastore.sqlite3"),
            ("/run/spire/db", "/run/spire/db"),
            ("file:db.sqlite3?_busy_timeout=1", "db.sqlite3"),
            ("file:///run/db?mode=rw", "/run/db"),
        ] {
            assert_eq!(sqlite_path(text), Ok(PathBuf::from(expected)), "{text}");
        }
        for memory in [":memory:", "file::memory:", "file:x?mode=memory&cache=shared", "file:"] {
            assert!(sqlite_path(memory).is_err(), "{memory}");
        }
    }
}
