//! Foreign bundles and federation relationships as operators write and read them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::messages::{assert_item_refused, assert_refused, entry, id};
use support::{TestServer, World};
use tonic::Code;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle;
use vouchsafe_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use vouchsafe_proto::spire::api::server::trustdomain::v1 as td;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

async fn foreign(name: &str) -> types::Bundle {
    let world = World::new();
    let bundle = world.start().await.bundle().await;
    types::Bundle { trust_domain: name.into(), sequence_number: 42, refresh_hint: 60, ..bundle }
}

async fn set(server: &TestServer, bundle: types::Bundle) -> (types::Status, Option<types::Bundle>) {
    let request = bundle::BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
    let answer = server.admin.bundles().batch_set_federated_bundle(request).await.unwrap().into_inner();
    let [result] = <[_; 1]>::try_from(answer.results).unwrap();
    (result.status.unwrap(), result.bundle)
}

async fn list(server: &TestServer, page_size: i32, page_token: &str) -> (Vec<String>, String) {
    let request = bundle::ListFederatedBundlesRequest {
        output_mask: Some(types::BundleMask::default()),
        page_size,
        page_token: page_token.into(),
    };
    let answer = server.admin.bundles().list_federated_bundles(request).await.unwrap().into_inner();
    (answer.bundles.into_iter().map(|bundle| bundle.trust_domain).collect(), answer.next_page_token)
}

async fn delete(server: &TestServer, name: &str, mode: Mode) -> types::Status {
    let request =
        bundle::BatchDeleteFederatedBundleRequest { trust_domains: vec![name.into()], mode: mode.into() };
    let answer = server.admin.bundles().batch_delete_federated_bundle(request).await.unwrap().into_inner();
    let [result] = <[_; 1]>::try_from(answer.results).unwrap();
    assert_eq!(result.trust_domain, name);
    result.status.unwrap()
}

#[tokio::test]
async fn a_foreign_bundle_is_set_as_it_is_listed_in_pages_and_counted() {
    let world = World::new();
    let server = world.start().await;
    let given = foreign("c.example").await;
    for name in ["c.example", "b.example", "d.example"] {
        let given = types::Bundle { trust_domain: name.into(), ..given.clone() };
        let (status, stored) = set(&server, given.clone()).await;
        assert_eq!((status.code, status.message.as_str(), stored), (0, "OK", Some(given)));
    }
    assert_eq!(list(&server, 0, "").await, (names(&["b.example", "c.example", "d.example"]), String::new()));
    let (first, token) = list(&server, 2, "").await;
    assert_eq!(first, names(&["b.example", "c.example"]));
    assert_eq!(list(&server, 2, &token).await, (names(&["d.example"]), String::new()));
    let count = server.admin.bundles().count_bundles(bundle::CountBundlesRequest {}).await.unwrap();
    assert_eq!(count.into_inner().count, 4);
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_foreign_bundle_is_created_once_and_updated_by_mask() {
    let world = World::new();
    let server = world.start().await;
    let mut bundles = server.admin.bundles();
    let mut given = foreign("b.example").await;
    given.x509_authorities[0].tainted = true;
    let update = bundle::BatchUpdateFederatedBundleRequest {
        bundle: vec![types::Bundle {
            refresh_hint: 7,
            sequence_number: 1,
            trust_domain: "b.example".into(),
            ..types::Bundle::default()
        }],
        input_mask: Some(types::BundleMask { refresh_hint: true, ..types::BundleMask::default() }),
        output_mask: None,
    };
    let early = bundles.batch_update_federated_bundle(update.clone()).await.unwrap().into_inner();
    assert_item_refused(early.results[0].status.as_ref().unwrap(), Code::NotFound, "bundle not found");

    let create =
        bundle::BatchCreateFederatedBundleRequest { bundle: vec![given.clone(); 2], output_mask: None };
    let created = bundles.batch_create_federated_bundle(create).await.unwrap().into_inner();
    let [first, second] = <[_; 2]>::try_from(created.results).unwrap();
    given.x509_authorities[0].tainted = false;
    assert_eq!(first.bundle, Some(given.clone()), "taint is not for others to say");
    assert_item_refused(&second.status.unwrap(), Code::AlreadyExists, "bundle already exists");

    let updated = bundles.batch_update_federated_bundle(update).await.unwrap().into_inner();
    assert_eq!(updated.results[0].bundle, Some(types::Bundle { refresh_hint: 7, ..given }));
}

#[tokio::test]
async fn what_is_not_a_foreign_bundle_is_refused_in_the_words_of_spire() {
    let world = World::new();
    let server = world.start().await;
    let refused = async |change: fn(&mut types::Bundle), text: &str| {
        let mut given = foreign("b.example").await;
        change(&mut given);
        let (status, bundle) = set(&server, given).await;
        assert_item_refused(&status, Code::InvalidArgument, text);
        assert_eq!(bundle, None);
    };
    let own = "setting a federated bundle for the server's own trust domain is not allowed";
    refused(|b| b.trust_domain = "example.org".into(), own).await;
    refused(|b| b.trust_domain = "a b".into(), "trust domain argument is not valid: …").await;
    let text = "failed to convert bundle: unable to parse X.509 authority: …";
    refused(|b| b.x509_authorities[0].asn1 = "x".into(), text).await;
    let text = "failed to convert bundle: unable to parse JWT authority: missing key ID";
    refused(|b| b.jwt_authorities[0].key_id.clear(), text).await;
    assert_eq!(list(&server, 0, "").await.0, names(&[]));

    let own = "removing the bundle for the server trust domain is not allowed";
    assert_item_refused(&delete(&server, "example.org", Mode::Delete).await, Code::InvalidArgument, own);
    let missing = delete(&server, "b.example", Mode::Restrict).await;
    assert_item_refused(&missing, Code::NotFound, "bundle not found");
    let request = bundle::BatchDeleteFederatedBundleRequest { trust_domains: Vec::new(), mode: 3 };
    let refused = server.admin.bundles().batch_delete_federated_bundle(request).await;
    let text = "failed to parse deletion mode: unhandled delete mode \"3\"";
    assert_refused(refused, Code::InvalidArgument, text);
}

#[tokio::test]
async fn deleting_a_bundle_does_to_its_entries_what_the_mode_says() {
    let world = World::new();
    let server = world.start().await;
    let given = foreign("b.example").await;
    let federating = types::Entry {
        federates_with: vec!["b.example".into()],
        parent_id: id("/host"),
        ..entry("/w", &"spiffe://example.org/host".parse().unwrap())
    };
    set(&server, given.clone()).await;
    server.create(federating).await;
    let text = "failed to delete federated bundle: datastore-sql: cannot delete bundle; federated with 1 \
                registration entries";
    assert_item_refused(&delete(&server, "b.example", Mode::Restrict).await, Code::FailedPrecondition, text);

    assert_eq!(delete(&server, "b.example", Mode::Dissociate).await.code, 0);
    let entries = server.entries().await;
    assert_eq!((entries[0].federates_with.len(), entries[0].revision_number), (0, 1));

    set(&server, given).await;
    let again = types::Entry { federates_with: vec!["b.example".into()], ..entries[0].clone() };
    let request = vouchsafe_proto::spire::api::server::entry::v1::BatchUpdateEntryRequest {
        entries: vec![again],
        ..Default::default()
    };
    server.admin.entries().batch_update_entry(request).await.unwrap();
    assert_eq!(delete(&server, "b.example", Mode::Delete).await.code, 0);
    assert!(server.entries().await.is_empty());
}

fn relationship(name: &str, url: &str) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: name.into(),
        bundle_endpoint_url: url.into(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})),
        trust_domain_bundle: None,
    }
}

