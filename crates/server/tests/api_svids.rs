//! What is issued: it verifies, says what the entry says, and goes to nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::agent::{key_and_csr, parsed, verify};
use support::messages::{assert_item_refused, assert_refused, entry, id};
use support::{Api, World, received};
use tonic::{Code, Status};
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::Subject;
use vouchsafe_ca::x509::csr::{CsrTemplate, create_csr, create_csr_local};
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintJwtsvidRequest, MintX509svidRequest, NewX509svidParams,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::jwt_svid::JwtSvid;
use vouchsafe_types::spiffe_id::SpiffeId;

/// A token whose signature is of an authority in `bundle`.
fn verified(token: &types::Jwtsvid, bundle: &types::Bundle) -> JwtSvid {
    let parsed = JwtSvid::parse_unverified(&token.token).unwrap();
    let bundle = received(bundle);
    vouchsafe_ca::jwt::verify(&parsed, bundle.jwt_authority(&parsed.key_id).expect("kid in bundle")).unwrap();
    assert_eq!((Some(token.issued_at), token.expires_at), (parsed.issued_at, parsed.expires_at));
    parsed
}

/// A CSR whose signature is one bit off.
async fn forged() -> Bytes {
    let mut csr = key_and_csr().await.1.to_vec();
    *csr.last_mut().unwrap() ^= 1;
    csr.into()
}

#[tokio::test]
async fn an_x509_svid_is_what_its_entry_says_and_verifies_with_the_bundle() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let wanted = types::Entry {
        x509_svid_ttl: 600,
        dns_names: vec!["db.example.org".into(), "db".into()],
        ..entry("/db", &agent.id)
    };
    let entry_id = server.create(wanted).await.id;
    let (key, csr) = key_and_csr().await;
    let issued = agent.x509_with(&entry_id, csr).await.unwrap().unwrap();
    let svid = parsed(&issued);
    assert_eq!(verify(&agent.bundle().await.unwrap(), &svid, &world.clock).unwrap().path(), "/db");
    assert_eq!((issued.id.clone(), issued.expires_at), (id("/db"), svid.not_after));
    let now = world.clock.unix_now();
    assert!((595..=600).contains(&(svid.not_after - now)), "{}", svid.not_after - now);
    let leaf = Certificate::parse(&svid.chain[0]).unwrap();
    assert_eq!(leaf.dns_names, ["db.example.org", "db"]);
    assert_eq!(leaf.public_key_der, vouchsafe_ca::signer::Signer::public_key_der(&key));
}

#[tokio::test]
async fn a_batch_answers_each_request_by_itself() {
    let world = World::new();
    let server = world.start().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let own = server.create(entry("/db", &agent.id)).await.id;
    let foreign = server.create(entry("/web", &other.id)).await.id;
    let (_, csr) = key_and_csr().await;
    let check = async |entry_id: &str, csr: Bytes, code, text| {
        assert_item_refused(&agent.x509_with(entry_id, csr).await.unwrap().unwrap_err(), code, text);
    };
    check("", csr.clone(), Code::InvalidArgument, "missing entry ID").await;
    check(&own, Bytes::new(), Code::InvalidArgument, "missing CSR").await;
    check(&own, "no CSR".into(), Code::InvalidArgument, "malformed CSR: …").await;
    check(&own, forged().await, Code::InvalidArgument, "invalid CSR signature: …").await;
    let absent = "entry not found or not authorized";
    check("nope", csr.clone(), Code::NotFound, absent).await;
    check(&foreign, csr.clone(), Code::NotFound, absent).await;

    let params = [&*own, &foreign, &own]
        .map(|entry_id| NewX509svidParams { entry_id: entry_id.into(), csr: csr.clone() });
    let request = BatchNewX509svidRequest { params: params.to_vec() };
    let results = agent.api.svids().batch_new_x509svid(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|result| result.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, 5, 0]);

    let empty = agent.api.svids().batch_new_x509svid(BatchNewX509svidRequest::default()).await;
    assert_refused(empty, Code::InvalidArgument, "missing parameters");
}

