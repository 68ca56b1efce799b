//! Agents that listen hear of what changed for them, of nothing else, and not after they were banned.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::agent::TestAgent;
use support::messages::{assert_denied, assert_refused, entry, ids};
use support::{TestServer, World};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};
use vouchsafe_proto::denial::Reason;
use vouchsafe_proto::revisions::{POSITION_HEADER, State, entries_digest};
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, DeleteAgentRequest};
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, SyncAuthorizedEntriesRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::server::v1::revisions_client::RevisionsClient;
use vouchsafe_proto::vouchsafe::server::v1::{WatchRequest, WatchResponse};
use vouchsafe_testkit::samples::spiffe_id;

/// Nothing here waits for so long.
const SOON: Duration = Duration::from_secs(60);
/// An agent is told of changes at most so often.
const GAP: Duration = Duration::from_millis(50);
const HOUR: u32 = 60_000;

async fn watch(agent: &TestAgent, heartbeat_millis: u32) -> Result<Streaming<WatchResponse>, Status> {
    let mut client = RevisionsClient::new(agent.api.0.clone());
    Ok(client.watch(WatchRequest { heartbeat_millis, output_mask: None }).await?.into_inner())
}

async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    let message = timeout(SOON, stream.message()).await.expect("a message in time")?;
    Ok(message.expect("the stream goes on"))
}

/// A stream whose first message was read.
async fn listening(agent: &TestAgent) -> Streaming<WatchResponse> {
    let mut stream = watch(agent, HOUR).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().sequence, 1);
    stream
}

fn digest(entries: &[types::Entry]) -> Vec<u8> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    entries_digest(entries.iter().map(|e| (e.id.as_str(), e.revision_number, e.created_at)))
}

async fn delete(server: &TestServer, id: &str) {
    let request = BatchDeleteEntryRequest { ids: vec![id.into()] };
    server.admin.entries().batch_delete_entry(request).await.unwrap();
}

#[tokio::test]
async fn an_agent_hears_of_its_own_entries_as_they_come_change_and_go() {
    let world = World::new();
    let server = world.start().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let held = server.create(entry("/held", &agent.id)).await;
    let mut stream = watch(&agent, HOUR).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    assert_eq!((first.sequence, first.heartbeat_millis), (1, HOUR));
    assert_eq!(first.entries_digest, digest(&[held]));
    assert_eq!(first.bundles.len(), 1);

    server.create(entry("/other", &other.id)).await;
    let new = server.create(entry("/new", &agent.id)).await;
    let told = next(&mut stream).await.unwrap();
    assert_eq!((told.sequence, told.changed.as_slice()), (2, [new.clone()].as_slice()));
    assert!(told.position > first.position && told.removed.is_empty() && told.entries_digest.is_empty());

    let changed = types::Entry { hint: "new".into(), ..new.clone() };
    let request = BatchUpdateEntryRequest { entries: vec![changed], ..Default::default() };
    server.admin.entries().batch_update_entry(request).await.unwrap();
    let told = next(&mut stream).await.unwrap();
    assert_eq!((told.changed[0].revision_number, told.changed[0].hint.as_str()), (1, "new"));

    delete(&server, &new.id).await;
    let told = next(&mut stream).await.unwrap();
    assert_eq!((told.sequence, told.removed), (4, vec![new.id]));
}

#[tokio::test]
async fn a_synchronization_says_which_state_it_shows() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let first = next(&mut watch(&agent, HOUR).await.unwrap()).await.unwrap();
    let requests = futures_util::stream::iter([SyncAuthorizedEntriesRequest::default()]);
    let answer = agent.api.entries().sync_authorized_entries(requests).await.unwrap();
    let position = answer.metadata().get(POSITION_HEADER).unwrap().to_str().unwrap();
    assert_eq!(State::parse(position), Some(State { epoch: first.epoch, position: first.position }));
}

#[tokio::test]
async fn when_a_parent_changes_the_agent_compares_everything() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let group = server.create(entry("/group", &agent.id)).await;
    let member = server.create(entry("/group/a", &spiffe_id("/group"))).await;
    let mut stream = watch(&agent, HOUR).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().entries_digest, digest(&[group.clone(), member]));
    delete(&server, &group.id).await;
    assert_eq!(next(&mut stream).await.unwrap().entries_digest, digest(&[]));
}

#[tokio::test]
async fn more_entries_than_are_told_one_by_one_are_compared() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let mut stream = listening(&agent).await;
    let began = Instant::now();
    let entries = (0..200).map(|n| entry(&format!("/w/{n}"), &agent.id)).collect();
    let request = BatchCreateEntryRequest { entries, output_mask: None };
    let results = server.admin.entries().batch_create_entry(request).await.unwrap().into_inner().results;
    let all: Vec<_> = results.into_iter().map(|result| result.entry.unwrap()).collect();
    let (mut held, mut messages, mut syncs) = (Vec::new(), 0, 0);
    while digest(&held) != digest(&all) {
        let told = next(&mut stream).await.unwrap();
        messages += 1;
        assert!(told.changed.len() <= 64);
        if !told.entries_digest.is_empty() && told.entries_digest != digest(&held) {
            held = agent.authorized().await.unwrap();
            syncs += 1;
        }
        held.retain(|entry| !told.changed.iter().any(|changed| changed.id == entry.id));
        held.extend(told.changed);
    }
    // Where they are created so slowly that each is news by itself, they are told one by one.
    assert!(syncs >= 1 || messages >= 4, "more than 64 were told at once");
    let gaps = began.elapsed().as_millis() / GAP.as_millis();
    assert!(messages <= 2 + gaps, "{messages} messages in {gaps} times {GAP:?}");
}

