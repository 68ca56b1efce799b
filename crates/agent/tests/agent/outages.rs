//! The server lags, hangs or is away, the agent restarts, the clock jumps.

use super::support::*;

#[tokio::test]
async fn a_server_that_lags_behind_withdraws_nothing() {
    let world = World::new().await;
    world.fake.put("api", &own_uid(), |_| ());
    world.fake.put("web", &own_uid(), |_| ());
    let before = world.fake.entries.lock().unwrap().get("web").cloned().unwrap();
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    assert_eq!(ids(&next(&mut stream).await).len(), 2);

    // A replica that has neither the change of one entry nor the other entry.
    *world.fake.entries.lock().unwrap() = [("web".to_owned(), before.clone())].into();
    let noticed = agent.status.wait_for(|status| status.sync_error.is_some());
    timeout(SOON, noticed).await.unwrap().unwrap();
    assert_eq!(agent.x509_once().await.unwrap().svids.len(), 2);

    // It catches up, and now the withdrawal counts.
    let after = vouchsafe_proto::spire::api::types::Entry { revision_number: 2, ..before };
    *world.fake.entries.lock().unwrap() = [("web".to_owned(), after)].into();
    while next(&mut stream).await.svids.len() != 1 {}
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_hanging_server_delays_nothing_that_is_held() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let token = agent.jwt(&["a"]).await.unwrap();
    let svid = agent.x509_once().await.unwrap();
    world.fake.hang.store(true, Ordering::SeqCst);
    world.hands.jump(200);
    sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        let start = Stopwatch::start();
        assert_eq!(agent.jwt(&["a"]).await.unwrap(), token);
        assert_eq!(agent.x509_once().await.unwrap(), svid);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_restarted_agent_serves_from_its_last_state_while_the_server_is_away() {
    let mut world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let svid = agent.x509_once().await.unwrap();
    let token = agent.jwt(&["a"]).await.unwrap();
    agent.stop().await.unwrap();
    let address = world.stop_server().await;

    let mut agent = world.start().await;
    assert_eq!(agent.status.borrow().phase, Phase::Serving, "at once");
    assert_eq!(agent.x509_once().await.unwrap(), svid);
    assert_eq!(agent.jwt(&["a"]).await.unwrap(), token);
    agent.stop().await.unwrap();

    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.dir.path().join("agent-state.sealed")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    // The server comes back: the same SVID goes on, and news arrive.
    world.server = Some(world.fake.listen(Some(address)).await);
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    assert_eq!(next(&mut stream).await, svid);
    world.fake.put("web", &own_uid(), |entry| entry.hint = "new".into());
    let renewed = loop {
        let message = next(&mut stream).await;
        if message.svids[0].x509_svid != svid.svids[0].x509_svid {
            break message;
        }
    };
    assert_eq!(renewed.svids[0].hint, "new");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_at_first_is_waited_for() {
    let mut world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let address = world.stop_server().await;
    let mut agent = world.start_with(world.config(address.to_string())).await;
    let early = agent.x509_once().await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "{early}");
    world.server = Some(world.fake.listen(Some(address)).await);
    let mut stream = agent.x509().await;
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/web"]);
    agent.stop().await.unwrap();
}

/// Both clocks jump, as they do on one machine; the server replaces its authorities, as it must.
async fn a_jump_of_the_clock(seconds: i64) {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let before = leaf(&next(&mut stream).await);
    agent.jwt(&["a"]).await.unwrap();
    let jumped = Stopwatch::start();
    world.hands.jump(seconds);
    world.fake.replace_authorities().await;
    loop {
        let message =
            timeout(Duration::from_secs(60), stream.message()).await.expect("in time").unwrap().unwrap();
        let now = world.clock.unix_now();
        let svid = leaf(&message);
        if svid.serial != before.serial && svid.not_before <= now && now < svid.not_after {
            assert_eq!(message.svids[0].bundle, world.fake.bundle().x509_concatenated());
            break;
        }
    }
    let token = agent.jwt(&["a"]).await.unwrap();
    let validate = ValidateJwtsvidRequest { audience: "a".into(), svid: token[0].clone() };
    agent.client.validate_jwtsvid(with_header(validate)).await.unwrap();
    assert!(jumped.elapsed() < Duration::from_secs(60), "{:?}", jumped.elapsed());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn everything_is_valid_again_after_the_clock_jumped_72_hours_ahead() {
    a_jump_of_the_clock(72 * 3600).await;
}

#[tokio::test]
async fn everything_is_valid_again_after_the_clock_jumped_72_hours_back() {
    a_jump_of_the_clock(-72 * 3600).await;
}

/// SPIRE's agents wait up to four minutes after an outage (their backoff grows without regard to who waits): Pods that
/// start after the server came back have no identity until then.
#[tokio::test]
async fn a_new_workload_has_its_identity_seconds_after_the_server_is_back() {
    let mut world = World::new().await;
    world.fake.put("old", &["unix:uid:4294967294".to_owned()], |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let address = world.stop_server().await;
    let failed = agent.status.wait_for(|status| status.sync_error.is_some());
    timeout(SOON, failed).await.unwrap().unwrap();
    // As many failures as minutes of outage bring.
    sleep(Duration::from_secs(8)).await;
    world.fake.put("web", &own_uid(), |_| ());
    world.server = Some(world.fake.listen(Some(address)).await);
    let back = Stopwatch::start();
    while agent.x509_once().await.is_err() {
        assert!(back.elapsed() < Duration::from_secs(11), "no identity yet");
        sleep(Duration::from_millis(100)).await;
    }
    agent.stop().await.unwrap();
}
