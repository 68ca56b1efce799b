//! What every source of objects does alike. Run on a folder by this crate's tests, and on a real API server by
//! `crates/vouchsafe/tests/kubernetes/cluster.rs`, which includes this file.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vouchsafe_cluster::k8s_openapi::api::coordination::v1::Lease;
use vouchsafe_cluster::k8s_openapi::api::core::v1::{ConfigMap, Node};
use vouchsafe_cluster::{
    Cluster, EventType, FieldManager, Kind, LeaseState, Name, Objects, PartialObjectMeta, Selection,
    Snapshot, reference,
};

/// Everything, on one cluster. `tag` makes the names of what has no namespace unique.
pub(crate) async fn run(cluster: &Cluster, namespace: &str, tag: &str) {
    single_objects(cluster, namespace).await;
    statuses(cluster, tag).await;
    watches(cluster, namespace).await;
    leases_and_events(cluster, namespace).await;
}

async fn single_objects(cluster: &Cluster, namespace: &str) {
    let (name, manager) = (Name::new(namespace, "single"), FieldManager::forcing("vouchsafe"));
    assert!(cluster.fetch::<ConfigMap>(&name).await.unwrap().is_none());
    let created = cluster.create(&map(&name, &[("a", "1")])).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.resource_version.is_some());
    assert!(cluster.create(&map(&name, &[])).await.unwrap_err().is_conflict());

    let applied = cluster.apply(&map(&name, &[("a", "1"), ("b", "2")]), &manager).await.unwrap();
    assert_eq!(data(&applied), "a=1 b=2");
    let again = cluster.apply(&map(&name, &[("a", "1"), ("b", "2")]), &manager).await.unwrap();
    assert_eq!(again.metadata.resource_version, applied.metadata.resource_version, "no write when equal");
    assert_eq!(again.metadata.managed_fields, None);

    let other = FieldManager::forcing("other");
    cluster.apply_fields::<ConfigMap>(&name, json!({ "data": { "c": "3" } }), &other).await.unwrap();
    let found: ConfigMap = cluster.fetch(&name).await.unwrap().unwrap();
    assert_eq!(data(&found), "a=1 b=2 c=3", "fields of others stay");
    let meta: PartialObjectMeta<ConfigMap> = cluster.fetch(&name).await.unwrap().unwrap();
    assert_eq!(meta.metadata.uid, created.metadata.uid);

    assert!(cluster.delete::<ConfigMap>(&name, Some("another")).await.unwrap_err().is_conflict());
    cluster.delete::<ConfigMap>(&name, created.metadata.uid.as_deref()).await.unwrap();
    cluster.delete::<ConfigMap>(&name, None).await.unwrap();
    assert!(cluster.fetch::<ConfigMap>(&name).await.unwrap().is_none());
}

async fn statuses(cluster: &Cluster, tag: &str) {
    let (name, manager) = (Name::cluster(format!("node-{tag}")), FieldManager::forcing("vouchsafe"));
    let mut node = Node::default();
    node.metadata.name = Some(name.name.clone());
    cluster.create(&node).await.unwrap();
    let status = json!({ "phase": "Running" });
    let mut versions = Vec::new();
    for _ in 0..2 {
        cluster.apply_status::<Node>(&name, status.clone(), &manager).await.unwrap();
        let found: Node = cluster.fetch(&name).await.unwrap().unwrap();
        assert_eq!(found.status.unwrap().phase.as_deref(), Some("Running"));
        versions.push(found.metadata.resource_version);
    }
    assert_eq!(versions[0], versions[1], "no write when equal");
    let gone = cluster.apply_status::<Node>(&Name::cluster("no-such-node"), status, &manager).await;
    assert!(gone.unwrap_err().is_not_found());
    cluster.delete::<Node>(&name, None).await.unwrap();
}