async fn create(
    server: &TestServer,
    given: types::FederationRelationship,
) -> (types::Status, Option<types::FederationRelationship>) {
    let request = td::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![given],
        output_mask: None,
    };
    let answer = server.admin.trust_domains().batch_create_federation_relationship(request).await;
    let [result] = <[_; 1]>::try_from(answer.unwrap().into_inner().results).unwrap();
    (result.status.unwrap(), result.federation_relationship)
}

#[tokio::test]
async fn a_relationship_is_created_with_a_bundle_read_changed_and_deleted() {
    let world = World::new();
    let server = world.start().await;
    let mut api = server.admin.trust_domains();
    let mut given = relationship("b.example", "https://127.0.0.1:1/b");
    given.trust_domain_bundle = Some(foreign("b.example").await);
    let (status, created) = create(&server, given.clone()).await;
    assert_eq!((status.code, created), (0, Some(given.clone())));
    create(&server, relationship("a.example", "https://127.0.0.1:1/a")).await;

    let get = td::GetFederationRelationshipRequest { trust_domain: "b.example".into(), output_mask: None };
    let got = api.get_federation_relationship(get.clone()).await.unwrap().into_inner();
    assert_eq!(got, given);
    let listed = td::ListFederationRelationshipsRequest {
        output_mask: Some(types::FederationRelationshipMask::default()),
        page_size: 1,
        page_token: String::new(),
    };
    let listed = api.list_federation_relationships(listed).await.unwrap().into_inner();
    let bare = types::FederationRelationship { trust_domain: "a.example".into(), ..Default::default() };
    assert_eq!((listed.federation_relationships, listed.next_page_token.as_str()), (vec![bare], "a.example"));

    let update = td::BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![relationship("b.example", "https://127.0.0.1:1/new")],
        input_mask: Some(types::FederationRelationshipMask {
            bundle_endpoint_url: true,
            ..Default::default()
        }),
        output_mask: None,
    };
    let updated = api.batch_update_federation_relationship(update).await.unwrap().into_inner();
    let wanted =
        types::FederationRelationship { bundle_endpoint_url: "https://127.0.0.1:1/new".into(), ..given };
    assert_eq!(updated.results[0].federation_relationship, Some(wanted));

    let delete = td::BatchDeleteFederationRelationshipRequest { trust_domains: vec!["b.example".into(); 2] };
    let deleted = api.batch_delete_federation_relationship(delete).await.unwrap().into_inner();
    assert_eq!(deleted.results[0].status.as_ref().unwrap().code, 0);
    let second = deleted.results[1].status.as_ref().unwrap();
    assert_item_refused(second, Code::NotFound, "federation relationship not found");
    let gone = api.get_federation_relationship(get).await;
    assert_refused(gone, Code::NotFound, "federation relationship does not exist");
    assert_eq!(list(&server, 0, "").await.0, names(&["b.example"]), "the bundle stays");
}

