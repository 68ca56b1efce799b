//! The journal of this server's authorities, found among those of all servers on the same database.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use vouchsafe_ca::authority::Authority;
use vouchsafe_ca::authority::rotation::Change;
use vouchsafe_ca::journal::{self, Journal};
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_store::JournalRecord;

use super::AuthorityError;

/// This server's journal among those of all servers.
pub(super) struct OwnJournal {
    pub(super) key: String,
    pub(super) journal: Mutex<Journal>,
    /// The same as bytes, for who saves the last good state.
    copy: Arc<ArcSwapOption<JournalRecord>>,
}

impl OwnJournal {
    /// The newest journal among `stored` that belongs to `keys`; a new one if there is none.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Keys`].
    pub(super) async fn find(
        stored: &[JournalRecord],
        keys: &dyn KeyManager,
        copy: Arc<ArcSwapOption<JournalRecord>>,
    ) -> Result<Self, AuthorityError> {
        let own = journal::own_authority_ids(keys).await.map_err(AuthorityError::Keys)?;
        let read = stored.iter().filter_map(|record| {
            journal::find([record.data.as_slice()], &own).map(|journal| (record.key.clone(), journal))
        });
        let found = read.max_by_key(|(_, journal)| journal.newest());
        let (key, journal) = found.unwrap_or_else(|| (uuid::Uuid::new_v4().to_string(), Journal::new()));
        copy.store(Some(Arc::new(JournalRecord { key: key.clone(), data: journal.encode() })));
        Ok(Self { key, journal: Mutex::new(journal), copy })
    }

    /// Takes a change in, and gives the bytes that are to be written.
    pub(super) async fn record<A: Authority>(&self, change: &Change<'_, A>) -> Vec<u8> {
        let mut journal = self.journal.lock().await;
        journal.record(change);
        let data = journal.encode();
        self.copy.store(Some(Arc::new(JournalRecord { key: self.key.clone(), data: data.clone() })));
        data
    }
}