async fn watches(cluster: &Cluster, namespace: &str) {
    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    let (maps, follower) =
        cluster.watch::<ConfigMap>(Selection::namespace(namespace).with_labels("suite=yes"));
    tasks.spawn(follower.run(stop.clone()));
    let (metas, follower) = cluster.watch_metadata::<ConfigMap>(Selection::namespace(namespace));
    tasks.spawn(follower.run(stop.clone()));
    until(&maps, |snapshot| snapshot.complete).await;
    assert!(maps.snapshot().objects.is_empty());

    let manager = FieldManager::forcing("vouchsafe");
    for index in 0..3 {
        let mut object = map(&Name::new(namespace, format!("w{index}")), &[("a", "1")]);
        object.metadata.labels = Some([("suite".to_owned(), "yes".to_owned())].into());
        cluster.apply(&object, &manager).await.unwrap();
    }
    cluster.create(&map(&Name::new(namespace, "unlabelled"), &[])).await.unwrap();
    until(&maps, |snapshot| snapshot.objects.len() == 3).await;
    until(&metas, |snapshot| snapshot.objects.contains_key(&Name::new(namespace, "unlabelled"))).await;
    let first = maps.snapshot();
    cluster.delete::<ConfigMap>(&Name::new(namespace, "w1"), None).await.unwrap();
    let fields = json!({ "data": { "a": "2" } });
    let other = FieldManager::forcing("other");
    cluster.apply_fields::<ConfigMap>(&Name::new(namespace, "w2"), fields, &other).await.unwrap();
    let w2 = Name::new(namespace, "w2");
    until(&maps, |snapshot| snapshot.objects.len() == 2 && data(&snapshot.objects[&w2]) == "a=2").await;
    assert_eq!(first.objects.len(), 3, "a snapshot does not change");
    assert!(maps.snapshot().confirmed_at >= first.confirmed_at);
    stop.cancel();
    tasks.join_all().await.into_iter().for_each(|ended| ended.unwrap());
}

async fn leases_and_events(cluster: &Cluster, namespace: &str) {
    let mut tasks = JoinSet::new();
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let (first, keeper) = cluster.lease(Name::new(namespace, "leader"), "one".into());
    let mut first_task = JoinSet::new();
    first_task.spawn(keeper.run(stop_first.clone()));
    first.changed().wait_for(|state| *state == LeaseState::Held).await.unwrap();
    let (second, keeper) = cluster.lease(Name::new(namespace, "leader"), "two".into());
    tasks.spawn(keeper.run(stop_second.clone()));
    second.changed().wait_for(|state| matches!(state, LeaseState::Other(_))).await.unwrap();
    assert!(first.is_held() && !second.is_held());
    stop_first.cancel();
    first_task.join_all().await.into_iter().for_each(|ended| ended.unwrap());
    // A folder has a lock of the system in its place, which nobody can keep who has ended.
    let left: Option<Lease> = cluster.fetch(&Name::new(namespace, "leader")).await.unwrap();
    let holder = left.and_then(|left| left.spec?.holder_identity);
    assert_ne!(holder.as_deref(), Some("one"), "given back, not run out");
    let taken = async { second.changed().wait_for(|state| *state == LeaseState::Held).await.map(drop) };
    tokio::time::timeout(PATIENCE, taken).await.expect("the second one takes it").unwrap();

    let (events, writer) = cluster.events("suite.vouchsafe.test");
    tasks.spawn(writer.run(stop_second.clone()));
    let object = map(&Name::new(namespace, "told"), &[]);
    events.record(&reference(&object), EventType::Warning, "Suite", "it was told");
    stop_second.cancel();
    tasks.join_all().await.into_iter().for_each(|ended| ended.unwrap());
}

pub(crate) fn map(name: &Name, pairs: &[(&str, &str)]) -> ConfigMap {
    let mut object = ConfigMap::default();
    (object.metadata.name, object.metadata.namespace) = (Some(name.name.clone()), name.namespace.clone());
    object.data = Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
    object
}

fn data(object: &ConfigMap) -> String {
    let pairs = object.data.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(" ")
}

/// Waits until the snapshot is as `is_so` says.
pub(crate) async fn until<K: Kind>(objects: &Objects<K>, is_so: impl Fn(&Snapshot<K>) -> bool) {
    let waiting = async {
        while !is_so(&objects.snapshot()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("still not so: {:?}", objects.snapshot());
    }
}

/// A wait that shows nothing, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(240);
