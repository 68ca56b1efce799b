//! Registration entries: what an operator writes is what is there, and a mistake changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::messages::{assert_item_refused, assert_refused, entry, id, id_of, ids, paths, selector};
use support::{TestServer, World};
use tonic::Code;
use vouchsafe_proto::spire::api::server::entry::v1::list_entries_request::Filter;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    GetEntryRequest, ListEntriesRequest, count_entries_request,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::selector_match::MatchBehavior;
use vouchsafe_testkit::samples::spiffe_id;

/// An entry with every field set that a request may set.
fn full() -> types::Entry {
    types::Entry {
        id: "full".into(),
        selectors: vec![selector("unix:uid:1"), selector("unix:user:a:b")],
        x509_svid_ttl: 60,
        jwt_svid_ttl: 30,
        federates_with: vec!["other.org".into()],
        admin: true,
        downstream: true,
        expires_at: 4_102_444_800,
        dns_names: vec!["db.example.org".into(), "db".into()],
        store_svid: false,
        hint: "ünï \"q\"".into(),
        additional_attributes: Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
        }),
        ..entry("/full", &spiffe_id("/host"))
    }
}

async fn update(
    server: &TestServer,
    entry: types::Entry,
    input_mask: Option<types::EntryMask>,
) -> Result<types::Entry, types::Status> {
    let request = BatchUpdateEntryRequest { entries: vec![entry], input_mask, output_mask: None };
    let answer = server.admin.entries().batch_update_entry(request).await.unwrap().into_inner();
    let [result] = <[_; 1]>::try_from(answer.results).unwrap();
    let status = result.status.unwrap();
    assert_eq!(result.entry.is_some(), status.code == 0);
    result.entry.ok_or(status)
}

async fn get(server: &TestServer, id: &str) -> Result<types::Entry, tonic::Status> {
    let request = GetEntryRequest { id: id.into(), output_mask: None };
    server.admin.entries().get_entry(request).await.map(tonic::Response::into_inner)
}

async fn delete(server: &TestServer, id: &str) -> types::Status {
    let request = BatchDeleteEntryRequest { ids: vec![id.into()] };
    let answer = server.admin.entries().batch_delete_entry(request).await.unwrap().into_inner();
    assert_eq!(answer.results[0].id, id);
    answer.results[0].status.clone().unwrap()
}

#[tokio::test]
async fn an_entry_is_read_as_it_was_written_at_once_until_it_is_deleted() {
    let world = World::new();
    let server = world.start().await;
    server.hold_bundle("other.org").await;
    let created = server.create(full()).await;
    assert!((0..10).contains(&(world.clock.unix_now() - created.created_at)), "{}", created.created_at);
    let expected = types::Entry { created_at: created.created_at, revision_number: 0, ..full() };
    assert_eq!(created, expected);
    assert_eq!(get(&server, "full").await.unwrap(), expected);

    world.hands.jump(100);
    let mask = types::EntryMask { hint: true, ..types::EntryMask::default() };
    let change = types::Entry { id: "full".into(), hint: "new".into(), ..types::Entry::default() };
    let updated = update(&server, change, Some(mask)).await.unwrap();
    let expected = types::Entry { hint: "new".into(), revision_number: 1, ..expected };
    assert_eq!(updated, expected);
    assert_eq!(get(&server, "full").await.unwrap(), expected);
    // Even a change that changes nothing counts.
    let again = update(&server, expected.clone(), None).await.unwrap();
    assert_eq!(again, types::Entry { revision_number: 2, ..expected.clone() });

    assert_eq!(delete(&server, "full").await.code, 0);
    assert_refused(get(&server, "full").await, Code::NotFound, "entry not found");
    assert_item_refused(&delete(&server, "full").await, Code::NotFound, "entry not found");
    let anew = server.create(full()).await;
    assert!(anew.created_at > expected.created_at, "a successor under the same ID can be told apart");
}

#[tokio::test]
async fn a_similar_entry_is_returned_and_nothing_is_added() {
    let world = World::new();
    let server = world.start().await;
    server.hold_bundle("other.org").await;
    let first = server.create(full()).await;
    let mut similar = types::Entry { id: String::new(), hint: "other".into(), ..full() };
    similar.selectors.reverse();
    let (status, found) = server.try_create(similar).await;
    assert_item_refused(&status, Code::AlreadyExists, "similar entry already exists");
    assert_eq!(found, Some(first.clone()));
    let taken = types::Entry { spiffe_id: id("/other"), ..full() };
    let (status, found) = server.try_create(taken).await;
    assert_item_refused(&status, Code::AlreadyExists, "failed to create entry: …");
    assert_eq!(found, None);
    assert_eq!(server.entries().await, [first]);
}

