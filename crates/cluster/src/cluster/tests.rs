use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;

use super::*;
use crate::fake::{Fake, Fault};

pub(crate) fn deps() -> Deps {
    let clock = Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    Deps { clock, entropy: Entropy::from_seed(3), metrics: Registry::new("test", &[]) }
}

/// A cluster whose API server is `fake`.
pub(crate) fn cluster_on(fake: &Fake) -> Cluster {
    Cluster { shared: Arc::new(Shared { backend: Backend::Api(Box::new(fake.api())), deps: deps() }) }
}

const MAPS: &str = "/api/v1/configmaps";

async fn fetch(fake: &Fake) -> Result<Option<ConfigMap>, ClusterError> {
    cluster_on(fake).fetch(&Name::new("n", "a")).await
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_no_answer_ends_at_its_deadline() {
    let fake = Fake::new();
    fake.fail([Fault::Hang]);
    let error = fetch(&fake).await.unwrap_err();
    assert_eq!(error.to_string(), "get configmaps n/a: no answer within 10s");
    assert_eq!(error.class(), Class::Transient);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_says_is_told_with_how_long_to_wait() {
    let fake = Fake::new();
    fake.fail([Fault::Status(429, Some(9)), Fault::Status(403, None), Fault::Garbage]);
    let error = fetch(&fake).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Some(429), Some(Duration::from_secs(9))));
    assert!(fetch(&fake).await.unwrap_err().is_forbidden());
    let error = fetch(&fake).await.unwrap_err();
    assert_eq!(error.class(), Class::Peer);
    assert!(!error.to_string().contains("html"), "{error}");
    assert!(fetch(&fake).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_so_already_is_not_written() {
    let fake = Fake::new();
    fake.put(MAPS, "n/a", json!({ "status": { "ready": true } }));
    let (cluster, name, manager) = (cluster_on(&fake), Name::new("n", "a"), FieldManager::forcing("m"));
    cluster.apply_status::<ConfigMap>(&name, json!({ "ready": true }), &manager).await.unwrap();
    assert!(fake.requests().iter().all(|request| request.starts_with("GET")));
    cluster.apply_status::<ConfigMap>(&name, json!({ "ready": false }), &manager).await.unwrap();
    let requests = fake.requests();
    assert!(
        requests[1].starts_with("PATCH") && requests[1].contains("/configmaps/a/status?"),
        "{requests:?}"
    );
    assert!(requests[1].contains("force=true") && requests[1].contains("fieldManager=m"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_their_place_instead_of_flooding_the_api_server() {
    let fake = Fake::new();
    let cluster = cluster_on(&fake);
    let began = tokio::time::Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..400 {
        let cluster = cluster.clone();
        calls.spawn(async move { cluster.fetch::<ConfigMap>(&Name::new("n", "a")).await.is_ok() });
    }
    assert!(calls.join_all().await.into_iter().all(|is_ok| is_ok));
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(5) && took < Duration::from_secs(7),
        "100 at once, then 50 a second: {took:?}"
    );
}
