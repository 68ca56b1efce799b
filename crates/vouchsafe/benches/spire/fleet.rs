//! What hundreds of agents cost a server that have nothing new to hear.
//!
//! Each attests by itself and then has one TLS connection, over which it synchronizes as a stock agent does: every
//! 5 seconds `SyncAuthorizedEntries` and `GetBundle`. Both servers have their fleets at the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};
use tokio_stream::once;
use tonic::transport::Channel;
use vouchsafe_agent::entries::output_mask;
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;

use crate::client::{Node, Remote, entry};
use crate::report::{Better, Report, Row};
use crate::world::{World, eventually};
use crate::{Scale, TIMES};

/// What agents do, SPIRE's and ours.
const POLL: Duration = Duration::from_secs(5);
const ENTRIES: usize = 1_000;
/// Agents that attest at the same time.
const AT_ONCE: usize = 8;

pub(crate) async fn measure(servers: &[World; 2], scale: &Scale, report: &mut Report) {
    let agents = scale.agents;
    Report::section(&format!(
        "{agents} agents that poll every 5 s, {ENTRIES} entries, for {} s",
        scale.window.as_secs()
    ));
    let mut polls = JoinSet::new();
    let [stock, ours] = servers;
    let attested = tokio::join!(attest(stock, agents), attest(ours, agents));
    let attesting = [attested.0.1, attested.1.1];
    for channels in [attested.0.0, attested.1.0] {
        for (number, channel) in channels.into_iter().enumerate() {
            let offset = POLL * u32::try_from(number).unwrap() / u32::try_from(agents).unwrap();
            polls.spawn(poll_forever(channel, offset));
        }
    }
    // Until everyone has polled.
    sleep(POLL + POLL).await;
    let before = servers.each_ref().map(|world| world.server.cpu_time());
    let start = Instant::now();
    tokio::select! {
        Some(ended) = polls.join_next() => panic!("an agent ended: {ended:?}"),
        () = sleep(scale.window) => {}
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    let cpu = [0, 1].map(|which| (servers[which].server.cpu_time() - before[which]).as_secs_f64() / minutes);
    report.add(&Row {
        what: "CPU of the server".into(),
        unit: "s per min",
        better: Better::Less,
        values: cpu,
        expected: Some(TIMES),
    });
    report.add(&Row {
        what: "resident memory of the server".into(),
        unit: "MiB",
        better: Better::Less,
        values: servers.each_ref().map(|world| world.server.resident().all),
        expected: Some(TIMES),
    });
    report.add(&Row {
        what: "CPU of the server for one attestation".into(),
        unit: "ms",
        better: Better::Less,
        values: attesting.map(|cpu| cpu.as_secs_f64() * 1e3 / agents as f64),
        expected: None,
    });
}

/// Attests `agents` agents and registers their entries. Gives a connection of each, and what the attestations cost.
async fn attest(world: &World, agents: usize) -> (Vec<Channel>, Duration) {
    let admin = world.admin().await;
    let remote = Arc::new(Remote::of(world.port, &admin).await);
    let mut tokens = Vec::new();
    for _ in 0..agents {
        tokens.push(admin.join_token(None).await);
    }
    let before = world.server.cpu_time();
    let mut shares = JoinSet::new();
    for tokens in tokens.chunks(agents.div_ceil(AT_ONCE)).map(<[String]>::to_vec) {
        let remote = remote.clone();
        shares.spawn(async move {
            let mut nodes = Vec::new();
            for token in tokens {
                nodes.push(remote.attest(&token).await);
            }
            nodes
        });
    }
    let nodes: Vec<Node> = shares.join_all().await.into_iter().flatten().collect();
    let cost = world.server.cpu_time() - before;
    for (batch, parents) in nodes.chunks(agents.div_ceil(4)).enumerate() {
        let entries = parents.iter().enumerate().flat_map(|(number, node)| {
            (0..ENTRIES / agents).map(move |part| {
                entry(
                    &node.path,
                    &format!("ns/{batch}/sa/w{number}-{part}"),
                    format!("uid:{}", 100_000 + part),
                )
            })
        });
        admin.create(entries.collect()).await;
    }
    let channels: Vec<_> = nodes.iter().map(|node| remote.channel_of(node)).collect();
    let last = channels.last().unwrap();
    eventually("the last agent's entries reach it", async || {
        (poll(last).await == ENTRIES / agents).then_some(())
    })
    .await;
    (channels, cost)
}

async fn poll_forever(channel: Channel, offset: Duration) {
    let mut ticks = interval_at(Instant::now() + offset, POLL);
    loop {
        ticks.tick().await;
        assert!(poll(&channel).await > 0, "the server forgot entries");
    }
}

/// Synchronizes and gives the number of entries.
async fn poll(channel: &Channel) -> usize {
    let request = SyncAuthorizedEntriesRequest { output_mask: Some(output_mask()), ids: Vec::new() };
    let mut client = EntryClient::new(channel.clone());
    let mut answers = client.sync_authorized_entries(once(request)).await.unwrap().into_inner();
    let entries = answers.message().await.unwrap().unwrap().entries.len();
    BundleClient::new(channel.clone()).get_bundle(GetBundleRequest::default()).await.unwrap();
    entries
}
