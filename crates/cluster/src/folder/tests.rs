use std::fs;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;

use super::*;
use crate::cluster::{Cluster, FieldManager};
use crate::kind::Kind;
use crate::source::{Deps, Source};
use crate::watch::{Objects, Selection, Snapshot};

/// A folder, and a cluster that it stands for, in real time: files have real times.
struct World {
    folder: tempfile::TempDir,
    cluster: Cluster,
    tasks: tokio::task::JoinSet<()>,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let deps = Deps {
            clock: Clock::system(),
            entropy: Entropy::from_seed(1),
            metrics: Registry::new("test", &[]),
        };
        let cluster = Cluster::open(&Source::Folder(folder.path().into()), deps).unwrap();
        Self { folder, cluster, tasks: tokio::task::JoinSet::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as of a while ago.
    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(self.now() - Duration::from_secs(60)).unwrap();
    }

    fn now(&self) -> SystemTime {
        self.cluster.shared.deps.clock.now()
    }

    fn watch<K: Kind>(&mut self, selection: Selection) -> Objects<K> {
        let (objects, follower) = self.cluster.watch::<K>(selection);
        self.tasks.spawn(async move { follower.run(CancellationToken::new()).await.unwrap() });
        objects
    }
}

async fn until<K: Kind>(objects: &Objects<K>, is_so: impl Fn(&Snapshot<K>) -> bool) {
    let waiting = async {
        while !is_so(&objects.snapshot()) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
        panic!("{:?}", objects.snapshot());
    }
}

fn names<K: Kind>(snapshot: &Snapshot<K>) -> Vec<String> {
    snapshot.objects.keys().map(Name::to_string).collect()
}

fn map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: \"{value}\"}}\n")
}

#[tokio::test]
async fn manifests_are_objects_and_changes_are_seen() {
    let mut world =
        World::new(&[("b.yaml", &format!("{}---\n{}", map("a", "1"), map("b", "1"))), ("note.txt", "x")]);
    let maps = world.watch::<ConfigMap>(Selection::all());
    until(&maps, |s| s.complete).await;
    assert_eq!(
        names(&maps.snapshot()),
        ["default/a", "default/b"],
        "without a namespace they are in default"
    );
    let first = maps.snapshot();
    assert!(
        first.objects[&Name::new("default", "a")].metadata.uid.as_deref().is_some_and(|uid| uid.len() == 36)
    );
    world.write("b.yaml", &map("b", "2"));
    world
        .write("c.json", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"n"}}"#);
    until(&maps, |s| names(s) == ["default/b", "n/c"]).await;
    let (b, then) = (Name::new("default", "b"), maps.snapshot());
    assert_eq!(then.objects[&b].data.as_ref().unwrap()["k"], "2");
    assert!(then.resource_version > first.resource_version);
    assert_ne!(then.objects[&b].metadata.resource_version, first.objects[&b].metadata.resource_version);
}

#[tokio::test]
async fn a_file_that_becomes_invalid_keeps_what_it_gave_and_is_told() {
    let mut world = World::new(&[("a.yaml", &map("a", "1"))]);
    let maps = world.watch::<ConfigMap>(Selection::all());
    until(&maps, |s| s.complete).await;
    world.write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a\n");
    world.write("b.yaml", &map("b", "1"));
    until(&maps, |s| s.objects.len() == 2).await;
    let problems = world.cluster.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, world.path("a.yaml"));
    world.write("a.yaml", &map("c", "1"));
    until(&maps, |s| names(s) == ["default/b", "default/c"]).await;
    assert_eq!(world.cluster.problems(), []);
}

#[tokio::test]
async fn while_a_file_was_never_read_nothing_is_complete() {
    let mut world = World::new(&[("a.yaml", &map("a", "1")), ("b.yaml", "kind: [\n")]);
    let maps = world.watch::<ConfigMap>(Selection::all());
    let mut changed = maps.changed();
    until(&maps, |s| s.objects.len() == 1).await;
    assert!(!maps.snapshot().complete);
    changed.borrow_and_update();
    world.write("b.yaml", "{}\n---\n");
    world.write("b.yaml", &map("a", "2").replace("name: a", "name: a, namespace: other"));
    until(&maps, |s| s.complete && s.objects.len() == 2).await;
    assert!(changed.has_changed().unwrap());
    world.write("b.yaml", "kind: [\n");
    until(&maps, |_| !world.cluster.problems().is_empty()).await;
    sleep(TICK * 2).await;
    assert!(maps.snapshot().complete && maps.snapshot().objects.len() == 2, "what it gave is known");
}

