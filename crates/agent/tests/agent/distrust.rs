//! What tainted and revoked authorities signed.

use super::support::*;

/// A stream whose SVID and a token were signed by the authorities that are old now.
async fn rotated() -> (World, RunningAgent, Streaming<X509svidResponse>, X509svidResponse, Vec<String>) {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let svid = next(&mut stream).await;
    let token = agent.jwt(&["a"]).await.unwrap();
    world.fake.rotate().await;
    let both = next(&mut stream).await;
    assert_eq!(both.svids[0].x509_svid, svid.svids[0].x509_svid, "a new authority replaces nothing");
    assert_eq!(agent.jwt(&["a"]).await.unwrap(), token);
    (world, agent, stream, both, token)
}

async fn replaced(stream: &mut Streaming<X509svidResponse>, before: &X509svidResponse) {
    while next(stream).await.svids[0].x509_svid == before.svids[0].x509_svid {}
}

#[tokio::test]
async fn what_tainted_authorities_signed_is_replaced_at_once_the_agents_own_svid_too() {
    let (world, mut agent, mut stream, svid, token) = rotated().await;
    world.fake.taint_old();
    replaced(&mut stream, &svid).await;
    let fake = Arc::clone(&world.fake);
    eventually("renewal of the agent's own SVID", move || fake.renewals.load(Ordering::SeqCst) == 1).await;
    let deadline = Instant::now() + SOON;
    while agent.jwt(&["a"]).await.unwrap() == token {
        assert!(Instant::now() < deadline, "the token of a tainted key is still given out");
        sleep(Duration::from_millis(20)).await;
    }
    let issued = world.fake.issued.load(Ordering::SeqCst);
    sleep(Duration::from_millis(600)).await;
    assert_eq!(world.fake.issued.load(Ordering::SeqCst), issued, "nothing is issued twice");
    assert_eq!(world.fake.renewals.load(Ordering::SeqCst), 1);
    let metrics = agent.registry.render();
    for name in [
        "spire_agent_cache_manager_tainted_x509_svids_workload_sum 1",
        "spire_agent_cache_manager_tainted_jwt_svids_workload_sum 1",
        "spire_agent_cache_manager_workload_process_tainted_x509_svids{status=\"OK\"} 1",
        "spire_agent_cache_manager_workload_process_tainted_jwt_svids{status=\"OK\"} 1",
        "spire_agent_agent_key_manager_get_key{status=\"OK\"} 2",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_nobody_verifies_any_more_is_replaced() {
    let (world, mut agent, mut stream, svid, token) = rotated().await;
    world.fake.revoke_old();
    replaced(&mut stream, &svid).await;
    let deadline = Instant::now() + SOON;
    while agent.jwt(&["a"]).await.unwrap() == token {
        assert!(Instant::now() < deadline, "the token of a key that is gone is still given out");
        world.hands.jump(1);
        sleep(Duration::from_millis(100)).await;
    }
    let fake = Arc::clone(&world.fake);
    eventually("renewal of the agent's own SVID", move || fake.renewals.load(Ordering::SeqCst) == 1).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_signs_with_a_tainted_authority_is_not_asked_again_and_again() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let svid = next(&mut stream).await;
    world.fake.change_bundle(|bundle| bundle.x509_authorities[0].tainted = true);
    replaced(&mut stream, &svid).await;
    let fake = Arc::clone(&world.fake);
    eventually("renewal of the agent's own SVID", move || fake.renewals.load(Ordering::SeqCst) == 1).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.fake.issued.load(Ordering::SeqCst), 2);
    assert_eq!(world.fake.renewals.load(Ordering::SeqCst), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_agents_own_svid_is_replaced_however_young_it_is() {
    let world = World::new().await;
    let mut agent = world.start().await;
    agent.serving().await;
    world.hands.jump(2_000);
    let renewed = async |times: usize| {
        let fake = Arc::clone(&world.fake);
        eventually("a renewal", move || fake.renewals.load(Ordering::SeqCst) == times).await;
    };
    renewed(1).await;
    world.fake.rotate().await;
    world.fake.taint_old();
    renewed(2).await;
    agent.stop().await.unwrap();
}
