//! The agent's own SVID: what ends the agent, and what does not.

use super::support::*;

#[tokio::test]
async fn a_used_join_token_ends_the_agent_with_a_clear_error() {
    let world = World::new().await;
    world.fake.tokens.lock().unwrap().clear();
    let mut agent = world.start().await;
    let error = timeout(SOON, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("join token does not exist or has already been used"), "{cause}");
    assert!(cause.contains("create another"), "{cause}");
}

#[tokio::test]
async fn a_join_token_is_not_spent_on_an_attestation_without_a_bundle() {
    let world = World::new().await;
    world.fake.bundle_refusals.store(1, Ordering::SeqCst);
    let mut agent = world.start().await;
    agent.serving().await;
    assert_eq!(world.fake.attestations_asked.load(Ordering::SeqCst), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_bundle_that_cannot_be_read_is_no_reason_to_believe_whoever_answers() {
    let world = World::new().await;
    let address = world.server.as_ref().unwrap().address.to_string();
    for broken in ["no base64", "bm8gUEVN"] {
        let data = serde_json::json!({"bundle": [broken]}).to_string();
        std::fs::write(world.dir.path().join("agent-data.json"), data).unwrap();
        let config = Config { bootstrap: Bootstrap::Insecure, ..world.config(address.clone()) };
        let error = world.refused(config).await;
        assert!(error.contains("agent-data.json") && error.contains("move it away"), "{error}");
    }
    assert_eq!(world.fake.attestations_asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_banned_agent_forgets_its_svid_and_ends() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    next(&mut stream).await;
    let state = world.dir.path().join("agent-state.sealed");
    eventually("the state on disk", || state.exists()).await;
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentBanned);
    let error = timeout(SOON, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("banned"), "{error:?}");
    let data: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.dir.path().join("agent-data.json")).unwrap()).unwrap();
    assert_eq!(data["svid"], serde_json::json!([]));
    let state = world.dir.path().join("agent-state.sealed");
    assert!(!state.exists(), "what a banned agent served is still there");

    // It does not come back with what it had, whether the server is there or not.
    let mut agent = world.start_with(world.config("127.0.0.1:1".to_owned())).await;
    assert_eq!(agent.x509_once().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(agent.status.borrow().phase, Phase::Attesting);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_evicted_agent_ends_unless_the_server_only_stumbled() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    next(&mut agent.x509().await).await;
    let deny = |reason| *world.fake.denial.lock().unwrap() = reason;
    deny(Some(Reason::AgentNotAttested));
    sleep(Duration::from_secs(4)).await;
    assert_eq!(ids(&agent.x509_once().await.unwrap()), ["spiffe://example.org/web"]);
    deny(None);
    timeout(SOON, agent.status.wait_for(|status| status.sync_error.is_none())).await.unwrap().unwrap();
    deny(Some(Reason::AgentNotAttested));
    let error = timeout(SOON * 2, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("does not know this agent"), "{cause}");
}

#[tokio::test]
async fn an_agent_whose_own_svid_ended_goes_on_serving() {
    let world = World::new().await;
    world.fake.x509_ttl.store(100 * 3600, Ordering::SeqCst);
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let svid = agent.x509_once().await.unwrap();
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentExpired);
    world.hands.jump(2 * 3600);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(agent.x509_once().await.unwrap(), svid);
    assert!(agent.ended.try_join_next().is_none(), "the agent ended");
    let asked = world.fake.renewals_asked.load(Ordering::SeqCst);
    assert!((1..30).contains(&asked), "{asked} attempts to renew in six seconds");
    agent.stop().await.unwrap();
}
