//! Clients that mean harm: they get little, and others everything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use support::messages::entry;
use support::{Api, TestServer, World};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use vouchsafe_proto::spire::api::server::agent::v1::AttestAgentRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, SyncAuthorizedEntriesRequest};
use vouchsafe_proto::spire::api::types;

/// That a client with a connection of its own and one of this machine are served promptly.
async fn assert_others_are_served(server: &TestServer, when: &str) {
    let others = async {
        server.connect(None).bundles().get_bundle(GetBundleRequest::default()).await.unwrap();
        server.agent().await.authorized().await.unwrap();
        server.entries().await;
    };
    tokio::time::timeout(Duration::from_secs(10), others).await.expect(when);
}

/// Calls `method` with `frames` of a gRPC message that says it is `length` bytes long; how it ended, and how many bytes were
/// taken from us until then.
async fn send(api: &Api, method: &str, length: u32) -> (Option<Status>, usize) {
    const CHUNK: usize = 64 * 1024;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let mut prefix = vec![0];
    prefix.extend(length.to_be_bytes());
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = stream::repeat(chunk).take(length as usize / CHUNK).inspect(move |chunk| {
        counted.fetch_add(chunk.len(), Ordering::Relaxed);
    });
    let frames = stream::once(async { Bytes::from(prefix) }).chain(chunks);
    let frames = frames.map(|data| Ok::<_, Status>(http_body::Frame::data(data)));
    let request = http::Request::post(method)
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(frames)))
        .unwrap();
    let mut channel = api.0.clone();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    let mut status = Status::from_header_map(response.headers());
    if status.is_none() {
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        status = body.ok().and_then(|body| body.trailers().and_then(Status::from_header_map));
    }
    (status, taken.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_message_of_a_hundred_mebibytes_is_refused_before_it_is_read() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let calls = [
        (server.connect(None), "/spire.api.server.agent.v1.Agent/AttestAgent"),
        (server.connect(None), "/spire.api.server.bundle.v1.Bundle/GetBundle"),
        (agent.api.clone(), "/spire.api.server.agent.v1.Agent/PostStatus"),
        (agent.api.clone(), "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries"),
        (server.admin.clone(), "/spire.api.server.entry.v1.Entry/BatchCreateEntry"),
    ];
    for (api, method) in calls {
        let (status, taken) = send(&api, method, 100 << 20).await;
        let code = status.as_ref().map(Status::code);
        assert_eq!(code, Some(tonic::Code::OutOfRange), "{method}: {status:?}");
        assert!(taken < 8 << 20, "{method} took {taken} bytes");
    }
    assert_others_are_served(&server, "after messages that are too large").await;
}

#[tokio::test]
async fn ten_thousand_streams_that_say_nothing_keep_nobody_waiting() {
    let world = World::new();
    let server = world.start().await;
    let api = server.connect(None);
    let mut streams = JoinSet::new();
    for _ in 0..10_000 {
        let mut agents = api.agents();
        streams.spawn(async move {
            let silent = stream::pending::<AttestAgentRequest>();
            let answers = agents.attest_agent(silent).await;
            std::future::pending::<()>().await;
            drop(answers);
        });
    }
    tokio::task::yield_now().await;
    assert_others_are_served(&server, "with ten thousand silent streams").await;
    streams.shutdown().await;
}

#[tokio::test]
async fn a_client_that_never_reads_gets_a_window_and_no_more() {
    let world = World::new();
    let server = world.start().await;
    let agent = server.agent().await;
    let entries = (0..600).map(|n| types::Entry {
        dns_names: (0..20)
            .map(|name| format!("a-rather-long-name-{name}.of-entry-{n}.example.org"))
            .collect(),
        ..entry(&format!("/w/{n}"), &agent.id)
    });
    let request = BatchCreateEntryRequest { entries: entries.collect(), output_mask: None };
    server.admin.entries().batch_create_entry(request).await.unwrap();
    let ask = || SyncAuthorizedEntriesRequest {
        output_mask: Some(types::EntryMask { revision_number: true, dns_names: true, ..Default::default() }),
        ids: Vec::new(),
    };
    let mut held = Vec::new();
    for _ in 0..100 {
        // The answer is begun and never read; the next question never comes.
        let questions = stream::iter([ask()]).chain(stream::pending());
        held.push(agent.api.entries().sync_authorized_entries(questions).await.unwrap());
    }
    assert_others_are_served(&server, "with a hundred answers that nobody reads").await;
    drop(held);
}

#[tokio::test]
async fn slow_handshakes_keep_nobody_out() {
    let world = World::new();
    let server = world.start().await;
    let address = server.running.tcp_address;
    let mut slow = join_all((0..300).map(|_| TcpStream::connect(address))).await;
    for (n, tcp) in slow.iter_mut().enumerate() {
        // A record that never ends, the beginning of a PROXY header, or nothing at all.
        let beginning: &[u8] = [&b"\x16\x03\x01\x02\x00"[..], b"PROXY TCP4", b""][n % 3];
        tcp.as_mut().unwrap().write_all(beginning).await.unwrap();
    }
    assert_others_are_served(&server, "with three hundred unfinished handshakes").await;
}
