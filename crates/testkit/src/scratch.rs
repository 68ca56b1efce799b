//! A store that a test may do anything to.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Postgres, Sqlite, Store};

use crate::folders::folder;
use crate::postgres::Cluster;

/// A store and whatever must live as long as it does, such as its directory.
pub struct Scratch {
    store: Arc<dyn Store>,
    _keep: Box<dyn Any + Send>,
}

impl Scratch {
    /// `store`, which needs `keep`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, keep: impl Any + Send) -> Self {
        Self { store, _keep: Box::new(keep) }
    }

    /// An empty SQLite store in a new temporary directory.
    ///
    /// # Panics
    ///
    /// When there is no room for one.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its store")]
    pub async fn sqlite(clock: Clock) -> Self {
        let directory = folder("vouchsafe-store-");
        let store = Sqlite::open(directory.path().join("registry.db"), clock).await.expect("a new database");
        Self::new(Arc::new(store), directory)
    }

    /// An empty PostgreSQL store in a new database of `cluster`.
    ///
    /// # Panics
    ///
    /// When the settings are refused.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its store")]
    pub fn postgres(cluster: &Arc<Cluster>, clock: Clock) -> Self {
        let settings = Settings::new(cluster.connection_string(&cluster.fresh_database()));
        let store = Postgres::open(&settings, clock, Entropy::from_seed(1)).expect("settings that fit");
        Self::new(Arc::new(store), Arc::clone(cluster))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// The store wrapped by `wrap`, with the same directory.
    #[must_use]
    pub fn wrapped(self, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        Self { store: wrap(self.store), _keep: self._keep }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}
