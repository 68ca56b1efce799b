//! The cluster crate against the real API server: with streaming lists and without, through outages and faults.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use vouchsafe_cluster::k8s_openapi::api::core::v1::ConfigMap;
use vouchsafe_cluster::{Cluster, Deps, FieldManager, LeaseState, Name, Objects, Selection, Source};
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_testkit::Stopwatch;
use vouchsafe_testkit::kubernetes::{Etcd, Fault, Kubernetes, Part, Rule, Settings, TokenSettings};

use suite::{map, until};

#[path = "../../../cluster/tests/conformance/suite.rs"]
mod suite;

/// A cluster as one process sees it, with what it counts.
fn open(kubeconfig: &Path) -> (Cluster, Registry) {
    let registry = Registry::new("test", &[]);
    let entropy = Entropy::from_os().unwrap();
    let deps = Deps { clock: Clock::system(), entropy, metrics: registry.clone() };
    (Cluster::open(&Source::Kubeconfig(kubeconfig.into()), deps).unwrap(), registry)
}

/// Follows the ConfigMaps of a namespace for as long as the tasks live.
fn follow(cluster: &Cluster, namespace: &str, tasks: &mut JoinSet<()>) -> Objects<ConfigMap> {
    let (maps, follower) = cluster.watch::<ConfigMap>(Selection::namespace(namespace));
    tasks.spawn(async move { follower.run(CancellationToken::new()).await.unwrap() });
    maps
}

fn restarts(registry: &Registry, namespace: &str, why: &str) -> u64 {
    let kind = format!("configmaps {namespace}");
    registry.counter("vouchsafe_watch_restarts", &[("kind", &kind), ("why", why)]).get()
}

