//! Which plugins a server uses.

use std::path::PathBuf;

use super::data_store;
use super::node_attestors::{self, NodeAttestors};
use super::upstream::{self, Upstream};
use super::{DataStore, KeyManager, Publication, publications};
use crate::config::plugins;
use crate::config::problems::Problems;
use crate::config::section::Section;

/// What the `plugins` section comes to.
pub(super) struct Plugins {
    pub(super) data_store: DataStore,
    pub(super) key_manager: KeyManager,
    pub(super) node_attestors: NodeAttestors,
    pub(super) upstream: Option<Upstream>,
    pub(super) publications: Vec<Publication>,
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
    let mut data_store = DataStore::Sqlite { path: PathBuf::new() };
    for store in stores {
        match store.name.as_str() {
            "sql" => data_store = data_store::read(&store, problems).unwrap_or(data_store),
            name => plugins::unsupported("DataStore", name, &["sql"], store.position(), problems),
        }
        plugins::finish_if_supported(store, &["sql"]);
    }
    let node_attestors = node_attestors::read(&section, problems);
    let key_manager = plugins::key_manager(&section, problems, "keys_path", PathBuf::from);
    let upstream = upstream::read(&section, problems);
    let publications = publications::read(&section, problems);
    plugins::refuse_kind(&section, "CredentialComposer", "remove it", problems);
    section.finish();
    Plugins { data_store, key_manager, node_attestors, upstream, publications }
}
