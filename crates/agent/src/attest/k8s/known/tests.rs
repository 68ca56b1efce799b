use futures_util::future::join_all;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_testkit::kubelet::{FakeKubelet, FakePod, Manner};

use super::state::{MAX_STRANGERS, MAX_WAITED_FOR};
use super::trouble::Unreadable;
use super::*;
use crate::attest::k8s::kubelet::KubeletConfig;
use crate::attest::k8s::pod::ContainerId;

const PATIENT: Patience =
    Patience { interval: Duration::from_millis(500), unlisted: Duration::from_secs(30) };

struct World {
    fake: FakeKubelet,
    known: Known,
    registry: Registry,
}

async fn world(patience: Patience) -> World {
    let fake = FakeKubelet::plain().await;
    let registry = Registry::new("spire_agent", &[]);
    let kubelet = Kubelet::new(
        KubeletConfig { port: fake.port(), secure: None },
        vouchsafe_runtime::clock::Clock::system(),
    );
    let known = Known::new(kubelet, patience, false, &Metrics::new(registry.clone()));
    World { fake, known, registry }
}

fn sought(number: usize) -> Sought {
    let pod = FakePod::number(number);
    Sought { id: ContainerId::parse(pod.container_id()).unwrap(), pod: Some(pod.uid.as_str().into()) }
}

impl World {
    fn lists(&self, numbers: std::ops::Range<usize>) {
        let pods: Vec<_> = numbers.map(FakePod::number).collect();
        self.fake.lists(&pods, 0);
    }

    async fn finds(&self, number: usize) -> bool {
        match self.known.find(&sought(number)).await {
            Ok(Answer::Of(pod, true)) => *pod.uid == *FakePod::number(number).uid,
            _ => false,
        }
    }

    /// As if all that is known had been learned so long ago.
    fn age(&self, by: Duration) {
        let mut state = self.known.shared.lock();
        state.asked = state.asked.map(|asked| asked - by);
        for since in [&mut state.silent_since].into_iter().flatten() {
            *since -= by;
        }
    }