#[tokio::test]
async fn a_file_that_is_missing_for_a_moment_withdraws_nothing() {
    let world = World::new(&[("a.yaml", &map("a", "1"))]);
    let name = Name::new("default", "a");
    let (folder, a) = match &world.cluster.shared.backend {
        crate::cluster::Backend::Folder(folder) => (folder, world.path("a.yaml")),
        crate::cluster::Backend::Api(_) => panic!("no folder"),
    };
    folder.inner.scan(Look::Now);
    fs::remove_file(&a).unwrap();
    folder.inner.scan(Look::Now);
    folder.inner.scan(Look::Now);
    assert!(folder.view().of::<ConfigMap>().contains_key(&name));
    world.write("b.yaml", &map("a", "moved"));
    folder.inner.scan(Look::Now);
    assert_eq!(folder.view().of::<ConfigMap>()[&name].value["data"]["k"], "moved");
    assert_eq!(world.cluster.problems(), [], "that it moved is no problem");
    fs::remove_file(world.path("b.yaml")).unwrap();
    folder.inner.scan(Look::Now);
    sleep(TICK).await;
    folder.inner.scan(Look::Now);
    assert!(folder.view().of::<ConfigMap>().is_empty());
}

#[tokio::test]
async fn a_folder_that_is_gone_withdraws_nothing() {
    let mut world = World::new(&[("a.yaml", &map("a", "1"))]);
    let maps = world.watch::<ConfigMap>(Selection::all());
    until(&maps, |s| s.complete).await;
    let elsewhere = world.folder.path().with_extension("moved");
    fs::rename(world.folder.path(), &elsewhere).unwrap();
    until(&maps, |_| !world.cluster.problems().is_empty()).await;
    let confirmed = maps.snapshot().confirmed_at;
    sleep(TICK * 2).await;
    assert_eq!(
        (names(&maps.snapshot()), maps.snapshot().confirmed_at),
        (vec!["default/a".into()], confirmed)
    );
    fs::rename(&elsewhere, world.folder.path()).unwrap();
    until(&maps, |s| s.confirmed_at > confirmed && world.cluster.problems().is_empty()).await;
}

#[tokio::test]
async fn a_file_that_was_changed_this_moment_is_taken_when_it_has_settled() {
    let world = World::new(&[("a.yaml", &format!("{}---\n{}", map("a", "1"), map("b", "1")))]);
    let name = Name::new("default", "b");
    assert!(world.cluster.fetch::<ConfigMap>(&name).await.unwrap().is_some());
    // Half of a file that an editor is writing: valid, and less than before.
    let path = world.path("a.yaml");
    fs::write(&path, map("a", "1")).unwrap();
    let ahead = fs::File::options().write(true).open(&path).unwrap();
    ahead.set_modified(world.now()).unwrap();
    assert!(world.cluster.fetch::<ConfigMap>(&name).await.unwrap().is_some());
    ahead.set_modified(world.now() - Duration::from_secs(9)).unwrap();
    assert!(world.cluster.fetch::<ConfigMap>(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_is_written_beside_the_manifest_and_never_into_it() {
    let manifest = format!("# mine\n{}---\n{}", map("a", "1"), map("b", "1"));
    let world = World::new(&[("a.yaml", &manifest)]);
    let (a, b, manager) = (Name::new("default", "a"), Name::new("default", "b"), FieldManager::forcing("m"));
    world.cluster.apply_status::<ConfigMap>(&a, json!({ "set": true }), &manager).await.unwrap();
    world.cluster.apply_status::<ConfigMap>(&b, json!({ "set": false }), &manager).await.unwrap();
    assert_eq!(fs::read_to_string(world.path("a.yaml")).unwrap(), manifest);
    let beside = world.path("a.yaml.status.yaml");
    let text = fs::read_to_string(&beside).unwrap();
    assert!(text.contains("set: true") && text.contains("set: false"), "{text}");
    let before = fs::metadata(&beside).unwrap().modified().unwrap();
    world.cluster.apply_status::<ConfigMap>(&a, json!({ "set": true }), &manager).await.unwrap();
    assert_eq!(fs::metadata(&beside).unwrap().modified().unwrap(), before, "no write when equal");
    let view = match &world.cluster.shared.backend {
        crate::cluster::Backend::Folder(folder) => folder.view(),
        crate::cluster::Backend::Api(_) => panic!("no folder"),
    };
    assert_eq!(view.of::<ConfigMap>()[&a].value["status"], json!({ "set": true }));
    let gone = world.cluster.apply_status::<ConfigMap>(&Name::new("x", "y"), json!({}), &manager).await;
    assert!(gone.unwrap_err().is_not_found());
}

#[tokio::test]
async fn what_is_applied_has_a_file_of_its_own_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new(&[("a.yaml", &map("a", "1"))]);
    let manager = FieldManager::forcing("m");
    let mut secret = Secret::default();
    (secret.metadata.name, secret.metadata.namespace) = (Some("s".into()), Some("n".into()));
    secret.string_data = Some([("key".to_owned(), "value".to_owned())].into());
    let applied = world.cluster.apply(&secret, &manager).await.unwrap();
    let path = world.path("secret.n.s.applied.yaml");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(world.cluster.create(&secret).await.unwrap_err().is_conflict());
    let again = world.cluster.apply(&secret, &manager).await.unwrap();
    assert_eq!(applied.metadata.resource_version, again.metadata.resource_version, "no write when equal");
    world
        .cluster
        .apply_fields::<Secret>(&Name::new("n", "s"), json!({ "type": "x" }), &manager)
        .await
        .unwrap();
    let found: Secret = world.cluster.fetch(&Name::new("n", "s")).await.unwrap().unwrap();
    assert_eq!((found.type_.as_deref(), found.string_data), (Some("x"), secret.string_data.clone()));
    let other = world.cluster.delete::<Secret>(&Name::new("n", "s"), Some("another")).await;
    assert!(other.unwrap_err().is_conflict());
    world.cluster.delete::<Secret>(&Name::new("n", "s"), found.metadata.uid.as_deref()).await.unwrap();
    world.cluster.delete::<Secret>(&Name::new("n", "s"), None).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn what_people_wrote_is_not_changed() {
    let world = World::new(&[("a.yaml", &map("a", "1"))]);
    let mut theirs = ConfigMap::default();
    (theirs.metadata.name, theirs.metadata.namespace) = (Some("a".into()), Some("default".into()));
    let refused = world.cluster.apply(&theirs, &FieldManager::forcing("m")).await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("a.yaml"), "{refused}");
    assert!(
        world.cluster.delete::<ConfigMap>(&Name::new("default", "a"), None).await.unwrap_err().is_conflict()
    );
    let mut bad = theirs.clone();
    bad.metadata.name = Some("../../etc/x".into());
    assert!(world.cluster.create(&bad).await.is_err());
}

#[tokio::test]
async fn kinds_of_the_whole_cluster_have_no_namespace_and_selectors_select() {
    let node = |name: &str, zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, namespace: x, labels: {{zone: {zone}}}}}\n"
        )
    };
    let mut world = World::new(&[("n.yaml", &format!("{}---\n{}", node("one", "a"), node("two", "b")))]);
    let nodes = world.watch::<Node>(Selection::all().with_labels("zone in (b, c)"));
    until(&nodes, |s| s.complete).await;
    assert_eq!(names(&nodes.snapshot()), ["two"]);
    let (meta, follower) = world.cluster.watch_metadata::<Node>(Selection::all());
    world.tasks.spawn(async move { follower.run(CancellationToken::new()).await.unwrap() });
    until(&meta, |s| s.objects.len() == 2).await;
}

