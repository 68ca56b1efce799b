//! JWT-SVIDs.

use super::support::*;

#[tokio::test]
async fn a_token_is_issued_once_validated_and_renewed_while_the_old_one_is_still_handed_out() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let token = agent.jwt(&["b", "a"]).await.unwrap();
    assert_eq!(agent.jwt(&["a", "b"]).await.unwrap(), token, "the order of the audience does not matter");
    assert_eq!(world.fake.jwts.load(Ordering::SeqCst), 1);

    let validate = ValidateJwtsvidRequest { audience: "a".into(), svid: token[0].clone() };
    let valid = agent.client.validate_jwtsvid(with_header(validate.clone())).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/web");
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    let other = ValidateJwtsvidRequest { audience: "c".into(), ..validate };
    let invalid = agent.client.validate_jwtsvid(with_header(other)).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);

    world.hands.jump(200);
    let fake = Arc::clone(&world.fake);
    eventually("renewal ahead of the end", move || fake.jwts.load(Ordering::SeqCst) == 2).await;
    sleep(Duration::from_millis(100)).await;
    assert_ne!(agent.jwt(&["a", "b"]).await.unwrap(), token);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_asked_for_before_its_entry_changed_is_given_to_nobody_who_asks_after() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    world.fake.hand_out_jwts.send_replace(false);
    let mut early = connect(&world.config(String::new()).socket_path).await;
    let request = with_header(JwtsvidRequest { audience: vec!["a".into()], spiffe_id: String::new() });
    let mut before = tokio::task::JoinSet::new();
    before.spawn(async move { early.fetch_jwtsvid(request).await });
    let fake = Arc::clone(&world.fake);
    eventually("the first request", move || fake.jwts.load(Ordering::SeqCst) == 1).await;

    world.fake.put("web", &own_uid(), |entry| entry.spiffe_id.as_mut().unwrap().path = "/other".into());
    while ids(&agent.x509_once().await.unwrap()) != ["spiffe://example.org/other"] {}
    let release = async {
        sleep(Duration::from_millis(300)).await;
        world.fake.hand_out_jwts.send_replace(true);
    };
    let (after, ()) = tokio::join!(agent.jwt(&["a"]), release);
    let subject = |token: &str| JwtSvid::parse_unverified(token).unwrap().id.to_string();
    assert_eq!(subject(&after.unwrap()[0]), "spiffe://example.org/other");
    assert_eq!(
        subject(&before.join_next().await.unwrap().unwrap().unwrap().into_inner().svids[0].svid),
        "spiffe://example.org/web"
    );
    let cached = agent.jwt(&["a"]).await.unwrap();
    assert_eq!(subject(&cached[0]), "spiffe://example.org/other", "the late one did not replace it");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_workload_that_asks_for_ever_new_audiences_keeps_no_other_from_its_token() {
    let world = World::new().await;
    world.fake.put("noisy", &own_uid(), |_| ());
    world.fake.put("quiet", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    world.fake.hand_out_jwts.send_replace(false);
    let token = |id: &str, audience: String| {
        let spiffe_id = format!("spiffe://example.org/{id}");
        let request = with_header(JwtsvidRequest { audience: vec![audience], spiffe_id });
        let mut client = agent.client.clone();
        async move { client.fetch_jwtsvid(request).await }
    };
    // It gives up at once and asks again.
    for n in 0..300 {
        drop(timeout(Duration::from_millis(2), token("noisy", n.to_string())).await);
    }
    let fake = Arc::clone(&world.fake);
    let asked = move |id: &str| fake.jwts_asked.lock().unwrap().iter().filter(|asked| *asked == id).count();
    let mut quiet = tokio::task::JoinSet::new();
    quiet.spawn(token("quiet", "a".to_owned()));
    eventually("the other's request", || asked("quiet") == 1).await;
    assert!((1..=16).contains(&asked("noisy")), "{} requests for one entry", asked("noisy"));
    world.fake.hand_out_jwts.send_replace(true);
    quiet.join_next().await.unwrap().unwrap().unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_wants_a_jti_gets_a_token_of_its_own_for_each_request() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |entry| {
        let attributes = vouchsafe_proto::spire::api::types::entry::AdditionalAttributes {
            jwt_svid_include_jti: true,
            ..Default::default()
        };
        entry.additional_attributes = Some(attributes);
    });
    let mut agent = world.start().await;
    agent.serving().await;
    for _ in 0..3 {
        agent.jwt(&["a"]).await.unwrap();
    }
    assert_eq!(world.fake.jwts.load(Ordering::SeqCst), 3, "a cached token was handed out twice");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_is_asked_for_again_while_the_server_lags_and_no_longer_than_there_is_an_entry() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentNotActive);
    let fake = Arc::clone(&world.fake);
    let mut asking = agent.client.clone();
    let request = with_header(JwtsvidRequest { audience: vec!["a".into()], spiffe_id: String::new() });
    let mut asked = tokio::task::JoinSet::new();
    asked.spawn(async move { asking.fetch_jwtsvid(request).await });
    sleep(Duration::from_millis(500)).await;
    assert!(asked.try_join_next().is_none(), "it gave up");
    *fake.denial.lock().unwrap() = None;
    timeout(SOON, asked.join_next()).await.unwrap().unwrap().unwrap().unwrap();

    // What can never succeed is not tried again.
    world.fake.jwt_refusal.lock().unwrap().replace(Status::invalid_argument("never"));
    let before = world.fake.jwts_asked.lock().unwrap().len();
    let refused = timeout(Duration::from_secs(5), agent.jwt(&["b"])).await.unwrap().unwrap_err();
    assert!(refused.message().contains("never"), "{refused}");
    assert_eq!(world.fake.jwts_asked.lock().unwrap().len(), before + 1);
    agent.stop().await.unwrap();
}
