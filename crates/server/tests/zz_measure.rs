#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod support;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use support::World;
use vouchsafe_proto::vouchsafe::server::v1::WatchRequest;
use vouchsafe_proto::vouchsafe::server::v1::revisions_client::RevisionsClient;
struct Count;
static LIVE: AtomicI64 = AtomicI64::new(0);
unsafe impl GlobalAlloc for Count {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 { LIVE.fetch_add(l.size() as i64, Ordering::Relaxed); unsafe { System.alloc(l) } }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) { LIVE.fetch_sub(l.size() as i64, Ordering::Relaxed); unsafe { System.dealloc(p, l) } }
}
#[global_allocator]
static A: Count = Count;
#[tokio::test]
async fn measure() {
    let world = World::new();
    let server = world.try_start(|c| { c.admission.rate_limits.attestation = false; c.admission.rate_limits.signing = false; }).await.unwrap();
    const N: i64 = 100;
    let mut agents = Vec::new();
    for _ in 0..N { let a = server.agent().await; a.post_status("x").await.unwrap(); agents.push(a); }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let before = LIVE.load(Ordering::Relaxed);
    let mut streams = Vec::new();
    for a in &agents {
        let mut c = RevisionsClient::new(a.api.0.clone());
        let mut s = c.watch(WatchRequest { heartbeat_millis: 1000, output_mask: None }).await.unwrap().into_inner();
        s.message().await.unwrap().unwrap();
        streams.push(s);
    }
    let opened = LIVE.load(Ordering::Relaxed);
    for s in &mut streams { for _ in 0..3 { s.message().await.unwrap().unwrap(); } }
    let later = LIVE.load(Ordering::Relaxed);
    println!("per stream, both ends: {} B after the first message, {} B after heartbeats", (opened - before) / N, (later - before) / N);
}
