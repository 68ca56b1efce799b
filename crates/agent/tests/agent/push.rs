//! An agent that is told of changes.

use super::support::*;

/// So rarely that no test waits for a poll.
const RARELY: Duration = Duration::from_secs(3_000);

/// A world whose server pushes and an agent that would poll in [`RARELY`], listening.
async fn listening(change: impl FnOnce(&World)) -> (World, RunningAgent) {
    let world = World::new().await;
    world.fake.pushing.on.store(true, Ordering::SeqCst);
    change(&world);
    let mut agent = start(&world, RARELY).await;
    agent.serving().await;
    is_listening(&agent, true).await;
    (world, agent)
}

async fn start(world: &World, interval: Duration) -> RunningAgent {
    let mut config = world.config(world.server.as_ref().unwrap().address.to_string());
    config.sync_interval = interval;
    world.start_with(config).await
}

async fn is_listening(agent: &RunningAgent, yes: bool) {
    let line = format!("spire_agent_vouchsafe_push_connected {}\n", u8::from(yes));
    eventually(&line, || agent.registry.render().contains(&line)).await;
}

fn count(counter: &std::sync::atomic::AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

fn ok_syncs(agent: &RunningAgent) -> u64 {
    let text = agent.registry.render();
    let prefix = "spire_agent_manager_sync_fetch_entries_updates{status=\"OK\"} ";
    text.lines().find_map(|line| line.strip_prefix(prefix)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn entries_reach_a_workload_as_they_come_change_and_go_without_any_poll() {
    let (world, mut agent) = listening(|world| world.fake.put("one", &own_uid(), |_| ())).await;
    let mut stream = agent.x509().await;
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/one"]);
    let syncs = count(&world.fake.pushing.syncs);
    world.fake.put("two", &own_uid(), |_| ());
    assert_eq!(next(&mut stream).await.svids.len(), 2);
    world.fake.put("two", &own_uid(), |entry| entry.spiffe_id.as_mut().unwrap().path = "/second".into());
    let mut paths = Vec::new();
    while !paths.contains(&"spiffe://example.org/second".to_owned()) {
        paths = ids(&next(&mut stream).await).into_iter().map(str::to_owned).collect();
    }
    world.fake.remove("one");
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/second"]);
    assert_eq!(count(&world.fake.pushing.syncs), syncs, "something was polled");
}

#[tokio::test]
async fn a_new_bundle_is_fetched_when_the_server_tells_of_it() {
    let (world, mut agent) = listening(|world| world.fake.put("one", &own_uid(), |_| ())).await;
    let mut stream = agent.x509().await;
    let before = next(&mut stream).await.svids[0].bundle.len();
    world.fake.rotate().await;
    world.fake.pushing.changed();
    assert!(next(&mut stream).await.svids[0].bundle.len() > before);
}

#[tokio::test]
async fn a_heartbeat_counts_as_a_synchronization_and_keeps_the_state_fresh() {
    let world = World::new().await;
    world.fake.pushing.on.store(true, Ordering::SeqCst);
    let mut agent = start(&world, Duration::from_millis(50)).await;
    agent.serving().await;
    is_listening(&agent, true).await;
    let (syncs, confirmed) = (count(&world.fake.pushing.syncs), ok_syncs(&agent));
    world.hands.jump(60);
    let fresh = world.clock.now();
    eventually("heartbeats", || ok_syncs(&agent) >= confirmed + 5).await;
    assert_eq!(count(&world.fake.pushing.syncs), syncs);
    assert!(agent.status.borrow().last_sync.unwrap() >= fresh);
}

#[tokio::test]
async fn a_server_that_does_not_push_is_polled() {
    let world = World::new().await;
    let mut agent = start(&world, Duration::from_millis(50)).await;
    agent.serving().await;
    eventually("polls", || count(&world.fake.pushing.syncs) >= 5).await;
    assert_eq!(count(&world.fake.pushing.streams), 1, "it is not asked for streams again and again");
    is_listening(&agent, false).await;
}

#[tokio::test]
async fn a_stream_that_ends_well_is_opened_again_at_once_and_nothing_is_polled() {
    let (world, mut agent) = listening(|world| world.fake.put("one", &own_uid(), |_| ())).await;
    let mut stream = agent.x509().await;
    next(&mut stream).await;
    let syncs = count(&world.fake.pushing.syncs);
    // As when the SVID of the agent is new: the stream belongs to the connection of the old one.
    world.hands.jump(1900);
    eventually("a second stream", || count(&world.fake.pushing.streams) >= 2).await;
    is_listening(&agent, true).await;
    world.fake.put("two", &own_uid(), |_| ());
    while next(&mut stream).await.svids.len() < 2 {}
    assert_eq!(count(&world.fake.pushing.syncs), syncs);
}

#[tokio::test]
async fn a_stream_that_breaks_is_followed_by_a_poll_and_another_stream() {
    let world = World::new().await;
    world.fake.pushing.on.store(true, Ordering::SeqCst);
    let mut agent = start(&world, Duration::from_millis(50)).await;
    agent.serving().await;
    is_listening(&agent, true).await;
    let syncs = count(&world.fake.pushing.syncs);
    world.fake.pushing.end(Some(Status::internal("broken")));
    eventually("a second stream", || count(&world.fake.pushing.streams) == 2).await;
    is_listening(&agent, true).await;
    assert_eq!(count(&world.fake.pushing.syncs), syncs + 1);
}

#[tokio::test]
async fn a_lost_message_costs_a_synchronization_and_no_identity() {
    let world = World::new().await;
    world.fake.pushing.on.store(true, Ordering::SeqCst);
    world.fake.put("one", &own_uid(), |_| ());
    let mut agent = start(&world, Duration::from_millis(500)).await;
    let mut stream = agent.x509().await;
    next(&mut stream).await;
    is_listening(&agent, true).await;
    let (syncs, streams) = (count(&world.fake.pushing.syncs), count(&world.fake.pushing.streams));
    world.fake.pushing.skip.store(1, Ordering::SeqCst);
    world.fake.put("two", &own_uid(), |_| ());
    assert_eq!(next(&mut stream).await.svids.len(), 2);
    assert_eq!(count(&world.fake.pushing.syncs), syncs + 1);
    eventually("another stream", || count(&world.fake.pushing.streams) == streams + 1).await;
}

#[tokio::test]
async fn what_changed_while_nobody_listened_is_found_by_the_first_message() {
    let (world, mut agent) = listening(|world| world.fake.put("one", &own_uid(), |_| ())).await;
    let mut stream = agent.x509().await;
    next(&mut stream).await;
    let syncs = count(&world.fake.pushing.syncs);
    // Behind the back of the stream.
    let two = world.fake.entries.lock().unwrap()["one"].clone();
    let path = Some(vouchsafe_proto::spire::api::types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/two".into(),
    });
    let two = vouchsafe_proto::spire::api::types::Entry { id: "two".into(), spiffe_id: path, ..two };
    world.fake.entries.lock().unwrap().insert("two".into(), two);
    world.hands.jump(1900);
    while next(&mut stream).await.svids.len() < 2 {}
    assert_eq!(count(&world.fake.pushing.syncs), syncs + 1);
}

#[tokio::test]
async fn a_stream_that_is_refused_leaves_an_agent_that_polls() {
    let world = World::new().await;
    world.fake.pushing.on.store(true, Ordering::SeqCst);
    *world.fake.pushing.refusal.lock().unwrap() = Some(Status::internal("no"));
    let mut agent = start(&world, Duration::from_millis(50)).await;
    agent.serving().await;
    eventually("polls", || count(&world.fake.pushing.syncs) >= 5).await;
    *world.fake.pushing.refusal.lock().unwrap() = None;
    is_listening(&agent, true).await;
}

#[tokio::test]
async fn an_agent_that_is_banned_while_it_listens_hears_why() {
    let (world, agent) = listening(|_| ()).await;
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentBanned);
    world.fake.pushing.end(Some(vouchsafe_proto::denial::denied(Reason::AgentBanned, "banned")));
    let mut status = agent.status.clone();
    let refused = status.wait_for(|status| status.phase == Phase::Refused);
    timeout(SOON, refused).await.expect("refused in time").unwrap();
}

#[tokio::test]
async fn heartbeats_do_not_confirm_a_bundle_that_could_not_be_fetched() {
    let world = World::new().await;
    world.fake.pushing.on.store(true, Ordering::SeqCst);
    // The fake does not answer for bundles of others.
    world.fake.put("one", &own_uid(), |entry| entry.federates_with = vec!["other.org".into()]);
    let agent = start(&world, Duration::from_millis(50)).await;
    is_listening(&agent, true).await;
    let (syncs, confirmed) = (count(&world.fake.pushing.syncs), ok_syncs(&agent));
    world.hands.jump(60);
    let fresh = world.clock.now();
    eventually("heartbeats", || ok_syncs(&agent) >= confirmed + 5).await;
    let status = agent.status.borrow().clone();
    assert!(status.last_sync.unwrap() >= fresh);
    assert!(status.bundles_confirmed.is_none_or(|at| at < fresh), "{status:?}");
    assert_eq!(count(&world.fake.pushing.syncs), syncs, "everything was synchronized for one bundle");
}
