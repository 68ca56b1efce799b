//! The way to one cluster's API server, taken anew when its kubeconfig changes.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use vouchsafe_cluster::{Cluster, Deps, OpenError, Source};
use vouchsafe_runtime::blocking;

/// Opened when it is needed: a kubeconfig that is not there yet does not keep the server from starting, and one that
/// was replaced is found at the next attestation, as with SPIRE.
pub(super) struct Connection {
    source: Source,
    deps: Deps,
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    cluster: Cluster,
    stamp: Option<Stamp>,
}

/// Tells versions of a file apart.
type Stamp = (u64, SystemTime);

impl Connection {
    pub(super) fn new(source: Source, deps: Deps) -> Self {
        Self { source, deps, opened: Mutex::default() }
    }

    /// The cluster, by the configuration as it is now.
    pub(super) async fn cluster(&self) -> Result<Cluster, NotOpen> {
        let held = self.held().as_ref().map(|opened| (opened.cluster.clone(), opened.stamp));
        let (source, deps) = (self.source.clone(), self.deps.clone());
        let opened = blocking::run(move || match held {
            Some((cluster, before)) if before == stamp(&source) => Ok(Opened { cluster, stamp: before }),
            _ => {
                let stamp = stamp(&source);
                Cluster::open(&source, deps).map(|cluster| Opened { cluster, stamp })
            }
        });
        let opened = opened.await.map_err(NotOpen::Stopped)?.map_err(NotOpen::Configuration)?;
        let cluster = opened.cluster.clone();
        *self.held() = Some(opened);
        Ok(cluster)
    }

    fn held(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(source: &Source) -> Option<Stamp> {
    let of = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.len(), file.modified().ok()?))
    };
    match source {
        Source::Kubeconfig(path) => of(path),
        _ => None,
    }
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpen {
    #[error(transparent)]
    Configuration(OpenError),
    #[error("the server is stopping")]
    Stopped(#[source] tokio::task::JoinError),
}