#[tokio::test]
async fn a_jwt_svid_is_what_its_entry_says_and_verifies_with_the_bundle() {
    let world = World::new();
    let server = world.start().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let attributes =
        types::entry::AdditionalAttributes { jwt_svid_include_jti: true, disable_x509_svid_prefetch: false };
    let wanted =
        types::Entry { jwt_svid_ttl: 60, additional_attributes: Some(attributes), ..entry("/db", &agent.id) };
    let entry_id = server.create(wanted).await.id;
    let bundle = agent.bundle().await.unwrap();
    let token = verified(&agent.jwt(&entry_id, &["a", "b"]).await.unwrap(), &bundle);
    assert_eq!((token.id.path(), token.audience.as_slice()), ("/db", &["a".to_owned(), "b".into()][..]));
    assert_eq!(token.expires_at - token.issued_at.unwrap(), 60);
    assert_eq!(token.claims["iss"], "https://issuer.example.org");
    token.check_times(world.clock.unix_now(), Duration::ZERO).unwrap();
    let again = verified(&agent.jwt(&entry_id, &["a"]).await.unwrap(), &bundle);
    assert_ne!(token.claims["jti"], again.claims["jti"]);

    let nobody = agent.jwt(&entry_id, &[]).await;
    assert_refused(nobody, Code::InvalidArgument, "at least one audience is required");
    let foreign = other.jwt(&entry_id, &["a"]).await;
    assert_refused(foreign, Code::NotFound, "entry not found or not authorized");
}

async fn mint(api: &Api, csr: impl Into<Bytes>, ttl: i32) -> Result<types::X509svid, Status> {
    let request = MintX509svidRequest { csr: csr.into(), ttl };
    Ok(api.svids().mint_x509svid(request).await?.into_inner().svid.unwrap())
}

#[tokio::test]
async fn an_operator_mints_x509_svids_with_ttl_and_dns_names() {
    let world = World::new();
    let server = world.start().await;
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let uri = SpiffeId::parse("spiffe://example.org/minted").unwrap();
    let dns_names = ["one.example.org".to_owned(), "two".into()];
    let subject = Subject { common_name: "somebody".into(), ..Subject::default() };
    let template = CsrTemplate { subject: &subject, uri: Some(&uri), dns_names: &dns_names };
    let csr = create_csr_local(&key, &template).unwrap();
    for (ttl, expected) in [(0, 3600), (120, 120)] {
        let svid = parsed(&mint(&server.admin, csr.clone(), ttl).await.unwrap());
        assert_eq!(verify(&server.bundle().await, &svid, &world.clock).unwrap(), uri);
        let left = svid.not_after - world.clock.unix_now();
        assert!((expected - 5..=expected).contains(&left), "{left}");
        assert_eq!(Certificate::parse(&svid.chain[0]).unwrap().dns_names, dns_names);
    }
}

#[tokio::test]
async fn an_operator_is_told_what_is_wrong_with_a_csr() {
    let world = World::new();
    let server = world.start().await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let of = async |uri: &str| create_csr(&key, Some(&SpiffeId::parse(uri).unwrap())).await.unwrap();
    let check = async |csr: Bytes, ttl, text| {
        assert_refused(mint(&server.admin, csr, ttl).await, Code::InvalidArgument, text);
    };
    check(Bytes::new(), 0, "missing CSR").await;
    check("no CSR".into(), 0, "malformed CSR: …").await;
    check(forged().await, 0, "failed to verify CSR signature: …").await;
    check(key_and_csr().await.1, 0, "CSR URI SAN is required").await;
    check(
        of("spiffe://other.org/x").await.into(),
        0,
        "CSR URI SAN is invalid: \"spiffe://other.org/x\" is not a member of trust domain \"example.org\"",
    )
    .await;
    check(
        of("spiffe://example.org/spire/server").await.into(),
        0,
        "CSR URI SAN is invalid: \"spiffe://example.org/spire/server\" is not a workload in trust domain \
         \"example.org\"; path is in the reserved namespace",
    )
    .await;
    check(of("spiffe://example.org/x").await.into(), -1, "ttl must not be negative (got -1)").await;
}

#[tokio::test]
async fn an_operator_mints_jwt_svids() {
    let world = World::new();
    let server = world.start().await;
    let mint = async |path: &str, audience: &[&str], ttl| {
        let audience = audience.iter().map(|name| (*name).to_owned()).collect();
        let request = MintJwtsvidRequest { id: id(path), audience, ttl };
        server.admin.svids().mint_jwtsvid(request).await.map(|answer| answer.into_inner().svid.unwrap())
    };
    for (ttl, expected) in [(0, 300), (90, 90)] {
        let token = verified(&mint("/minted", &["a"], ttl).await.unwrap(), &server.bundle().await);
        assert_eq!((token.id.path(), token.expires_at - token.issued_at.unwrap()), ("/minted", expected));
    }
    let refused = mint("/minted", &[], 0).await;
    assert_refused(refused, Code::InvalidArgument, "at least one audience is required");
    let refused = mint("", &["a"], 0).await;
    let text = "invalid SPIFFE ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; \
                path is empty";
    assert_refused(refused, Code::InvalidArgument, text);
}
