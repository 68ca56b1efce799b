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

#[tokio::test]
async fn an_svid_of_an_authority_that_the_bundle_lacks_waits_for_the_bundle_while_the_old_one_is_good() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let before = next(&mut stream).await;
    let announced = world.fake.rotate_unannounced().await;
    // A new revision: the SVID is issued anew.
    world.fake.put("web", &own_uid(), |entry| entry.hint = "new".into());
    let fake = Arc::clone(&world.fake);
    eventually("the new SVID", move || fake.issued.load(Ordering::SeqCst) == 2).await;
    let (fake, syncs) = (Arc::clone(&world.fake), world.fake.pushing.syncs.load(Ordering::SeqCst));
    eventually("the old bundle again", move || fake.pushing.syncs.load(Ordering::SeqCst) >= syncs + 4).await;
    let held = agent.x509_once().await.unwrap();
    assert_eq!(held.svids[0].x509_svid, before.svids[0].x509_svid, "nobody could verify the new one");
    world.fake.change_bundle(|bundle| {
        bundle.append(announced.x509_authorities.clone(), announced.jwt_authorities.clone());
    });
    let new = loop {
        let message = next(&mut stream).await;
        if message.svids[0].x509_svid != before.svids[0].x509_svid {
            break message;
        }
    };
    assert!(new.svids[0].bundle.len() > before.svids[0].bundle.len());
    assert_eq!(world.fake.issued.load(Ordering::SeqCst), 2);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_authority_that_no_bundle_ever_has_delays_only_the_first_identity_and_briefly() {
    let world = World::new().await;
    let mut agent = world.start().await;
    agent.serving().await;
    world.fake.rotate_unannounced().await;
    world.fake.put("web", &own_uid(), |_| ());
    let start = Stopwatch::start();
    // Until the agent has the entry there is nothing to wait for.
    while agent.x509_once().await.is_err() {
        assert!(start.elapsed() < SOON, "no identity");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let start = Stopwatch::start();
    world.fake.put("late", &own_uid(), |_| ());
    while agent.x509_once().await.unwrap().svids.len() < 2 {
        assert!(start.elapsed() < Duration::from_millis(1_500), "the authority is waited for again");
        sleep(Duration::from_millis(20)).await;
    }
    agent.stop().await.unwrap();
}
