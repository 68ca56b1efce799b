//! Faults of an API server against the loop, on a paused clock.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio::sync::watch;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;

use super::*;
use crate::fake::{Backup, Fake, Fault, Streaming};
use crate::kind::Name;
use crate::watch::plan::{LACKING_RETRIED, OLDER_IS_TAKEN};
use crate::watch::stream::MAX_LINE;

const MAPS: &str = "/api/v1/configmaps";

struct World {
    fake: Fake,
    objects: Objects<ConfigMap>,
    registry: Registry,
    _tasks: tokio::task::JoinSet<()>,
}

impl World {
    fn start(fake: Fake) -> Self {
        let objects = Objects::new(watch::Sender::new(0));
        let registry = Registry::new("test", &[]);
        let clock = Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let deps = Deps { clock, entropy: Entropy::from_seed(7), metrics: registry.clone() };
        let (api, held) = (fake.api(), objects.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { Remote::new(&api, deps, &Selection::all(), &held).run().await });
        Self { fake, objects, registry, _tasks: tasks }
    }

    /// Watches a source that has `names`, and knows them.
    async fn holding(names: &[&str]) -> Self {
        let world = Self::start(with(names));
        world.until_names(names).await;
        world
    }

    /// Knows `n/b` too, which the source had not yet when the backup was taken.
    async fn past_a_backup() -> (Self, Backup) {
        let world = Self::holding(&["n/a"]).await;
        let backup = world.fake.backup();
        world.fake.put(MAPS, "n/b", json!({}));
        world.until_names(&["n/a", "n/b"]).await;
        (world, backup)
    }

    /// Changes of another kind, by which a source that was set back passes the version that is held.
    fn get_ahead(&self) {
        for _ in 0..10 {
            self.fake.put("/api/v1/pods", "n/p", json!({}));
        }
    }

    fn names(&self) -> Vec<String> {
        self.objects.snapshot().objects.keys().map(Name::to_string).collect()
    }

