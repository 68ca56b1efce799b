//! The task that keeps [`Objects`] current.

use std::convert::Infallible;

use tokio_util::sync::CancellationToken;

use super::local::Local;
use super::remote::Remote;
use super::{Objects, Selection};
use crate::cluster::{Backend, Cluster};
use crate::kind::Kind;

/// Keeps [`Objects`] current while it runs.
#[derive(Debug)]
pub struct Follower<K> {
    cluster: Cluster,
    selection: Selection,
    objects: Objects<K>,
}

impl<K: Kind> Follower<K> {
    pub(crate) fn new(cluster: Cluster, selection: Selection, objects: Objects<K>) -> Self {
        Self { cluster, selection, objects }
    }

    /// Runs until `stop`: a task for the supervisor. It never fails; while the source does not answer, what is held stays
    /// and [`Snapshot::confirmed_at`](super::Snapshot::confirmed_at) tells how old it is.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let shared = &self.cluster.shared;
        let mut deps = shared.deps.clone();
        deps.entropy = deps.entropy.fork(&format!("watch {} {:?}", K::label(), self.selection));
        let follow = async {
            match &shared.backend {
                Backend::Api(api) => Remote::new(api, deps, &self.selection, &self.objects).run().await,
                Backend::Folder(folder) => {
                    Local::new(folder, deps, &self.selection, &self.objects).run().await
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
        Ok(())
    }
}
