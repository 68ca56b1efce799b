//! Following the objects of a kind.
//!
//! A follower reads one list and then hears of changes; readers take snapshots without a lock. What is held is replaced only
//! by something newer, and an object is withdrawn only by word of its deletion or by a list that was read to its end. While
//! the source is away the snapshot stays and tells how old it is.
//!
//! * [`objects`] what readers see
//! * `plan`      what to do next (pure): list, resume, wait; when an older list is taken
//! * `held`      what is held while it changes (pure): bounds, what cannot be read
//! * `remote`    the loop over an API server
//! * `local`     the loop over a folder of manifests
//! * `stream`, `lines`, `event`, `cut`, `query` what is asked, and how an answer that does not end is read

mod cut;
mod event;
mod follower;
mod held;
mod lines;
mod local;
mod meters;
pub mod objects;
mod plan;
mod query;
mod remote;
mod selection;
mod stream;

use std::sync::Arc;

use tokio::sync::watch;

pub use follower::Follower;
pub use objects::{Objects, Snapshot};
pub use selection::Selection;

use crate::cluster::Cluster;
use crate::kind::Kind;
use held::Held;

pub(crate) fn follow<K: Kind>(cluster: Cluster, selection: Selection) -> (Objects<K>, Follower<K>) {
    let (changes, _) = watch::channel(0);
    let objects = Objects::new(changes);
    (objects.clone(), Follower::new(cluster, selection, objects))
}

/// Whether both hold the same objects; those that did not change are held once.
fn is_equal<K>(a: &Held<K>, b: &Held<K>) -> bool {
    a.objects.len() == b.objects.len()
        && a.unreadable == b.unreadable
        && a.objects.iter().zip(b.objects.iter()).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}
