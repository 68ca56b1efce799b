use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::*;
use crate::cluster::tests::cluster_on;
use crate::fake::{Fake, Fault};
use crate::kind::reference;

const EVENTS: &str = "/apis/events.k8s.io/v1/events";

fn pod(name: &str) -> ObjectReference {
    let mut pod = Pod::default();
    (pod.metadata.name, pod.metadata.namespace) = (Some(name.into()), Some("n".into()));
    reference(&pod)
}

#[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
fn start(fake: &Fake) -> Events {
    let (events, writer) = cluster_on(fake).events("vouchsafe");
    drop(tokio::spawn(writer.run(CancellationToken::new())));
    events
}

fn written(fake: &Fake) -> Vec<Value> {
    fake.all(EVENTS)
}

#[tokio::test(start_paused = true)]
async fn an_event_is_written_once_and_repetitions_are_counted() {
    let fake = Fake::new();
    let events = start(&fake);
    for _ in 0..40 {
        events.record(&pod("a"), EventType::Warning, "Refused", "no such selector");
    }
    events.record(&pod("b"), EventType::Normal, "Registered", "as spiffe://example.org/b");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(written(&fake).len(), 2);
    sleep(SERIES * 2).await;
    let of_a = written(&fake).into_iter().find(|event| event["regarding"]["name"] == "a").unwrap();
    assert_eq!(of_a["series"]["count"], 40);
    assert_eq!(
        (&of_a["type"], &of_a["reason"], &of_a["note"]),
        (&"Warning".into(), &"Refused".into(), &"no such selector".into())
    );
    assert_eq!(of_a["metadata"]["namespace"], "n");
    assert!(of_a["eventTime"].is_string() && of_a["reportingInstance"].is_string());
    let writes = fake.requests().len();
    assert_eq!(writes, 3, "two events and one series");
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_the_caller_nothing_and_the_events_come_afterwards() {
    let fake = Fake::new();
    let events = start(&fake);
    fake.set_down(true);
    let began = Instant::now();
    for index in 0..3_000 {
        events.record(&pod(&format!("p-{index}")), EventType::Normal, "Registered", "x");
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(events.dropped.get(), 2_000);
    sleep(Duration::from_secs(600)).await;
    assert!(fake.requests().len() < 100);
    fake.set_down(false);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(written(&fake).len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_holds_up_no_other() {
    let fake = Fake::new();
    let events = start(&fake);
    fake.fail([Fault::Status(403, None), Fault::Status(422, None), Fault::Status(429, Some(5))]);
    for name in ["a", "b", "c"] {
        events.record(&pod(name), EventType::Normal, "Registered", "x");
    }
    sleep(Duration::from_secs(8)).await;
    assert_eq!(written(&fake).len(), 1);
    assert_eq!(events.dropped.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn events_are_few_per_second() {
    let fake = Fake::new();
    let events = start(&fake);
    for index in 0..500 {
        events.record(&pod(&format!("p-{index}")), EventType::Normal, "Registered", "x");
    }
    sleep(Duration::from_secs(10)).await;
    let count = written(&fake).len();
    assert!((70..=80).contains(&count), "{count}");
}

#[test]
fn texts_are_cut_at_whole_characters() {
    assert_eq!(cut("aäb", 2), "a");
    assert_eq!(cut("aäb", 3), "aä");
    assert_eq!(cut("ab", 9), "ab");
}
