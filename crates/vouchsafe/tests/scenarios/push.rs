//! A new entry reaches the workload at once where both ends know how, and within the interval where one is stock.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};

use crate::api::{block_on, local};
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

/// Above SPIRE's interval, with room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// From the call that creates an entry to the SVID at the workload.
const BLINK: Duration = Duration::from_millis(300);
/// The same as a multiple of that call alone.
const BLINK_IN_CREATIONS: u32 = 10;

#[test]
fn new_entries_reach_an_open_stream_within_a_blink() {
    let world = World::new();
    let both = world.kind.our_server && world.kind.our_agent;
    let server = world.server("s", &ServerSettings::default());
    // Where both know how, nothing arrives by asking within the patience of this scenario.
    let rarely = if both { "experimental { sync_interval = \"10m\" }" } else { "" };
    let agent =
        world.agent("a", &server, &AgentSettings { agent: rarely.into(), ..AgentSettings::default() });
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    block_on(async {
        let mut entries = EntryClient::new(local(&server.socket).await);
        let mut stream = open(&agent).await;
        let count = if both { 20 } else { 2 };
        let (mut delays, mut creations) = (Vec::new(), Vec::new());
        for n in 0..count {
            let path = format!("pushed/{n}");
            let start = Instant::now();
            let id = create(&mut entries, &server, &path).await;
            creations.push(start.elapsed());
            until(&mut stream, |paths| paths.contains_key(&server.id(&path))).await;
            delays.push(start.elapsed());
            if n % 2 == 0 {
                entries.batch_delete_entry(BatchDeleteEntryRequest { ids: vec![id] }).await.unwrap();
                until(&mut stream, |paths| !paths.contains_key(&server.id(&path))).await;
            }
        }
        delays.sort_unstable();
        creations.sort_unstable();
        println!("delays of {count}: {delays:?}, of which for the creation: {creations:?}");
        if both {
            // A call and a write are a measure of how busy the machine is.
            let blink = BLINK.max(BLINK_IN_CREATIONS * creations[count / 2]);
            assert!(delays[count / 2] < blink, "{delays:?}, creations: {creations:?}");
        }
    });
    if both {
        let listening = "listening to the server for changes";
        agent.wait_for_log(&[listening]);
    } else if world.kind.our_agent {
        agent.wait_for_log(&["the server does not tell of changes by itself"]);
    }
}

#[test]
fn an_agent_is_told_again_after_its_server_was_killed_and_has_missed_nothing() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    server.kill();
    server.start_again();
    // Written before the agent is back.
    server.entry_for_this_user("meanwhile", &[]);
    agent.wait_for_svid("meanwhile");
    block_on(async {
        let mut stream = open(&agent).await;
        let mut entries = EntryClient::new(local(&server.socket).await);
        create(&mut entries, &server, "later").await;
        until(&mut stream, |paths| paths.contains_key(&server.id("later"))).await;
    });
}

async fn open(agent: &Agent) -> Streaming<X509svidResponse> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let mut client = SpiffeWorkloadApiClient::new(local(&agent.socket).await);
    client.fetch_x509svid(request).await.unwrap().into_inner()
}

async fn until(
    stream: &mut Streaming<X509svidResponse>,
    reached: impl Fn(&HashMap<String, Vec<u8>>) -> bool,
) {
    loop {
        let answer = timeout(PATIENCE, stream.message()).await.expect("an answer").unwrap().unwrap();
        let svids = answer.svids.into_iter().map(|svid| (svid.spiffe_id, svid.x509_svid.to_vec())).collect();
        if reached(&svids) {
            return;
        }
    }
}

async fn create(entries: &mut EntryClient<Channel>, server: &Server, path: &str) -> String {
    let id =
        |path: &str| types::Spiffeid { trust_domain: server.trust_domain.into(), path: format!("/{path}") };
    let selector =
        types::Selector { r#type: "unix".into(), value: format!("uid:{}", nix::unistd::geteuid()) };
    let entry = types::Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id("node")),
        selectors: vec![selector],
        ..types::Entry::default()
    };
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let answer = entries.batch_create_entry(request).await.unwrap().into_inner();
    answer.results.into_iter().next().unwrap().entry.unwrap().id
}
