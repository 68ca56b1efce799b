//! Typed objects from the Kubernetes API, or from a folder of manifests that stands for one.
//!
//! Invariants:
//!
//! * What is held stays until something newer is there: an object is withdrawn only by word of its deletion or by a list that
//!   was read to its end, and an older list does not replace a newer one. While the source is away the snapshot stays and
//!   tells how old it is.
//! * One object that cannot be read costs only itself, and stays as it was.
//! * Each call has a deadline, a bound on what it takes into memory, and a place; nobody is asked more often for failing.
//! * No secret, token or object content is in an error, a log or a `Debug`.
//!
//! Modules:
//!
//! * [`cluster`] the one handle: fetch, create, apply, delete, watch, events, leases
//! * [`watch`]   following the objects of a kind: list once, resume, snapshots without a lock
//! * [`events`]  events about objects: queued, counted, few per second
//! * [`lease`]   leader election, compatible with client-go's
//! * [`folder`]  a folder of manifests in place of an API server
//! * [`kind`], [`version`] names, kinds and positions
//! * [`source`]  where the objects are
//! * [`error`]   what can go wrong, and whose fault it is
//! * `api`       the API server: connection, bounds, single objects
//!
//! Flow: [`Cluster::open`] reads configuration and contacts nobody. [`Cluster::watch`] gives [`Objects`] to read and a
//! [`Follower`] to run as a task; every handle that needs a task comes with it in this way. Other crates name Kubernetes' own
//! types through [`k8s_openapi`] here, and derive kinds with [`CustomResource`]:
//! `crates(kube = "::vouchsafe_cluster", kube_core = "::vouchsafe_cluster::core", k8s_openapi = "::vouchsafe_cluster::k8s_openapi")`
//! and `schema = "disabled"`.

mod api;
pub mod cluster;
pub mod error;
pub mod events;
#[cfg(test)]
mod fake;
pub mod folder;
pub mod kind;
pub mod lease;
pub mod source;
pub mod version;
pub mod watch;

pub use cluster::{Cluster, FieldManager};
pub use error::{ClusterError, OpenError};
pub use events::{EventType, EventWriter, Events};
pub use folder::Problem;
pub use k8s_openapi;
pub use kind::{Kind, Name, reference};
pub use kube::core::PartialObjectMeta;
pub use kube::{CustomResource, Resource, ResourceExt, core};
pub use lease::{Leadership, LeaseKeeper, LeaseState};
pub use source::{Deps, Source};
pub use version::ResourceVersion;
pub use watch::{Follower, Objects, Selection, Snapshot};