#[tokio::test]
async fn an_entry_that_cannot_be_is_refused_with_its_mistake_and_not_written() {
    let world = World::new();
    let server = world.start().await;
    server.hold_bundle("other.org").await;
    let kept = server.create(types::Entry { id: "kept".into(), ..full() }).await;
    let foreign = |path: &str| Some(types::Spiffeid { trust_domain: "other.org".into(), path: path.into() });
    let check = async |change: &dyn Fn(&mut types::Entry), text: &str| {
        let mut wanted = types::Entry { spiffe_id: id("/wanted"), ..full() };
        change(&mut wanted);
        let (status, entry) = server.try_create(wanted.clone()).await;
        assert_item_refused(&status, Code::InvalidArgument, &format!("failed to convert entry: {text}"));
        assert_eq!(entry, None);
        let wanted = types::Entry { id: "kept".into(), ..wanted };
        let status = update(&server, wanted, None).await.unwrap_err();
        assert_item_refused(&status, Code::InvalidArgument, &format!("failed to convert entry: {text}"));
    };
    let not_a_member = "\"spiffe://other.org/x\" is not a member of trust domain \"example.org\"";
    check(&|e| e.spiffe_id = None, "invalid spiffe ID: request must specify SPIFFE ID").await;
    check(&|e| e.parent_id = None, "invalid parent ID: request must specify SPIFFE ID").await;
    check(&|e| e.spiffe_id = foreign("/x"), &format!("invalid spiffe ID: {not_a_member}")).await;
    check(&|e| e.parent_id = foreign("/x"), &format!("invalid parent ID: {not_a_member}")).await;
    check(&|e| e.spiffe_id = id("/a//b"), "invalid spiffe ID: …").await;
    let text = "invalid spiffe ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; \
                path is empty";
    check(&|e| e.spiffe_id = id(""), text).await;
    check(&|e| e.selectors.clear(), "selector list is empty").await;
    check(&|e| e.selectors[0].r#type.clear(), "missing selector type").await;
    check(&|e| e.selectors[0].value.clear(), "missing selector value").await;
    check(&|e| e.selectors[0].r#type = "a:b".into(), "selector type contains ':'").await;
    let text = "duplicate selector \"unix:uid:1\"; name it once";
    check(&|e| e.selectors[1] = selector("unix:uid:1"), text).await;
    let text = "duplicate DNS name \"db\"; name it once";
    check(&|e| e.dns_names = vec!["db".into(), "db".into()], text).await;
    check(&|e| e.dns_names = vec!["-".into()], "invalid DNS name: …").await;
    check(&|e| e.x509_svid_ttl = -1, "X509-SVID TTL must not be negative (got -1)").await;
    check(&|e| e.federates_with = vec!["a b".into()], "invalid federated trust domain: …").await;

    let (status, _) = server.try_create(types::Entry { id: "a/b".into(), ..full() }).await;
    let text = "failed to convert entry: invalid entry ID: entry ID contains invalid characters";
    assert_item_refused(&status, Code::InvalidArgument, text);
    assert_eq!(server.entries().await, [kept]);
    let status = update(&server, types::Entry { id: "gone".into(), ..full() }, None).await.unwrap_err();
    assert_item_refused(&status, Code::NotFound, "failed to update entry");
    assert_item_refused(&delete(&server, "").await, Code::InvalidArgument, "missing entry ID");
    assert_refused(get(&server, "").await, Code::InvalidArgument, "missing ID");
}

/// One bad item in a batch spoils nothing but itself.
#[tokio::test]
async fn the_items_of_a_batch_are_answered_in_order_each_by_itself() {
    let world = World::new();
    let server = world.start().await;
    let host = spiffe_id("/host");
    let bad = types::Entry { selectors: Vec::new(), ..entry("/bad", &host) };
    let entries = vec![entry("/a", &host), bad, entry("/b", &host), entry("/a", &host)];
    let output_mask = Some(types::EntryMask { spiffe_id: true, ..types::EntryMask::default() });
    let request = BatchCreateEntryRequest { entries, output_mask };
    let results = server.admin.entries().batch_create_entry(request).await.unwrap().into_inner().results;
    let code = |code: Code| i32::from(code);
    let codes: Vec<_> = results.iter().map(|result| result.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, code(Code::InvalidArgument), 0, code(Code::AlreadyExists)]);
    let answered = results[2].entry.clone().unwrap();
    let masked = types::Entry { id: answered.id.clone(), spiffe_id: id("/b"), ..types::Entry::default() };
    assert_eq!(answered, masked);
    assert_eq!(paths(&server.entries().await), ["/a", "/b"]);
}

#[tokio::test]
async fn entries_are_filtered_counted_and_paged() {
    let world = World::new();
    let server = world.start().await;
    server.hold_bundle("f.org").await;
    let (host, other) = (spiffe_id("/host"), spiffe_id("/other"));
    let two = vec![selector("unix:uid:1"), selector("unix:uid:2")];
    for wanted in [
        types::Entry { id: "a".into(), selectors: two, hint: "h".into(), ..entry("/a", &host) },
        types::Entry { id: "b".into(), selectors: vec![selector("unix:uid:1")], ..entry("/b", &host) },
        types::Entry { id: "c".into(), downstream: true, ..entry("/c", &other) },
        types::Entry { id: "d".into(), federates_with: vec!["f.org".into()], ..entry("/a", &other) },
    ] {
        server.create(wanted).await;
    }
    let check = async |filter: Filter, expected: &[&str]| {
        let request = ListEntriesRequest { filter: Some(filter.clone()), ..ListEntriesRequest::default() };
        let found = server.admin.entries().list_entries(request).await.unwrap().into_inner();
        assert_eq!((ids(&found.entries), &*found.next_page_token), (expected.to_vec(), ""));
        let filter = count_entries_request::Filter {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        };
        let request = CountEntriesRequest { filter: Some(filter) };
        let count = server.admin.entries().count_entries(request).await.unwrap().into_inner().count;
        assert_eq!(usize::try_from(count).unwrap(), expected.len());
    };
    let by_selectors = |how: MatchBehavior, texts: &[&str]| Filter {
        by_selectors: Some(types::SelectorMatch {
            selectors: texts.iter().map(|text| selector(text)).collect(),
            r#match: how.into(),
        }),
        ..Filter::default()
    };
    check(Filter::default(), &["a", "b", "c", "d"]).await;
    check(Filter { by_spiffe_id: id("/a"), ..Filter::default() }, &["a", "d"]).await;
    check(Filter { by_parent_id: id_of(&host), ..Filter::default() }, &["a", "b"]).await;
    check(Filter { by_parent_id: id_of(&host), by_spiffe_id: id("/a"), ..Filter::default() }, &["a"]).await;
    check(Filter { by_hint: Some("h".into()), ..Filter::default() }, &["a"]).await;
    check(Filter { by_downstream: Some(true), ..Filter::default() }, &["c"]).await;
    check(by_selectors(MatchBehavior::MatchExact, &["unix:uid:1"]), &["b"]).await;
    check(by_selectors(MatchBehavior::MatchSuperset, &["unix:uid:1"]), &["a", "b"]).await;
    check(by_selectors(MatchBehavior::MatchSubset, &["unix:uid:1", "unix:uid:2"]), &["a", "b"]).await;
    check(by_selectors(MatchBehavior::MatchAny, &["unix:uid:2", "unix:uid:1000"]), &["a", "c", "d"]).await;
    let federated = types::FederatesWithMatch { trust_domains: vec!["f.org".into()], r#match: 0 };
    check(Filter { by_federates_with: Some(federated), ..Filter::default() }, &["d"]).await;

    let request = ListEntriesRequest {
        filter: Some(by_selectors(MatchBehavior::MatchAny, &[])),
        ..ListEntriesRequest::default()
    };
    let refused = server.admin.entries().list_entries(request).await;
    assert_refused(refused, Code::InvalidArgument, "malformed selectors filter: empty selector set");

    let mut request = ListEntriesRequest { page_size: 3, ..ListEntriesRequest::default() };
    for expected in [&["a", "b", "c"][..], &["d"]] {
        let page = server.admin.entries().list_entries(request.clone()).await.unwrap().into_inner();
        assert_eq!(ids(&page.entries), expected);
        request.page_token = page.next_page_token;
    }
    assert_eq!(request.page_token, "");
}