    /// Waits until the snapshot is as `is_so` says.
    async fn until(&self, what: &str, is_so: impl Fn(&Snapshot<ConfigMap>) -> bool) {
        let waiting = async {
            while !is_so(&self.objects.snapshot()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(Duration::from_secs(1_200), waiting).await.is_err() {
            panic!("{what}: {:?}", self.objects.snapshot());
        }
    }

    async fn until_names(&self, names: &[&str]) {
        self.until(&format!("{names:?}"), |snapshot| {
            snapshot.objects.keys().map(Name::to_string).eq(names.iter().copied())
        })
        .await;
    }

    async fn until_watching(&self) {
        while self.fake.watches() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn restarts(&self, why: &str) -> u64 {
        self.registry.counter("vouchsafe_watch_restarts", &[("kind", "configmaps"), ("why", why)]).get()
    }
}

fn with(names: &[&str]) -> Fake {
    let fake = Fake::new();
    for name in names {
        fake.put(MAPS, name, json!({ "data": { "k": *name } }));
    }
    fake
}

#[tokio::test(start_paused = true)]
async fn objects_are_listed_and_then_heard_of() {
    let world = World::holding(&["n/a", "n/b"]).await;
    let first = world.objects.snapshot();
    assert!(first.complete);
    assert_eq!(first.resource_version.as_ref().unwrap().as_str(), "102");
    world.fake.put(MAPS, "n/c", json!({}));
    world.until_names(&["n/a", "n/b", "n/c"]).await;
    world.fake.remove(MAPS, "n/a");
    world.until_names(&["n/b", "n/c"]).await;
    assert_eq!(first.objects.len(), 2, "a snapshot does not change");
    assert_eq!(world.fake.requests().len(), 1, "one watch, no list");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_complete_before_the_first_list_is() {
    let fake = with(&["n/a"]);
    fake.fail([Fault::Hang, Fault::Status(503, None), Fault::Garbage]);
    let world = World::start(fake);
    let snapshot = world.objects.snapshot();
    assert!(!snapshot.complete && snapshot.confirmed_at.is_none() && snapshot.resource_version.is_none());
    world.until("complete", |snapshot| snapshot.complete).await;
    assert_eq!(world.names(), ["n/a"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_is_complete_and_told_as_a_change() {
    let world = World::start(Fake::new());
    let mut changed = world.objects.changed();
    changed.changed().await.unwrap();
    assert!(world.objects.snapshot().complete);
}

#[tokio::test(start_paused = true)]
async fn where_watches_cannot_begin_with_a_list_it_is_read_in_pages() {
    for streaming in [Streaming::Refused, Streaming::RefusedInStream] {
        let names: Vec<String> = (0..1_203).map(|index| format!("n/{index:05}")).collect();
        let fake = with(&names.iter().map(String::as_str).collect::<Vec<_>>());
        fake.set_streaming(streaming);
        let world = World::start(fake);
        world.until("all", |snapshot| snapshot.complete && snapshot.objects.len() == 1_203).await;
        world.until_watching().await;
        world.fake.put(MAPS, "n/x", json!({}));
        world.until("one more", |snapshot| snapshot.objects.len() == 1_204).await;
        let lists = world.fake.requests().iter().filter(|uri| uri.contains("limit=500")).count();
        assert_eq!(lists, 3, "{streaming:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_closed_is_resumed_and_misses_nothing() {
    let world = World::holding(&["n/a"]).await;
    world.fake.requests();
    world.fake.close_watches();
    world.fake.remove(MAPS, "n/a");
    world.fake.put(MAPS, "n/b", json!({}));
    world.until_names(&["n/b"]).await;
    let requests = world.fake.requests();
    assert!(requests.iter().all(|uri| uri.contains("resourceVersion=101")), "no list: {requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_gone_lists_again_while_the_old_snapshot_stays() {
    let world = World::holding(&["n/a", "n/b"]).await;
    let before = world.objects.snapshot();
    world.fake.close_watches();
    world.fake.remove(MAPS, "n/a");
    world.fake.put(MAPS, "n/c", json!({}));
    world.fake.compact();
    world.fake.fail([Fault::Status(410, None), Fault::Status(500, None)]);
    assert_eq!(world.names(), ["n/a", "n/b"]);
    world.until_names(&["n/b", "n/c"]).await;
    let (name, after) = (Name::new("n", "b"), world.objects.snapshot());
    assert!(Arc::ptr_eq(&before.objects[&name], &after.objects[&name]), "what is unchanged is held once");
    assert!(world.restarts("expired") > 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_minutes_keeps_the_snapshot_and_its_age_and_ends_within_seconds() {
    let world = World::holding(&["n/a"]).await;
    let confirmed = world.objects.snapshot().confirmed_at;
    world.fake.set_down(true);
    world.fake.requests();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let snapshot = world.objects.snapshot();
    assert!(snapshot.complete && snapshot.confirmed_at == confirmed && snapshot.objects.len() == 1);
    let tries = world.fake.requests().len();
    assert!((120..220).contains(&tries), "{tries} tries");
    world.fake.set_down(false);
    world.fake.put(MAPS, "n/b", json!({}));
    let back = Instant::now();
    world.until_names(&["n/a", "n/b"]).await;
    assert!(back.elapsed() <= Duration::from_secs(6), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_call_that_succeeds_wakes_the_followers() {
    let fake = with(&["n/a"]);
    let api = Arc::new(fake.api());
    let deps = |seed| Deps {
        clock: Clock::derived(SystemTime::UNIX_EPOCH),
        entropy: Entropy::from_seed(seed),
        metrics: Registry::new("test", &[]),
    };
    let held: Vec<Objects<ConfigMap>> = (0..20).map(|_| Objects::new(watch::Sender::new(0))).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (seed, objects) in held.iter().cloned().enumerate() {
        let (api, deps) = (Arc::clone(&api), deps(seed as u64));
        tasks.spawn(async move { Remote::new(&api, deps, &Selection::all(), &objects).run().await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.set_down(true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    fake.set_down(false);
    fake.put(MAPS, "n/b", json!({}));
    let found: Option<ConfigMap> = api.fetch(&Name::new("n", "a")).await.unwrap();
    assert!(found.is_some());
    tokio::time::sleep(RECOVERY + Duration::from_millis(100)).await;
    assert!(held.iter().all(|objects| objects.snapshot().objects.len() == 2), "all know within a second");
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_wait_is_followed() {
    let fake = with(&["n/a"]);
    fake.fail([Fault::Status(429, Some(17))]);
    let began = Instant::now();
    let world = World::start(fake);
    world.until_names(&["n/a"]).await;
    let took = began.elapsed().as_secs();
    assert!((17..35).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_costs_nobody_else_and_stays_as_it_was() {
    let world = World::holding(&["n/a", "n/b"]).await;
    world.fake.put(MAPS, "n/a", json!({ "data": 7 }));
    world.until("told", |snapshot| snapshot.unreadable.contains_key(&Name::new("n", "a"))).await;
    let snapshot = world.objects.snapshot();
    assert_eq!(snapshot.objects[&Name::new("n", "a")].data.as_ref().unwrap()["k"], "n/a");
    world.fake.close_watches();
    world.fake.compact();
    world.fake.put(MAPS, "n/c", json!({}));
    world.fake.compact();
    world.until_names(&["n/a", "n/b", "n/c"]).await;
    assert!(world.objects.snapshot().complete);
    world.fake.put(MAPS, "n/a", json!({ "data": {} }));
    world.until("mended", |snapshot| snapshot.unreadable.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_large_withdraws_nothing_and_is_not_held() {
    let world = World::holding(&["n/a"]).await;
    world.until_watching().await;
    world.fake.say(&"x".repeat(MAX_LINE + 1));
    world.fake.put(MAPS, "n/b", json!({}));
    world.until_names(&["n/a", "n/b"]).await;
    world.until("nobody knows what it said", |snapshot| !snapshot.complete).await;
    let began = Instant::now();
    world.until("a list says it", |snapshot| snapshot.complete).await;
    assert!(began.elapsed() <= LACKING_RETRIED + SILENCE * 2, "{:?}", began.elapsed());
}

/// The largest object that an etcd takes as it is set up by default, of a character that is six bytes in JSON.
fn largest() -> String {
    "\\u003c".repeat(3 * 512 * 1024)
}

#[tokio::test(start_paused = true)]
async fn the_largest_object_that_etcd_takes_is_taken() {
    let world = World::holding(&["n/a"]).await;
    world.until_watching().await;
    world.fake.say(&format!(
        r#"{{"type":"ADDED","object":{{"metadata":{{"name":"b","namespace":"n","resourceVersion":"102"}},"data":{{"k":"{}"}}}}}}"#,
        largest()
    ));
    world.until_names(&["n/a", "n/b"]).await;
    let snapshot = world.objects.snapshot();
    assert!(snapshot.complete && snapshot.unreadable.is_empty());
    assert_eq!(world.fake.requests().len(), 1, "no list");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_too_large_is_one_unreadable_object() {
    for streaming in [Streaming::Works, Streaming::Refused] {
        let fake = with(&["n/a", "n/c"]);
        // The metadata comes before the content.
        fake.put(MAPS, "n/b", json!({ "metadata": {}, "zzz": "x".repeat(MAX_LINE) }));
        fake.set_streaming(streaming);
        let world = World::start(fake);
        world.until("listed", |snapshot| snapshot.complete).await;
        let snapshot = world.objects.snapshot();
        assert_eq!(world.names(), ["n/a", "n/c"], "{streaming:?}");
        let why = &snapshot.unreadable[&Name::new("n", "b")];
        assert!(why.contains("larger than"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_set_back_and_is_ahead_again_at_once_is_noticed_within_hours() {
    let (world, backup) = World::past_a_backup().await;
    world.fake.restore(backup);
    world.get_ahead();
    for _ in 0..4 * 60 + 20 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.fake.put("/api/v1/pods", "n/p", json!({}));
        world.fake.bookmark();
    }
    assert_eq!(world.names(), ["n/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_set_back_in_an_outage_and_is_ahead_again_is_noticed_within_minutes() {
    let (world, backup) = World::past_a_backup().await;
    world.fake.set_down(true);
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.fake.restore(backup);
    world.get_ahead();
    world.fake.set_down(false);
    let back = Instant::now();
    world.until_names(&["n/a"]).await;
    assert!(back.elapsed() < Duration::from_secs(700), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_kind_that_always_fails_is_not_asked_more_often_because_others_work() {
    let fake = with(&["n/a"]);
    fake.refuse("/pods", 503);
    let api = Arc::new(fake.api());
    let deps = Deps {
        clock: Clock::derived(SystemTime::UNIX_EPOCH),
        entropy: Entropy::from_seed(1),
        metrics: Registry::new("test", &[]),
    };
    let (follower, mut tasks) = (Arc::clone(&api), tokio::task::JoinSet::new());
    tasks.spawn(async move {
        let pods: Objects<k8s_openapi::api::core::v1::Pod> = Objects::new(watch::Sender::new(0));
        Remote::new(&follower, deps, &Selection::all(), &pods).run().await;
    });
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let found: Option<ConfigMap> = api.fetch(&Name::new("n", "a")).await.unwrap();
        assert!(found.is_some());
    }
    let asked = fake.requests().iter().filter(|uri| uri.contains("/pods")).count();
    assert!((10..60).contains(&asked), "{asked} times in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn garbage_in_a_watch_breaks_the_watch_and_nothing_else() {
    let world = World::holding(&["n/a"]).await;
    world.until_watching().await;
    world.fake.say("<html>502 Bad Gateway</html>");
    world.fake.put(MAPS, "n/b", json!({}));
    world.until_names(&["n/a", "n/b"]).await;
    assert_eq!(world.restarts("failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_set_back_is_believed_after_some_minutes_and_not_before() {
    let (world, backup) = World::past_a_backup().await;
    // A resumed watch is silent then: the API server filters what is older than what was asked for.
    world.fake.restore(backup);
    let began = Instant::now();
    tokio::time::sleep(OLDER_IS_TAKEN).await;
    assert_eq!(world.names(), ["n/a", "n/b"]);
    world.until_names(&["n/a"]).await;
    assert!(began.elapsed() < Duration::from_secs(600), "{:?}", began.elapsed());
    assert!(world.restarts("older") > 3);
    world.fake.put(MAPS, "n/c", json!({}));
    world.until_names(&["n/a", "n/c"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_for_a_moment_withdraws_nothing() {
    let (world, old) = World::past_a_backup().await;
    let new = world.fake.backup();
    world.fake.restore(old);
    world.until("asked again", |_| world.restarts("older") > 1).await;
    world.fake.restore(new);
    world.fake.put(MAPS, "n/c", json!({}));
    world.until_names(&["n/a", "n/b", "n/c"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_of_an_older_history_is_not_taken() {
    let world = World::holding(&["n/a"]).await;
    world.until_watching().await;
    world.fake.say(
        r#"{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"55"}}}"#,
    );
    world.until("noticed", |_| world.restarts("older") == 1).await;
    assert_eq!(world.names(), ["n/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_is_given_up_after_the_source_was_asked() {
    let world = World::holding(&["n/a"]).await;
    world.fake.requests();
    tokio::time::sleep(SILENCE * 2 + Duration::from_secs(2)).await;
    assert_eq!(world.restarts("silent"), 1);
    let requests = world.fake.requests();
    assert!(requests[0].contains("limit=1") && requests[1].contains("resourceVersion=101"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_confirm_what_is_held_without_a_change() {
    let world = World::holding(&["n/a"]).await;
    world.until_watching().await;
    let (before, changes) = (world.objects.snapshot(), world.objects.changed());
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.fake.put("/api/v1/pods", "n/p", json!({}));
        world.fake.bookmark();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = world.objects.snapshot();
    assert!(after.confirmed_at > before.confirmed_at);
    assert_eq!(after.resource_version.as_ref().unwrap().as_str(), "111");
    assert!(!changes.has_changed().unwrap());
    assert_eq!(world.restarts("silent"), 0);
}
