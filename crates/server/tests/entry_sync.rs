//! What agents get of the entries: all that is theirs, in pages that a large agent can compare.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::World;
use support::messages::{assert_refused, entry, ids, paths};
use tonic::Code;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, SyncAuthorizedEntriesRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_testkit::samples::spiffe_id;

#[tokio::test]
async fn five_hundred_and_eleven_entries_sync_by_revisions_and_then_by_ids() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let entries = (0..511).map(|n| entry(&format!("/w/{n}"), &agent.id)).collect();
    let request = BatchCreateEntryRequest { entries, output_mask: None };
    let results = server.admin.entries().batch_create_entry(request).await.unwrap().into_inner().results;
    let created: Vec<_> = results.into_iter().map(|result| result.entry.unwrap()).collect();
    let changed = types::Entry { hint: "new".into(), ..created[7].clone() };
    let request = BatchUpdateEntryRequest { entries: vec![changed.clone()], ..Default::default() };
    server.admin.entries().batch_update_entry(request).await.unwrap();

    let mask = types::EntryMask { spiffe_id: true, revision_number: true, ..types::EntryMask::default() };
    let first = SyncAuthorizedEntriesRequest { output_mask: Some(mask), ids: Vec::new() };
    let wanted = vec![changed.id.clone(), "unknown".into()];
    let second = SyncAuthorizedEntriesRequest { output_mask: None, ids: wanted };
    let all = created.iter().map(|entry| entry.id.clone()).collect();
    let third = SyncAuthorizedEntriesRequest { output_mask: None, ids: all };
    let answers = agent.sync(vec![first, second, third]).await.unwrap();
    let shape: Vec<_> = answers.iter().map(|a| (a.entry_revisions.len(), a.entries.len(), a.more)).collect();
    assert_eq!(shape, [(500, 0, true), (11, 0, false), (0, 1, false), (0, 500, true), (0, 11, false)]);

    let revisions: Vec<_> = answers[..2].iter().flat_map(|answer| &answer.entry_revisions).collect();
    for revision in &revisions {
        let entry = created.iter().find(|entry| entry.id == revision.id).unwrap();
        let expected = i64::from(entry.id == changed.id);
        assert_eq!((revision.revision_number, revision.created_at), (expected, entry.created_at));
    }
    let expected = types::Entry {
        id: changed.id.clone(),
        spiffe_id: changed.spiffe_id.clone(),
        revision_number: 1,
        ..types::Entry::default()
    };
    assert_eq!(answers[2].entries, [expected], "the mask of the first request holds");
    let mut got: Vec<_> = answers[3..].iter().flat_map(|answer| ids(&answer.entries)).collect();
    let mut expected = ids(&created);
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn more_than_a_few_entries_sync_by_revisions() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    for (new, shape) in [(0..16, (0, 16)), (16..17, (17, 0))] {
        let entries = new.map(|n| entry(&format!("/w/{n}"), &agent.id)).collect();
        let request = BatchCreateEntryRequest { entries, output_mask: None };
        server.admin.entries().batch_create_entry(request).await.unwrap();
        let answers = agent.sync(vec![SyncAuthorizedEntriesRequest::default()]).await.unwrap();
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].entry_revisions.len(), answers[0].entries.len()), shape);
        assert!(!answers[0].more);
    }
}

#[tokio::test]
async fn a_sync_that_begins_wrong_is_refused() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let check = async |request, text| {
        assert_refused(agent.sync(vec![request]).await, Code::InvalidArgument, text);
    };
    let with_ids = SyncAuthorizedEntriesRequest { output_mask: None, ids: vec!["a".into()] };
    check(with_ids, "specifying IDs on initial request is not supported").await;
    let mask = types::EntryMask { spiffe_id: true, ..types::EntryMask::default() };
    let masked = SyncAuthorizedEntriesRequest { output_mask: Some(mask), ids: Vec::new() };
    check(masked, "revision number cannot be masked").await;
}

#[tokio::test]
async fn an_agent_gets_descendants_but_neither_strangers_nor_what_expired() {
    let world = World::new();
    let server = world.start().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    server.create(entry("/group", &agent.id)).await;
    server.create(entry("/group/db", &spiffe_id("/group"))).await;
    server.create(entry("/other", &other.id)).await;
    let expires_at = world.clock.unix_now() + 60;
    server.create(types::Entry { expires_at, ..entry("/brief", &agent.id) }).await;
    assert_eq!(paths(&agent.authorized().await.unwrap()), ["/brief", "/group", "/group/db"]);
    assert_eq!(paths(&other.authorized().await.unwrap()), ["/other"]);
    world.hands.jump(120);
    assert_eq!(paths(&agent.authorized().await.unwrap()), ["/group", "/group/db"]);
}