#[tokio::test]
async fn an_entry_that_expires_is_taken_away_in_seconds() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let mut stream = listening(&agent).await;
    let expires_at = world.clock.unix_now() + 60;
    let brief = server.create(types::Entry { expires_at, ..entry("/brief", &agent.id) }).await;
    assert_eq!(ids(&next(&mut stream).await.unwrap().changed), [brief.id.as_str()]);
    world.hands.jump(61);
    assert_eq!(next(&mut stream).await.unwrap().removed, [brief.id]);
}

#[tokio::test]
async fn a_bundle_that_an_entry_federates_with_is_told_to_whom_it_concerns() {
    let world = World::new();
    let server = world.start().await;
    server.hold_bundle("foreign.org").await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let federating = types::Entry { federates_with: vec!["foreign.org".into()], ..entry("/f", &agent.id) };
    server.create(federating).await;
    let mut stream = watch(&agent, HOUR).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let names: Vec<_> = first.bundles.iter().map(|bundle| bundle.trust_domain.as_str()).collect();
    assert_eq!(names, ["example.org", "foreign.org"]);
    let mut unconcerned = listening(&other).await;
    let request = vouchsafe_proto::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest {
        bundle: vec![types::Bundle {
            trust_domain: "foreign.org".into(),
            refresh_hint: 77,
            sequence_number: 5,
            ..types::Bundle::default()
        }],
        output_mask: None,
    };
    server.admin.bundles().batch_set_federated_bundle(request).await.unwrap();
    let told = next(&mut stream).await.unwrap();
    assert_eq!((told.bundles.len(), told.bundles[0].trust_domain.as_str()), (1, "foreign.org"));
    assert_ne!(told.bundles[0].revision, first.bundles[1].revision);
    let marker = server.create(entry("/marker", &other.id)).await;
    let told = next(&mut unconcerned).await.unwrap();
    assert_eq!((told.sequence, ids(&told.changed)), (2, vec![marker.id.as_str()]), "nothing came before");
}

#[tokio::test]
async fn a_heartbeat_comes_when_nothing_changes_and_is_kept_between_its_bounds() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let mut stream = watch(&agent, 1).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().heartbeat_millis, 1_000);
    let heartbeat = next(&mut stream).await.unwrap();
    assert_eq!(heartbeat.sequence, 2);
    assert!(heartbeat.changed.is_empty() && heartbeat.entries_digest.is_empty());
    for (asked, kept) in [(0, 5_000), (u32::MAX, 60_000)] {
        let mut stream = watch(&agent, asked).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().heartbeat_millis, kept);
    }
}

#[tokio::test]
async fn the_newest_stream_of_an_agent_wins() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let mut first = listening(&agent).await;
    let mut second = listening(&agent).await;
    assert_refused(next(&mut first).await, Code::Aborted, "the agent has opened a newer stream");
    drop(first);
    let new = server.create(entry("/new", &agent.id)).await;
    assert_eq!(ids(&next(&mut second).await.unwrap().changed), [new.id.as_str()]);
}

#[tokio::test]
async fn a_banned_or_evicted_agent_hears_it_at_once_on_its_open_stream() {
    let world = World::new();
    let server = world.start().await;
    let (banned, evicted) = (server.agent().await, server.agent().await);
    let mut streams = [listening(&banned).await, listening(&evicted).await];
    let request = BanAgentRequest { id: support::messages::id_of(&banned.id) };
    server.admin.agents().ban_agent(request).await.unwrap();
    assert_denied(next(&mut streams[0]).await, Some(Reason::AgentBanned));
    let request = DeleteAgentRequest { id: support::messages::id_of(&evicted.id) };
    server.admin.agents().delete_agent(request).await.unwrap();
    assert_denied(next(&mut streams[1]).await, Some(Reason::AgentNotAttested));
    assert_denied(watch(&banned, HOUR).await, Some(Reason::AgentBanned));
}

#[tokio::test]
async fn a_stream_of_an_svid_that_was_renewed_is_to_be_opened_again() {
    let world = World::new();
    let server = world.start().await;
    let mut agent = server.agent().await;
    let mut stream = listening(&agent).await;
    let renewed = agent.renew().await.unwrap();
    agent.adopt(renewed);
    agent.authorized().await.unwrap();
    let ended = next(&mut stream).await;
    assert_refused(ended, Code::Unavailable, "opened with an earlier SVID of the agent; open it again");
    listening(&agent).await;
}

#[tokio::test]
async fn an_expired_agent_is_denied_at_the_next_heartbeat() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let mut stream = watch(&agent, 1_000).await.unwrap();
    next(&mut stream).await.unwrap();
    world.hands.jump(2 * support::HOUR);
    let denied = loop {
        match next(&mut stream).await {
            Ok(_) => {}
            denied => break denied,
        }
    };
    assert_denied(denied, Some(Reason::AgentExpired));
}

#[tokio::test]
async fn nobody_but_an_agent_may_listen() {
    let world = World::new();
    let server = world.start().await;
    for api in [&server.admin, &server.connect(None)] {
        let mut client = RevisionsClient::new(api.0.clone());
        assert_denied(client.watch(WatchRequest::default()).await, None);
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_does_not_wait_for_them() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let mut stream = listening(&agent).await;
    let (stopped, ended) = tokio::join!(timeout(SOON, server.stop()), next(&mut stream));
    assert_refused(ended, Code::Unavailable, "the server is stopping");
    stopped.unwrap().unwrap();
}
