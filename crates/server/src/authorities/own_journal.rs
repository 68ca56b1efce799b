//! The journal of this server's authorities, found among those of all servers on the same database.

use tokio::sync::Mutex;
use vouchsafe_ca::journal::{self, Journal};
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_store::Store;

use super::AuthorityError;

/// This server's journal among those of all servers.
pub(super) struct OwnJournal {
    pub(super) key: String,
    pub(super) journal: Mutex<Journal>,
}

impl OwnJournal {
    /// The newest journal that belongs to `keys`; a new one if there is none.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Keys`], [`AuthorityError::Journals`].
    pub(super) async fn find(store: &dyn Store, keys: &dyn KeyManager) -> Result<Self, AuthorityError> {
        let own = journal::own_authority_ids(keys).await.map_err(AuthorityError::Keys)?;
        let stored = store.load_journals().await.map_err(AuthorityError::Journals)?;
        let read = stored.iter().filter_map(|record| {
            journal::find([record.data.as_slice()], &own).map(|journal| (record.key.clone(), journal))
        });
        let found = read.max_by_key(|(_, journal)| journal.newest());
        let (key, journal) = found.unwrap_or_else(|| (uuid::Uuid::new_v4().to_string(), Journal::new()));
        Ok(Self { key, journal: Mutex::new(journal) })
    }
}
