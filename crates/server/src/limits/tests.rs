use super::*;
use futures_util::future::join_all;

const RENEW: &str = "/spire.api.server.agent.v1.Agent/RenewAgent";
const STATUS: &str = "/spire.api.server.agent.v1.Agent/PostStatus";

fn limits(config: RateLimits) -> (Limits, Registry) {
    let metrics = Registry::new("spire_server", &[]);
    (Limits::new(config, &metrics), metrics)
}

fn address(last: u8) -> Option<PeerKey> {
    Some(PeerKey::address([10, 0, 0, last].into()))
}

#[tokio::test(start_paused = true)]
async fn who_is_too_fast_waits_and_others_do_not() {
    let (limits, metrics) = limits(RateLimits::default());
    let began = Instant::now();
    for outcome in join_all((0..30).map(|_| limits.wait(STATUS, address(1), 1))).await {
        outcome.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_millis(1990), "{:?}", began.elapsed());
    let began = Instant::now();
    limits.wait(STATUS, address(2), 1).await.unwrap();
    limits.wait(STATUS, None, 1).await.unwrap();
    limits.wait("/spire.api.server.entry.v1.Entry/ListEntries", address(1), 1).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    let text = metrics.render();
    assert!(text.contains("spire_server_rateLimit_agent_v1_agent_post_status{status=\"OK\"} 32"), "{text}");
    assert!(text.contains("spire_server_rateLimit_agent_v1_agent_post_status_elapsed_time"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn more_at_once_than_there_ever_is_is_refused_in_the_words_of_spire() {
    let (limits, _) = limits(RateLimits::default());
    let refused = limits.wait(BATCH_NEW_X509_SVID, address(1), 501).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let text =
        "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst size (500)";
    assert_eq!(refused.message(), text);
    limits.wait(BATCH_NEW_X509_SVID, address(1), 500).await.unwrap();
    limits.wait(BATCH_NEW_X509_SVID, None, 501).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_is_told_when_to_come_back() {
    let (limits, _) = limits(RateLimits::default());
    let outcomes = join_all((0..400).map(|_| limits.wait(STATUS, address(1), 1))).await;
    let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 91, "309 have their turn within 30 s");
    let told = refused[89].get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(told.is_some_and(|delay| delay >= SECOND), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_one_address_that_wait_are_bounded() {
    let (limits, _) = limits(RateLimits::default());
    limits.wait(RENEW, address(1), 500).await.unwrap();
    let outcomes = join_all((0..MAX_WAITING + 7).map(|_| limits.wait(RENEW, address(1), 1))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 7);
    let waiting = limits.groups.iter().filter_map(|(_, budget)| budget.as_ref());
    assert!(waiting.map(|budget| budget.waiting.lock().unwrap().len()).all(|len| len == 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_switched_off_does_not_limit() {
    let (limits, _) = limits(RateLimits { attestation: false, signing: false });
    let began = Instant::now();
    for _ in 0..10 {
        limits.wait(RENEW, address(1), 10_000).await.unwrap();
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(limits.attestations.is_none());
}
