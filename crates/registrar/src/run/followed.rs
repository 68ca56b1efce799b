//! What is followed in the cluster for entries, as one [`World`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::select_all;
use imbl::OrdMap;
use tokio::sync::watch;
use vouchsafe_cluster::{Cluster, Follower, Kind, Name, Objects, Selection};
use vouchsafe_runtime::supervisor::{Spawner, Supervisor};

use super::Config;
use crate::ledger::{Ledger, World};
use crate::objects::{ClusterSpiffeId, ClusterStaticEntry, Declaring, Endpoints, Namespace, Node, Pod};
use crate::settings::Class;

/// The watches. Endpoints are followed from when an object first needs them.
#[derive(Debug)]
pub(super) struct Followed {
    rules: Option<Objects<ClusterSpiffeId>>,
    statics: Option<Objects<ClusterStaticEntry>>,
    pods: Vec<Objects<Pod>>,
    nodes: Option<Objects<Node>>,
    namespaces: Option<Objects<Namespace>>,
    endpoints: Vec<Objects<Endpoints>>,
    unstarted: Vec<Follower<Endpoints>>,
    changes: Vec<watch::Receiver<u64>>,
    class: Class,
    spawner: Spawner,
}

impl Followed {
    pub(super) fn start(cluster: &Cluster, config: &Config, tasks: &mut Supervisor) -> Self {
        let mut followed = Self {
            rules: None,
            statics: None,
            pods: Vec::new(),
            nodes: None,
            namespaces: None,
            endpoints: Vec::new(),
            unstarted: Vec::new(),
            changes: Vec::new(),
            class: config.terms.class.clone(),
            spawner: tasks.handle(),
        };
        if config.reconcile.static_entries {
            followed.statics =
                Some(followed.follow(cluster, Selection::all(), "watch static entries", tasks));
        }
        if config.reconcile.spiffe_ids {
            followed.rules = Some(followed.follow(cluster, Selection::all(), "watch SPIFFE IDs", tasks));
            followed.nodes = Some(followed.follow(cluster, Selection::all(), "watch nodes", tasks));
            followed.namespaces = Some(followed.follow(cluster, Selection::all(), "watch namespaces", tasks));
            let selections = match config.selections.as_slice() {
                [] => &[Selection::all()],
                some => some,
            };
            for selection in selections {
                let pods = followed.follow(cluster, selection.clone(), "watch pods", tasks);
                followed.pods.push(pods);
                let (endpoints, follower) = cluster.watch(selection.clone());
                followed.changes.push(endpoints.changed());
                followed.endpoints.push(endpoints);
                followed.unstarted.push(follower);
            }
        }
        followed
    }

    fn follow<K: Kind>(
        &mut self,
        cluster: &Cluster,
        selection: Selection,
        name: &'static str,
        tasks: &mut Supervisor,
    ) -> Objects<K> {
        let (objects, follower) = cluster.watch::<K>(selection);
        self.changes.push(objects.changed());
        tasks.start(name, |stop| follower.run(stop));
        objects
    }

    /// Everything as it is now.
    pub(super) fn view(&mut self) -> View {
        let mut read = Read::default();
        let rules = read.objects("SPIFFE IDs", self.rules.as_slice());
        // One that is not known could be the one in whose favour another stands back.
        let mut is_usable = read.lacks.is_none();
        let mut world = World {
            rules,
            statics: read.objects("static entries", self.statics.as_slice()),
            nodes: read.objects("nodes", self.nodes.as_slice()),
            namespaces: read.objects("namespaces", self.namespaces.as_slice()),
            pods: read.objects("pods", &self.pods),
            endpoints: OrdMap::new(),
            unreadable: false,
        };
        if Ledger::wants_endpoints(&world, &self.class) {
            for follower in self.unstarted.drain(..) {
                // When the process stops, nothing is needed any more.
                self.spawner.start("watch endpoints", |stop| follower.run(stop)).ok();
            }
        }
        if self.unstarted.is_empty() {
            let before = read.lacks.take();
            world.endpoints = read.objects("endpoints", &self.endpoints);
            // Entries would lose DNS names.
            is_usable &= read.lacks.is_none();
            read.lacks = before.or(read.lacks);
        }
        world.unreadable = read.unreadable;
        View { world, lacks: read.lacks, is_usable }
    }

    /// Whether the source has said of everything, later than `moment`, that it is so.
    pub(super) fn is_confirmed_since(&self, moment: SystemTime) -> bool {
        let endpoints = if self.unstarted.is_empty() { self.endpoints.as_slice() } else { &[] };
        is_later(self.rules.as_slice(), moment)
            && is_later(self.statics.as_slice(), moment)
            && is_later(self.nodes.as_slice(), moment)
            && is_later(self.namespaces.as_slice(), moment)
            && is_later(&self.pods, moment)
            && is_later(endpoints, moment)
    }

    /// Resolves when something has changed.
    pub(super) async fn changed(&mut self) {
        let waits: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> =
            self.changes.iter_mut().map(|changes| Box::pin(next(changes)) as _).collect();
        select_all(waits).await;
    }
}

async fn next(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What is known of the cluster.
#[derive(Debug)]
pub(super) struct View {
    pub(super) world: World,
    /// A kind of which not all objects are known, so that nothing follows from one that is missing.
    pub(super) lacks: Option<&'static str>,
    /// Whether it tells, all the same, who is to get what.
    pub(super) is_usable: bool,
}

#[derive(Debug, Default)]
struct Read {
    unreadable: bool,
    lacks: Option<&'static str>,
}

impl Read {
    /// The objects of several watches of one kind.
    fn objects<K: Kind>(&mut self, kind: &'static str, watches: &[Objects<K>]) -> OrdMap<Name, Arc<K>> {
        let mut whole = OrdMap::new();
        for watch in watches {
            let snapshot = watch.snapshot();
            if !snapshot.complete {
                self.lacks = self.lacks.or(Some(kind));
            }
            self.unreadable |= !snapshot.unreadable.is_empty();
            let more = snapshot.objects.clone();
            whole = if whole.is_empty() { more } else { whole.union(more) };
        }
        whole
    }
}

fn is_later<K: Kind>(watches: &[Objects<K>], moment: SystemTime) -> bool {
    watches.iter().all(|watch| watch.snapshot().confirmed_at.is_some_and(|at| at > moment))
}

/// The objects of our class.
pub(super) fn of_class<'a, K: Declaring>(objects: &'a OrdMap<Name, Arc<K>>, class: &Class) -> Vec<&'a K> {
    objects.values().map(|object| &**object).filter(|object| class.has(*object)).collect()
}
