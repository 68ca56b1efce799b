//! What a workload gets.

use super::support::*;

#[tokio::test]
async fn a_workload_gets_its_identities_and_every_change_of_them() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |entry| entry.hint = "main".into());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let first = next(&mut stream).await;
    assert_eq!(ids(&first), ["spiffe://example.org/web"]);
    assert_eq!(first.svids[0].hint, "main");
    assert_eq!(first.svids[0].bundle, world.fake.bundle().x509_concatenated());
    assert!(vouchsafe_ca::key::PrivateKey::from_pkcs8(&first.svids[0].x509_svid_key).is_ok());

    world.fake.put("api", &own_uid(), |_| ());
    let both = next(&mut stream).await;
    assert_eq!(
        ids(&both),
        ["spiffe://example.org/api", "spiffe://example.org/web"],
        "only when both are issued"
    );

    world.fake.remove("api");
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/web"]);
    world.fake.remove("web");
    let end = timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::PermissionDenied, "no identity issued"));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn many_entries_come_in_pages_and_their_svids_ahead_of_need() {
    let world = World::new().await;
    world.fake.whole_list.store(7, Ordering::SeqCst);
    for n in 0..40 {
        world.fake.put(&format!("e{n:02}"), &["unix:uid:4294967294".to_owned()], |_| ());
    }
    world.fake.put("mine", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let fake = Arc::clone(&world.fake);
    eventually("issuing ahead of need", move || fake.issued.load(Ordering::SeqCst) == 41).await;
    assert_eq!(ids(&agent.x509_once().await.unwrap()), ["spiffe://example.org/mine"]);
    let metrics = agent.registry.render();
    assert!(metrics.contains("spire_agent_sync_entries_total 41"), "{metrics}");
    assert!(metrics.contains("spire_agent_manager_sync_fetch_entries_updates{status=\"OK\"}"), "{metrics}");
    sleep(Duration::from_millis(600)).await;
    assert_eq!(world.fake.issued.load(Ordering::SeqCst), 41, "nothing is issued twice");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn requests_that_cannot_be_answered_say_why() {
    let world = World::new().await;
    let mut agent = world.start().await;
    agent.serving().await;
    let refused = |code: Code, message: &str, status: Status| {
        assert_eq!((status.code(), status.message()), (code, message))
    };

    let bare = agent.client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    refused(Code::InvalidArgument, "security header missing from request", bare);
    let mut twice = with_header(X509BundlesRequest {});
    twice.metadata_mut().append("workload.spiffe.io", MetadataValue::from_static("true"));
    let twice = agent.client.fetch_x509_bundles(twice).await.unwrap_err();
    refused(Code::InvalidArgument, "security header missing from request", twice);
    refused(Code::PermissionDenied, "no identity issued", agent.x509_once().await.unwrap_err());
    refused(Code::InvalidArgument, "audience must be specified", agent.jwt(&[]).await.unwrap_err());
    refused(Code::PermissionDenied, "no identity issued", agent.jwt(&["a"]).await.unwrap_err());
    let bad_id = with_header(JwtsvidRequest { audience: vec!["a".into()], spiffe_id: "nonsense".into() });
    let bad_id = agent.client.fetch_jwtsvid(bad_id).await.unwrap_err();
    assert!(
        bad_id.code() == Code::InvalidArgument
            && bad_id.message().starts_with("invalid requested SPIFFE ID: ")
    );
    let no_svid = ValidateJwtsvidRequest { audience: "a".into(), svid: String::new() };
    let no_svid = agent.client.validate_jwtsvid(with_header(no_svid)).await.unwrap_err();
    refused(Code::InvalidArgument, "svid must be specified", no_svid);
    let bundles = agent.client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap_err();
    refused(Code::PermissionDenied, "no identity issued", bundles);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn without_identity_the_own_bundle_is_given_only_where_that_is_allowed() {
    let world = World::new().await;
    let address = world.server.as_ref().unwrap().address.to_string();
    let config = Config { allow_unauthenticated_verifiers: true, ..world.config(address) };
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    let mut bundles =
        agent.client.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.unwrap().into_inner();
    let message = bundles.message().await.unwrap().unwrap();
    assert_eq!(message.bundles["spiffe://example.org"], world.fake.bundle().x509_concatenated());
    let mut bundles =
        agent.client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap().into_inner();
    let keys: serde_json::Value =
        serde_json::from_slice(&bundles.message().await.unwrap().unwrap().bundles["spiffe://example.org"])
            .unwrap();
    assert_eq!(keys["keys"][0]["kid"], "kid-1");
    assert_eq!(agent.x509_once().await.unwrap_err().code(), Code::PermissionDenied);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_svid_is_renewed_at_half_of_its_life_with_a_new_key() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    let mut stream = agent.x509().await;
    let first = next(&mut stream).await;
    world.hands.jump(1_500);
    assert!(timeout(Duration::from_secs(6), stream.message()).await.is_err(), "too early");
    world.hands.jump(500);
    let second = next(&mut stream).await;
    assert_ne!(leaf(&first).serial, leaf(&second).serial);
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    let fake = Arc::clone(&world.fake);
    eventually("renewal of the agent's own SVID", move || fake.renewals.load(Ordering::SeqCst) == 1).await;
    agent.stop().await.unwrap();
}
