//! What is held of a kind: snapshots that readers take without a lock.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use tokio::sync::watch;

use crate::kind::Name;
use crate::version::ResourceVersion;

/// The objects of a kind, as last heard. Cheap to clone; all clones see the same.
#[derive(Debug)]
pub struct Objects<K> {
    held: Arc<ArcSwap<Snapshot<K>>>,
    changes: watch::Sender<u64>,
}

/// The objects of a kind at one moment. Does not change.
#[derive(Clone, Debug)]
pub struct Snapshot<K> {
    /// By name, in order.
    pub objects: OrdMap<Name, Arc<K>>,
    /// Objects that are there and cannot be read, and why. The last version that could be read, if there was one, is in
    /// [`Snapshot::objects`].
    pub unreadable: OrdMap<Name, Arc<str>>,
    /// Whether these are all objects there are. While it is `false` nothing may be concluded from an object that is missing:
    /// until the first list has been read to its end, and when there are more objects than are taken.
    pub complete: bool,
    /// When the source last said that this is how things are. `None` before it said anything.
    pub confirmed_at: Option<SystemTime>,
    /// The position in the source's history. `None` before the first complete list.
    pub resource_version: Option<ResourceVersion>,
}

impl<K> Objects<K> {
    pub(crate) fn new(changes: watch::Sender<u64>) -> Self {
        Self { held: Arc::new(ArcSwap::from_pointee(Snapshot::default())), changes }
    }

    /// What is held now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot<K>> {
        self.held.load_full()
    }

    /// Counts changes of the objects or of [`Snapshot::complete`]; not mere confirmations. A new receiver has seen the present one.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn set(&self, snapshot: Snapshot<K>, changed: bool) {
        self.held.store(Arc::new(snapshot));
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held), changes: self.changes.clone() }
    }
}

impl<K> Default for Snapshot<K> {
    fn default() -> Self {
        Self {
            objects: OrdMap::new(),
            unreadable: OrdMap::new(),
            complete: false,
            confirmed_at: None,
            resource_version: None,
        }
    }
}
