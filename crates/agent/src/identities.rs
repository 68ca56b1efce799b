//! What the agent serves: entries, their SVIDs and the trust bundles, as one immutable [`Snapshot`].
//!
//! Readers load the snapshot without a lock. Writers (synchronization, issuing) replace it through
//! [`Identities::edit`], which raises the version and wakes everyone who watches. A request that was answered under
//! version *n* is answered the same way until the version changes, which is one atomic read to find out.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use vouchsafe_proto::revisions::State;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::spiffe_id::SpiffeId;
use zeroize::Zeroizing;

use crate::bundles::Bundles;
use crate::entries::EntryIndex;
use crate::rotation::Lifetime;

/// An X.509-SVID with its key, ready to be handed out.
pub struct HeldSvid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Revision and creation time of the entry that it was issued for.
    pub issued_for: (i64, i64),
    /// The chain, DER, leaf first, one after the other.
    pub chain: Bytes,
    /// PKCS#8 DER, wiped when the last user lets go.
    pub key: Bytes,
    /// Validity and the stored renewal time.
    pub lifetime: Lifetime,
    /// Authority key identifier of the leaf, if it has one.
    pub authority_key_id: Option<Box<[u8]>>,
}

impl fmt::Debug for HeldSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldSvid")
            .field("spiffe_id", &self.spiffe_id.as_str())
            .field("issued_for", &self.issued_for)
            .field("lifetime", &self.lifetime)
            .field("key", &"[redacted]")
            .finish_non_exhaustive()
    }
}

/// Bytes that are wiped when the last reference goes.
#[must_use]
pub fn secret_bytes(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    struct Owner(Zeroizing<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(bytes))
}

/// Everything that can be served at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every change.
    pub version: u64,
    /// The entries.
    pub index: Arc<EntryIndex>,
    /// SVIDs by entry.
    pub svids: Arc<HashMap<EntryId, Arc<HeldSvid>>>,
    /// Trust bundles; none before the first contact with a server.
    pub bundles: Option<Arc<Bundles>>,
    /// Whether the entries came from a server at some time; before that, "no entry" means nothing.
    pub synchronized: bool,
}

/// The current [`Snapshot`] and its watchers.
#[derive(Debug)]
pub struct Identities {
    current: ArcSwap<Snapshot>,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    writer: Mutex<()>,
    demand: Notify,
    closed: AtomicBool,
    shown: Mutex<State>,
}

impl Default for Identities {
    fn default() -> Self {
        let empty = Snapshot {
            version: 0,
            index: Arc::default(),
            svids: Arc::default(),
            bundles: None,
            synchronized: false,
        };
        Self {
            current: ArcSwap::from_pointee(empty),
            version: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            writer: Mutex::new(()),
            demand: Notify::new(),
            closed: AtomicBool::new(false),
            shown: Mutex::default(),
        }
    }
}

impl Identities {
    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The newest state of the server that the snapshot reflects: an older one is not taken, also after a restart.
    #[must_use]
    pub fn shown(&self) -> State {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot reflects this state of the server.
    pub fn set_shown(&self, state: State) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The current version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Sees every later version (possibly skipping some).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Replaces the snapshot by what `change` makes of it, unless it returns `false`. One writer at a time.
    pub fn edit(&self, change: impl FnOnce(&mut Snapshot) -> bool) {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&self.current.load());
        if !change(&mut next) {
            return;
        }
        next.version += 1;
        let version = next.version;
        self.current.store(Arc::new(next));
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
    }

    /// Says that a workload waits for SVIDs that are not there yet.
    pub fn ask(&self) {
        self.demand.notify_one();
    }

    /// Waits for the next [`Identities::ask`].
    pub async fn asked(&self) {
        self.demand.notified().await;
    }

    /// Ends every stream: the agent stops.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.send_modify(|_| ());
    }

    /// Whether [`Identities::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn svid(id: &str, not_after: i64) -> Arc<HeldSvid> {
        Arc::new(HeldSvid {
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).unwrap(),
            issued_for: (0, 0),
            chain: Bytes::from_static(b"chain"),
            key: secret_bytes(Zeroizing::new(b"key".to_vec())),
            lifetime: Lifetime::new(0, not_after, 0, id.as_bytes()),
            authority_key_id: None,
        })
    }

    #[test]
    fn an_edit_that_changes_nothing_wakes_nobody() {
        let identities = Identities::default();
        let mut watch = identities.watch();
        identities.edit(|_| false);
        assert!(!watch.has_changed().unwrap());
        identities.edit(|_| true);
        assert!(watch.has_changed().unwrap());
        assert_eq!((*watch.borrow_and_update(), identities.version(), identities.load().version), (1, 1, 1));
    }

    #[test]
    fn a_key_is_not_in_the_debug_text() {
        assert!(format!("{:?}", svid("a", 10)).contains("[redacted]"));
    }
}