#[tokio::test]
async fn of_two_files_that_give_the_same_object_the_first_counts_and_the_second_is_told() {
    let world = World::new(&[("a.yaml", &map("x", "first")), ("b.yaml", &map("x", "second"))]);
    let found: ConfigMap = world.cluster.fetch(&Name::new("default", "x")).await.unwrap().unwrap();
    assert_eq!(found.data.unwrap()["k"], "first");
    let problems = world.cluster.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].detail.contains("a.yaml"), "{problems:?}");
}

#[tokio::test]
async fn an_object_of_the_wrong_shape_stays_as_it_was_and_costs_no_other() {
    let mut world = World::new(&[("a.yaml", &map("a", "1")), ("b.yaml", &map("b", "1"))]);
    let maps = world.watch::<ConfigMap>(Selection::all());
    until(&maps, |s| s.complete).await;
    world.write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: 7\n");
    until(&maps, |s| s.unreadable.len() == 1).await;
    assert_eq!(names(&maps.snapshot()), ["default/a", "default/b"]);
}

#[tokio::test]
async fn one_process_holds_the_lease_and_the_next_takes_it_when_that_one_ends() {
    let mut world = World::new(&[]);
    let name = Name::new("spire", "registrar");
    let (first, keeper) = world.cluster.lease(name.clone(), "one".into());
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    world.tasks.spawn(async move { keeper.run(stopping).await.unwrap() });
    first.changed().wait_for(|state| *state == LeaseState::Held).await.unwrap();
    assert!(first.is_held());
    let (second, keeper) = world.cluster.lease(name, "two".into());
    world.tasks.spawn(async move { keeper.run(CancellationToken::new()).await.unwrap() });
    second.changed().wait_for(|state| matches!(state, LeaseState::Other(_))).await.unwrap();
    stop.cancel();
    second.changed().wait_for(|state| *state == LeaseState::Held).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let deps =
        Deps { clock: Clock::system(), entropy: Entropy::from_seed(1), metrics: Registry::new("test", &[]) };
    let error = Cluster::open(&Source::Folder("/no/such/folder".into()), deps).unwrap_err();
    assert_eq!(error.to_string(), "folder /no/such/folder cannot be used");
}