    async fn idle(&self) {
        while self.known.shared.lock().running {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn one_list_serves_all_who_wait_and_who_comes_later() {
    let world = world(PATIENT).await;
    world.lists(0..250);
    let found = join_all((0..500).map(|number| world.finds(number % 250))).await;
    assert!(found.into_iter().all(|found| found));
    assert!(world.finds(7).await);
    assert_eq!(world.fake.requests(), 1);
}

#[tokio::test]
async fn a_container_that_appears_wakes_those_who_wait_for_it_and_nobody_else() {
    let patience = Patience { interval: Duration::from_millis(20), ..PATIENT };
    let world = world(patience).await;
    world.lists(0..1);
    let first = join_all((1..20).map(|_| world.finds(1)));
    let other = world.finds(2);
    tokio::pin!(first, other);
    let appear = async {
        while world.fake.answered().len() < 2 {
            tokio::task::yield_now().await;
        }
        world.lists(0..2);
    };
    tokio::select! {
        biased;
        (found, ()) = async { tokio::join!(&mut first, appear) } => assert!(found.into_iter().all(|found| found)),
        _ = &mut other => panic!("it is in no list"),
    }
    let state = world.known.shared.lock();
    assert!(state.waiting.keys().any(|waited| *waited == sought(2)));
    assert!(!state.waiting.keys().any(|waited| *waited == sought(1)), "those who were told have left");
}

#[tokio::test]
async fn requests_begin_half_a_second_apart_whoever_comes() {
    let world = world(PATIENT).await;
    world.lists(0..1);
    assert!(world.finds(0).await);
    world.lists(0..2);
    assert!(world.finds(1).await);
    world.lists(0..3);
    assert!(world.finds(2).await);
    let times = world.fake.request_times();
    assert_eq!(times.len(), 3);
    for pair in times.windows(2) {
        // What arrives may have been sent a little earlier.
        assert!(pair[1] - pair[0] > Duration::from_millis(450), "{:?}", pair[1] - pair[0]);
    }
}

#[tokio::test]
async fn an_old_list_is_refreshed_behind_the_answer_and_a_very_old_one_before_it() {
    let world = world(Patience { interval: Duration::from_millis(1), ..PATIENT }).await;
    world.lists(0..1);
    assert!(world.finds(0).await);
    world.idle().await;
    world.age(FRESH);
    world.fake.answers(Manner::Hangs, Duration::ZERO);
    assert!(world.finds(0).await, "nobody waits for the refreshment");
    world.fake.answers(Manner::Well, Duration::ZERO);
    world.idle().await;
    assert_eq!(world.fake.requests(), 2);
    let mut changed = FakePod::number(0);
    changed.labels.insert("app".to_owned(), "new".to_owned());
    world.fake.lists(&[changed], 0);
    world.age(STALE);
    let answer = world.known.find(&sought(0)).await.unwrap();
    let selectors = answer.selectors(&sought(0), true).unwrap();
    assert!(selectors.iter().any(|selector| selector.value() == "pod-label:app:new"), "{selectors:?}");
}

#[tokio::test]
async fn what_is_known_is_an_answer_while_the_kubelet_is_away() {
    let world = world(Patience { interval: Duration::from_millis(1), ..PATIENT }).await;
    world.lists(0..1);
    assert!(world.finds(0).await);
    world.age(OLD);
    for (manner, says) in [
        (Manner::Closes, "unable to read pods response"),
        (Manner::Status(403, "no".to_owned()), "unexpected status code on pods response: 403 no"),
        (Manner::Says(vec![0; 10_000_000]), "invalid kubelet response: expected an object"),
    ] {
        world.fake.answers(manner, Duration::ZERO);
        assert!(world.finds(0).await);
        let arrived = async {
            while !world.known.complaint().is_some_and(|complaint| complaint.contains(says)) {
                tokio::task::yield_now().await;
            }
        };
        timeout_at(Instant::now() + Duration::from_secs(20), arrived).await.expect(says);
        assert!(world.known.complaint().unwrap().contains("gives no list of pods"));
        assert!(world.finds(0).await);
    }
    let text = world.registry.render();
    assert!(text.contains("spire_agent_vouchsafe_kubelet_pods 1\n"), "{text}");
    world.fake.answers(Manner::Well, Duration::ZERO);
    while world.known.complaint().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_waits_for_a_kubelet_that_has_been_silent_for_long() {
    let world = world(PATIENT).await;
    world.fake.answers(Manner::Hangs, Duration::ZERO);
    let sought = sought(0);
    let waiting = world.known.find(&sought);
    tokio::pin!(waiting);
    let silent = async {
        while world.fake.requests() == 0 {
            tokio::task::yield_now().await;
        }
        world.age(PATIENCE);
    };
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it waits"),
        () = silent => {}
    }
    let began = Instant::now();
    let error = world.known.find(&sought).await.unwrap_err();
    assert!(matches!(&error, FindError::Kubelet { what, .. } if what == "no answer for 5s"), "{error}");
    assert!(began.elapsed() < Duration::from_millis(500));
    world.lists(0..1);
    world.fake.answers(Manner::Well, Duration::ZERO);
    assert!(waiting.await.is_ok(), "who waits already is served when it is back");
}

#[tokio::test]
async fn a_container_of_nobody_is_given_up_and_then_waited_for_briefly() {
    let patience = Patience { interval: Duration::from_millis(5), unlisted: Duration::from_millis(60) };
    let world = world(patience).await;
    let error = world.known.find(&sought(0)).await.unwrap_err();
    assert!(error.to_string().starts_with("no selectors found after max poll attempts"), "{error}");
    let state = || world.known.shared.lock();
    assert!(state().strangers[&sought(0)].given_up && state().waiting.is_empty());
    world.lists(0..1);
    assert!(world.finds(0).await, "it is looked for all the same");
}

#[tokio::test]
async fn who_waits_is_bounded() {
    let world = world(PATIENT).await;
    world.fake.answers(Manner::Hangs, Duration::ZERO);
    {
        let mut state = world.known.shared.lock();
        for number in 0..MAX_WAITED_FOR {
            assert!(state.wait_for(&sought(number)).is_some());
        }
    }
    assert_eq!(world.known.find(&sought(MAX_WAITED_FOR)).await, Err(FindError::TooMany));
}

#[tokio::test]
async fn a_pod_that_the_newer_list_does_not_have_any_more_is_not_answered_from_the_old_one() {
    let patience = Patience { interval: Duration::from_millis(1), unlisted: Duration::from_millis(1200) };
    for age in [STALE, OLD] {
        let world = world(patience).await;
        world.lists(0..2);
        assert!(world.finds(1).await);
        world.idle().await;
        world.lists(0..1);
        world.age(age);
        let found = world.known.find(&sought(1)).await;
        assert!(matches!(found, Err(FindError::Unlisted { .. })), "{found:?}");
    }
}

#[tokio::test]
async fn a_slow_kubelet_is_waited_for_where_the_list_is_old_and_not_where_it_is_only_stale() {
    let world = world(Patience { interval: Duration::from_millis(1), ..PATIENT }).await;
    world.lists(0..1);
    assert!(world.finds(0).await);
    world.idle().await;
    world.fake.answers(Manner::Well, REFRESH_PATIENCE * 2);
    for (age, waits) in [(OLD, true), (STALE, false)] {
        let label = format!("pod-label:age:{}", age.as_secs());
        let mut changed = FakePod::number(0);
        changed.labels.insert("age".to_owned(), age.as_secs().to_string());
        world.fake.lists(&[changed], 0);
        world.age(age);
        let answer = world.known.find(&sought(0)).await.unwrap();
        let selectors = answer.selectors(&sought(0), true).unwrap();
        assert_eq!(selectors.iter().any(|selector| selector.value() == label), waits, "{selectors:?}");
        world.idle().await;
    }
}

#[tokio::test]
async fn who_asks_again_and_again_for_a_container_of_nobody_brings_no_more_lists() {
    let patience = Patience { interval: Duration::from_millis(1), unlisted: Duration::from_millis(30) };
    let world = world(patience).await;
    let looked_through = || {
        let state = world.known.shared.lock();
        state.strangers.get(&sought(0)).map_or(0, |stranger| stranger.looked_through)
    };
    for _ in 0..40 {
        assert!(!world.finds(0).await);
    }
    assert!(looked_through() >= 24, "{}", looked_through());
    let requests = world.fake.requests();
    for _ in 0..20 {
        assert!(!world.finds(0).await);
    }
    assert!(world.fake.requests() <= requests + 1, "{} after {requests}", world.fake.requests());
    world.lists(0..1);
    world.known.shared.lock().schedule.began(Instant::now() - crate::attest::k8s::schedule::MAX_GAP);
    assert!(world.finds(0).await, "it is looked for all the same");
    assert_eq!(looked_through(), 0, "it is a stranger no more");
}

#[test]
fn strangers_are_bounded_and_the_oldest_is_forgotten_first() {
    let (mut state, start) = (State::new(Schedule::new(PATIENT.interval)), Instant::now());
    for number in 0..=MAX_STRANGERS {
        let now = start + Duration::from_millis(number as u64);
        state.remember(&sought(number), 1, true, now);
    }
    assert_eq!(state.strangers.len(), MAX_STRANGERS);
    assert!(!state.strangers.contains_key(&sought(0)) && state.strangers.contains_key(&sought(1)));
}

#[tokio::test]
async fn pods_that_cannot_be_understood_are_logged_when_they_change_and_once_a_minute() {
    let (mut unreadable, start) = (Unreadable::default(), Instant::now());
    let of = |count: usize| Some((count, "it is too large".to_owned()));
    let second = Duration::from_secs(1);
    assert!(!unreadable.note(None, start));
    assert!(unreadable.note(of(1), start));
    assert!(!unreadable.note(of(1), start + second));
    assert!(unreadable.note(of(2), start + second * 2));
    assert!(!unreadable.note(of(2), start + second * 61));
    assert!(unreadable.note(of(2), start + second * 62));
}
