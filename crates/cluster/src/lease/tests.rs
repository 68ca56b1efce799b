use super::*;
use crate::cluster::tests::cluster_on;
use crate::fake::{Fake, Fault};

const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

struct Candidate {
    leadership: Leadership,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Infallible>>,
}

#[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
fn candidate(fake: &Fake, holder: &str) -> Candidate {
    let (leadership, keeper) = cluster_on(fake).lease(Name::new("spire", "registrar"), holder.into());
    let stop = CancellationToken::new();
    let task = tokio::spawn(keeper.run(stop.clone()));
    Candidate { leadership, stop, task }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn holder(fake: &Fake) -> String {
    fake.get(LEASES, "spire/registrar").unwrap()["spec"]["holderIdentity"].as_str().unwrap().into()
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_the_other_follows_at_once_when_it_stops() {
    let fake = Fake::new();
    let first = candidate(&fake, "one");
    seconds(1).await;
    let second = candidate(&fake, "two");
    seconds(60).await;
    assert!(first.leadership.is_held() && !second.leadership.is_held());
    assert_eq!(second.leadership.state(), LeaseState::Other("one".into()));
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    assert!(!first.leadership.is_held());
    seconds(3).await;
    assert!(second.leadership.is_held());
    assert_eq!(holder(&fake), "two");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_is_followed_when_its_lease_has_run_out_and_not_before() {
    let fake = Fake::new();
    let first = candidate(&fake, "one");
    seconds(1).await;
    let second = candidate(&fake, "two");
    seconds(20).await;
    first.task.abort();
    seconds(LASTS.as_secs() - 4).await;
    assert!(!second.leadership.is_held());
    seconds(8).await;
    assert!(second.leadership.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_leading_before_another_may_start() {
    let fake = Fake::new();
    let first = candidate(&fake, "one");
    seconds(20).await;
    assert!(first.leadership.is_held());
    fake.set_down(true);
    let down = Instant::now();
    while first.leadership.is_held() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(down.elapsed() < LASTS, "{:?}", down.elapsed());
    seconds(1).await;
    assert_eq!(first.leadership.state(), LeaseState::Unknown);
    fake.set_down(false);
    seconds(4).await;
    assert!(first.leadership.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_holder_stops_leading_in_time_also_when_its_call_hangs() {
    let fake = Fake::new();
    let first = candidate(&fake, "one");
    seconds(20).await;
    fake.fail(vec![Fault::Hang; 20]);
    seconds(LASTS.as_secs()).await;
    assert_eq!(first.leadership.state(), LeaseState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn what_rbac_forbids_is_told_apart() {
    let fake = Fake::new();
    fake.fail([Fault::Status(403, None)]);
    let first = candidate(&fake, "one");
    seconds(1).await;
    assert_eq!(first.leadership.state(), LeaseState::Forbidden);
    seconds(31).await;
    assert!(first.leadership.is_held(), "and asked again");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_away_is_not_written_over() {
    let fake = Fake::new();
    let first = candidate(&fake, "one");
    seconds(10).await;
    let mut stolen = fake.get(LEASES, "spire/registrar").unwrap();
    stolen["spec"]["holderIdentity"] = "thief".into();
    fake.put(LEASES, "spire/registrar", stolen);
    seconds(8).await;
    assert_eq!(holder(&fake), "thief");
    assert_eq!(first.leadership.state(), LeaseState::Other("thief".into()));
}
