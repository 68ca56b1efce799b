//! The journals of signing authorities that servers left behind.
//!
//! A server finds its journal by its keys. One whose last authority ended [`KEEP`] ago has nothing to find: a server that
//! comes back with it could use none of them, and makes new ones under a new journal. So its age is all that has to be
//! known, and nobody has to say that a server is gone. Of several servers one deletes it; if it was written meanwhile, none.

use std::time::Duration;

use tracing::info;
use vouchsafe_ca::journal::Journal;
use vouchsafe_store::{Error as StoreError, JournalRecord, Store};

/// Longer than authorities that ended are kept for those who come back late, and than clocks jump.
const KEEP: Duration = Duration::from_secs(14 * 24 * 3600);

/// Deletes those of servers that are gone; never the journal `own`.
pub(super) async fn prune(store: &dyn Store, own: &str, now: i64) -> Result<(), StoreError> {
    for record in store.load_journals().await? {
        if record.key != own && has_ended(&record, now) && store.delete_journal(&record).await? {
            info!(journal = record.key, "Removed the journal of a server that is gone");
        }
    }
    Ok(())
}

/// What cannot be read is left alone: it may be of a newer version.
fn has_ended(record: &JournalRecord, now: i64) -> bool {
    let ends = Journal::decode(&record.data).ok().and_then(|journal| journal.ends());
    ends.is_some_and(|ends| ends.saturating_add_unsigned(KEEP.as_secs()) < now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;
    use vouchsafe_ca::authority::SlotId;
    use vouchsafe_ca::authority::rotation::Change;
    use vouchsafe_ca::jwt::JwtKey;
    use vouchsafe_ca::key::KeyType;
    use vouchsafe_ca::key_manager::{KeyManager, Memory};
    use vouchsafe_runtime::clock::Clock;
    use vouchsafe_store::sqlite::Sqlite;
    use vouchsafe_types::trust_domain::TrustDomain;

    const NOW: i64 = 1_900_000_000;
    const DAY: i64 = 24 * 3600;

    /// The journal of a server whose only authority ends at `not_after`.
    async fn journal(not_after: i64) -> Vec<u8> {
        let signer = Memory::new().generate("JWT-A", KeyType::EcP256).await.unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let authority = JwtKey::new(trust_domain, signer, "kid".into(), not_after - DAY, not_after);
        let mut journal = Journal::new();
        journal.record(&Change::Prepared { slot: SlotId::A, authority: &authority });
        journal.encode()
    }

    #[tokio::test]
    async fn the_journal_of_a_server_that_is_gone_is_removed_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::derived(SystemTime::UNIX_EPOCH);
        let store = Sqlite::open(folder.path().join("registry.db"), clock).await.unwrap();
        let long_ago = journal(NOW - 15 * DAY).await;
        store.save_journal("own", long_ago.clone()).await.unwrap();
        store.save_journal("gone", long_ago).await.unwrap();
        store.save_journal("away", journal(NOW - 13 * DAY).await).await.unwrap();
        store.save_journal("signs", journal(NOW + DAY).await).await.unwrap();
        store.save_journal("empty", Journal::new().encode()).await.unwrap();
        store.save_journal("unreadable", vec![0xff; 9]).await.unwrap();
        for _ in 0..2 {
            prune(&store, "own", NOW).await.unwrap();
            let left = store.load_journals().await.unwrap();
            let keys: Vec<_> = left.iter().map(|record| record.key.as_str()).collect();
            assert_eq!(keys, ["away", "empty", "own", "signs", "unreadable"]);
        }
    }
}
