//! The trust bundle: everybody may read it, an operator may add to it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::World;
use support::messages::assert_refused;
use tonic::Code;
use vouchsafe_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, CountBundlesRequest, GetBundleRequest, GetFederatedBundleRequest,
};
use vouchsafe_proto::spire::api::types;

#[tokio::test]
async fn an_appended_authority_is_in_the_bundle_once_and_is_trusted() {
    let (world, elsewhere) = (World::new(), World::new());
    let (server, other) = (world.start().await, elsewhere.start().await);
    let (before, added) = (server.bundle().await, other.bundle().await);
    // Taint is not appended: it is said by the local authority's calls alone.
    let tainted =
        |authority: &types::X509Certificate| types::X509Certificate { tainted: true, ..authority.clone() };
    let tainted_key = |key: &types::JwtKey| types::JwtKey { tainted: true, ..key.clone() };
    let request = AppendBundleRequest {
        x509_authorities: added.x509_authorities.iter().map(tainted).collect(),
        jwt_authorities: added.jwt_authorities.iter().map(tainted_key).collect(),
        ..AppendBundleRequest::default()
    };
    let mut sequence = Vec::new();
    for _ in 0..2 {
        let after = server.admin.bundles().append_bundle(request.clone()).await.unwrap().into_inner();
        let x509 = [&before.x509_authorities[..], &added.x509_authorities].concat();
        let jwt = [&before.jwt_authorities[..], &added.jwt_authorities].concat();
        assert_eq!((&after.x509_authorities, &after.jwt_authorities), (&x509, &jwt));
        assert_eq!(server.bundle().await, after);
        sequence.push(after.sequence_number);
    }
    assert_eq!(sequence, [before.sequence_number + 1; 2], "what changes nothing is no change");

    // Whoever holds an SVID of that authority is let in, and is no agent of this server.
    let agent = other.agent().await;
    let stranger = server.connect(Some(&agent.identity.cell));
    stranger.bundles().get_bundle(GetBundleRequest::default()).await.unwrap();
    let moved = agent.moved_to(&server);
    assert_eq!(
        moved.authorized().await.unwrap_err().code(),
        Code::Unavailable,
        "it trusts the other server only"
    );
}

#[tokio::test]
async fn an_authority_that_is_none_is_refused_and_nothing_is_appended() {
    let world = World::new();
    let server = world.start().await;
    let before = server.bundle().await;
    let check = async |x509: Vec<types::X509Certificate>, jwt: Vec<types::JwtKey>, text| {
        let request = AppendBundleRequest {
            x509_authorities: x509,
            jwt_authorities: jwt,
            ..AppendBundleRequest::default()
        };
        let refused = server.admin.bundles().append_bundle(request).await;
        assert_refused(refused, Code::InvalidArgument, text);
    };
    let garbage = types::X509Certificate { asn1: "garbage".into(), tainted: false };
    check(Vec::new(), Vec::new(), "no authorities to append").await;
    let good = before.x509_authorities[0].clone();
    check(vec![good, garbage], Vec::new(), "failed to convert X.509 authority: …").await;
    let keyless = types::JwtKey { key_id: "k".into(), ..types::JwtKey::default() };
    check(Vec::new(), vec![keyless], "failed to convert JWT authority: …").await;
    assert_eq!(server.bundle().await, before);
}

#[tokio::test]
async fn bundles_are_counted_masked_and_found_by_trust_domain() {
    let world = World::new();
    let server = world.start().await;
    let mut bundles = server.admin.bundles();
    let count = bundles.count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 1);
    let mask = types::BundleMask { sequence_number: true, ..types::BundleMask::default() };
    let masked = bundles.get_bundle(GetBundleRequest { output_mask: Some(mask) }).await.unwrap().into_inner();
    let expected = types::Bundle {
        trust_domain: "example.org".into(),
        sequence_number: server.bundle().await.sequence_number,
        ..types::Bundle::default()
    };
    assert_eq!(masked, expected);

    let mut federated = async |name: &str, code, text| {
        let request = GetFederatedBundleRequest { trust_domain: name.into(), output_mask: None };
        assert_refused(bundles.get_federated_bundle(request).await, code, text);
    };
    federated("other.org", Code::NotFound, "bundle not found").await;
    federated("a b", Code::InvalidArgument, "trust domain argument is not valid: …").await;
    let text = "getting a federated bundle for the server's own trust domain is not allowed";
    federated("example.org", Code::InvalidArgument, text).await;
}