#[tokio::test]
async fn what_cannot_be_a_relationship_is_refused_in_the_words_of_spire() {
    let world = World::new();
    let server = world.start().await;
    let refused = async |given: types::FederationRelationship, code: Code, text: &str| {
        let (status, relationship) = create(&server, given).await;
        assert_item_refused(&status, code, text);
        assert_eq!(relationship, None);
    };
    let invalid = Code::InvalidArgument;
    let own = "unable to create federation relationship for server trust domain";
    refused(relationship("example.org", "https://a.example"), invalid, own).await;
    let text = "failed to convert federation relationship: bundle endpoint URL must use the https scheme";
    refused(relationship("b.example", "http://b.example"), invalid, text).await;
    let text = "failed to convert federation relationship: failed to parse trust domain: …";
    refused(relationship("B", "https://b.example"), invalid, text).await;

    create(&server, relationship("b.example", "https://127.0.0.1:1")).await;
    let text = "failed to create federation relationship: datastore-sql: UNIQUE constraint failed: \
                federated_trust_domains.trust_domain";
    refused(relationship("b.example", "https://127.0.0.1:1"), Code::Internal, text).await;

    let mut api = server.admin.trust_domains();
    let update = td::BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![relationship("c.example", "https://c.example")],
        input_mask: None,
        output_mask: None,
    };
    let updated = api.batch_update_federation_relationship(update).await.unwrap().into_inner();
    let text =
        "failed to update federation relationship: unable to fetch federation relationship: record not found";
    assert_item_refused(updated.results[0].status.as_ref().unwrap(), Code::Internal, text);
    let refresh = td::RefreshBundleRequest { trust_domain: "c.example".into() };
    let text = "no relationship with trust domain \"c.example\"";
    assert_refused(api.refresh_bundle(refresh).await, Code::NotFound, text);
}

#[tokio::test]
async fn relationships_and_foreign_bundles_survive_a_restart() {
    let world = World::new();
    let server = world.start().await;
    let mut given = relationship("b.example", "https://127.0.0.1:1");
    given.trust_domain_bundle = Some(foreign("b.example").await);
    create(&server, given.clone()).await;
    server.stop().await.unwrap();
    let server = world.start().await;
    let get = td::GetFederationRelationshipRequest { trust_domain: "b.example".into(), output_mask: None };
    let got = server.admin.trust_domains().get_federation_relationship(get).await.unwrap();
    assert_eq!(got.into_inner(), given);
}

#[tokio::test]
async fn an_entry_federates_only_with_trust_domains_whose_bundle_is_held() {
    let world = World::new();
    let server = world.start().await;
    let parent = "spiffe://example.org/host".parse().unwrap();
    let given = types::Entry { federates_with: vec!["b.example".into()], ..entry("/w", &parent) };
    let (status, _) = server.try_create(given.clone()).await;
    let text = "failed to create entry: unable to find federated bundle \"spiffe://b.example\"";
    assert_item_refused(&status, Code::Internal, text);
    server.hold_bundle("b.example").await;
    let created = server.create(given).await;
    let other = types::Entry { federates_with: vec!["c.example".into()], ..created };
    let update = async |input_mask| {
        let request = vouchsafe_proto::spire::api::server::entry::v1::BatchUpdateEntryRequest {
            entries: vec![other.clone()],
            input_mask,
            output_mask: None,
        };
        let answer = server.admin.entries().batch_update_entry(request).await.unwrap().into_inner();
        answer.results[0].status.clone().unwrap()
    };
    let text = "failed to update entry: unable to find federated bundle \"spiffe://c.example\"";
    assert_item_refused(&update(None).await, Code::Internal, text);
    let hint_only = types::EntryMask { hint: true, ..types::EntryMask::default() };
    assert_eq!(update(Some(hint_only)).await.code, 0, "what is not written is not looked at");
}
