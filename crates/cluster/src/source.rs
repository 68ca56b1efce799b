//! Where the objects come from, and what the crate needs from its process.

use std::path::PathBuf;

use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;

/// Where the objects are.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// The API server of the cluster that this process runs in, with its Pod's service account.
    InCluster,
    /// The API server, user and certificates of the current context of a kubeconfig file.
    Kubeconfig(PathBuf),
    /// A folder of YAML and JSON manifests: the same objects without a cluster.
    Folder(PathBuf),
}

/// What a [`Cluster`](crate::Cluster) uses of its process.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The time that snapshots are confirmed at.
    pub clock: Clock,
    /// Places retries and the length of watches. Forked per use.
    pub entropy: Entropy,
    /// Age, size and restarts of each watch.
    pub metrics: Registry,
}