async fn create(cluster: &Cluster, namespace: &str, names: impl IntoIterator<Item = String>) {
    for name in names {
        cluster.create(&map(&Name::new(namespace, name), &[("a", "1")])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
async fn the_api_server_passes_the_suite_with_streaming_lists_and_without() {
    for etcd in [Etcd::Module, Etcd::Debian] {
        let world = Kubernetes::start_with(Settings { etcd, controllers: vec![], ..Settings::default() });
        let namespace = world.namespace("suite");
        let (cluster, registry) = open(&world.admin());
        suite::run(&cluster, &namespace, "real").await;

        create(&cluster, &namespace, (0..1_150).map(|index| format!("many-{index}"))).await;
        let mut tasks = JoinSet::new();
        let maps = follow(&cluster, &namespace, &mut tasks);
        until(&maps, |snapshot| snapshot.complete).await;
        let listed = maps.snapshot().objects.keys().filter(|name| name.name.starts_with("many-")).count();
        assert_eq!(listed, 1_150, "{etcd:?}");
        assert_eq!(
            restarts(&registry, &namespace, "no_streaming") == 0,
            etcd.lets_lists_stream(),
            "{etcd:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
async fn an_outage_keeps_what_is_held_and_ends_by_itself() {
    for etcd in [Etcd::Module, Etcd::Debian] {
        let world = Kubernetes::start_with(Settings { etcd, controllers: vec![], ..Settings::default() });
        let namespace = world.namespace("outage");
        let (cluster, registry) = open(&world.admin());
        create(&cluster, &namespace, ["a".into(), "b".into()]).await;
        let mut tasks = JoinSet::new();
        let maps = follow(&cluster, &namespace, &mut tasks);
        until(&maps, |snapshot| snapshot.objects.len() == 2).await;

        world.stop_api_server();
        let error = cluster.fetch::<ConfigMap>(&Name::new(&namespace, "a")).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient);
        // What the API server had sent before its end is read by now.
        let confirmed = maps.snapshot().confirmed_at;
        sleep(Duration::from_secs(20)).await;
        let held = maps.snapshot();
        assert!(held.complete && held.objects.len() == 2 && held.confirmed_at == confirmed);

        world.start_api_server();
        let began = Instant::now();
        cluster.delete::<ConfigMap>(&Name::new(&namespace, "a"), None).await.unwrap();
        // A call is a measure of how busy the machine is.
        let (call, back) = (began.elapsed(), Stopwatch::start());
        until(&maps, |snapshot| snapshot.objects.len() == 1).await;
        // The call that succeeded has woken the follower; what it resumes from is too old after a restart (410).
        let soon = Duration::from_secs(25).max(20 * call);
        assert!(back.elapsed() < soon, "{etcd:?}: {:?}, a call alone: {call:?}", back.elapsed());
        assert_eq!(restarts(&registry, &namespace, "older"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
async fn an_api_server_that_hangs_is_noticed_by_calls_and_survived_by_watches() {
    let world = Kubernetes::start_with(Settings { controllers: vec![], ..Settings::default() });
    let namespace = world.namespace("hanging");
    let (cluster, _) = open(&world.admin());
    let mut tasks = JoinSet::new();
    let maps = follow(&cluster, &namespace, &mut tasks);
    until(&maps, |snapshot| snapshot.complete).await;
    world.freeze(Part::ApiServer);
    let began = Stopwatch::start();
    let error = cluster.fetch::<ConfigMap>(&Name::new(&namespace, "a")).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(maps.snapshot().complete);
    world.thaw(Part::ApiServer);
    create(&cluster, &namespace, ["a".into()]).await;
    until(&maps, |snapshot| snapshot.objects.contains_key(&Name::new(&namespace, "a"))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
async fn what_goes_wrong_on_the_way_costs_time_and_no_object() {
    let world =
        Kubernetes::start_with(Settings { etcd: Etcd::Module, controllers: vec![], ..Settings::default() });
    let namespace = world.namespace("faults");
    let front = world.front();
    let kubeconfig =
        world.write_kubeconfig_for("front", &serde_json::json!({ "token": "admin-token" }), &front.url());
    let rule = |fault| Rule { matches: "watch=true".into(), fault, times: 1 };
    front.add(rule(Fault::Hangup));
    front.add(rule(Fault::Garbage(b"<html>".to_vec())));
    let (cluster, registry) = open(&kubeconfig);
    create(&cluster, &namespace, ["a".into()]).await;
    let mut tasks = JoinSet::new();
    let maps = follow(&cluster, &namespace, &mut tasks);
    until(&maps, |snapshot| snapshot.complete && snapshot.objects.len() == 1).await;
    assert!(restarts(&registry, &namespace, "failed") + restarts(&registry, &namespace, "closed") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
async fn managers_tokens_and_permissions_are_as_the_api_server_has_them() {
    let world = Kubernetes::shared();
    let namespace = world.namespace("rights");
    let (cluster, _) = open(&world.admin());
    let name = Name::new(&namespace, "shared");
    let (one, two) = (
        FieldManager { name: "one".into(), force: false },
        FieldManager { name: "two".into(), force: false },
    );
    cluster.apply(&map(&name, &[("a", "1")]), &one).await.unwrap();
    let conflict = cluster.apply(&map(&name, &[("a", "2")]), &two).await.unwrap_err();
    assert!(conflict.is_conflict() && conflict.to_string().contains("one"), "{conflict}");
    cluster.apply(&map(&name, &[("a", "2")]), &FieldManager::forcing("two")).await.unwrap();

    world.service_account(&namespace, "web");
    let token = world.token(&namespace, "web", TokenSettings { audiences: &["spire-server"], pod: None });
    let review = cluster.review_token(&token, &["spire-server".into()]).await.unwrap();
    assert_eq!(review.authenticated, Some(true));
    assert_eq!(review.audiences, Some(vec!["spire-server".to_owned()]));
    let wrong = cluster.review_token(&token, &["another".into()]).await.unwrap();
    assert_ne!(wrong.authenticated, Some(true));

    let (plain, _) = open(&world.kubeconfig_of_service_account(&namespace, "web"));
    let forbidden = plain.fetch::<ConfigMap>(&name).await.unwrap_err();
    assert!(forbidden.is_forbidden() && forbidden.class() == Class::Permanent, "{forbidden}");
    let (leadership, keeper) = plain.lease(Name::new(&namespace, "l"), "me".into());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { keeper.run(CancellationToken::new()).await.unwrap() });
    leadership.changed().wait_for(|state| *state == LeaseState::Forbidden).await.unwrap();
}
