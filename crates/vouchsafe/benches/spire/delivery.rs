//! From a new entry to the SVID in the workload's hands: what an operator waits for.
//!
//! The clock starts when `BatchCreateEntry` has returned. Both sides get the same entries at the same moments, at
//! different places in the intervals of their agents.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};
use vouchsafe_transport::connect::uds_channel;

use crate::Scale;
use crate::client::entry;
use crate::load::{median, with_header};
use crate::report::{Better, Report, Row};
use crate::workload::wait_for_svid;
use crate::world::{NODE, TRUST_DOMAIN, World};

/// First argument of a workload that retries.
pub(crate) const RETRY: &str = "retry";

pub(crate) async fn measure(worlds: &[World; 2], scale: &Scale, report: &mut Report) {
    Report::section("From BatchCreateEntry to the SVID in the workload's hands");
    for world in worlds {
        world.admin().await.create(vec![entry(NODE, "workload", this_program())]).await;
    }
    let [stock, ours] = worlds;
    let streamed = tokio::join!(streamed(stock, scale.streamed), streamed(ours, scale.streamed));
    add(report, "open stream", [streamed.0, streamed.1]);
    for (start, how) in [
        (Start::After, "starts after its entry, asks every 100 ms"),
        (Start::Before, "waits for its entry, asks every 100 ms"),
    ] {
        let mut delays = [Vec::new(), Vec::new()];
        for round in 0..scale.retried {
            // Somewhere else in the interval each time.
            let pause = Duration::from_millis(1_000 + 617 * round as u64 % 5_000);
            let (stock, ours) = tokio::join!(retried(stock, start, pause), retried(ours, start, pause));
            delays[0].push(stock);
            delays[1].push(ours);
        }
        add(report, how, delays);
    }
}

fn add(report: &mut Report, how: &str, delays: [Vec<Duration>; 2]) {
    let seconds = delays.map(|delays| delays.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
    let count = seconds[0].len();
    for (what, values) in [
        ("median", seconds.each_ref().map(|delays| median(delays.iter().copied()))),
        ("worst", seconds.each_ref().map(|delays| delays.iter().copied().fold(0.0, f64::max))),
    ] {
        let what = format!("{how}, {what} of {count}");
        report.add(&Row { what, unit: "s", better: Better::Less, values, expected: None });
    }
}

/// The selector of this process, which the processes of [`retry`] do not have.
fn this_program() -> String {
    format!("path:{}", std::env::current_exe().unwrap().display())
}

/// A workload with an open stream gets `count` further SVIDs, one after the other.
async fn streamed(world: &World, count: usize) -> Vec<Duration> {
    wait_for_svid(world).await;
    let channel = uds_channel(&world.workload_socket()).await.unwrap();
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut stream = client.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
    // The first is there already.
    next_new(&mut stream, &mut HashMap::new()).await;
    let mut seen = HashMap::new();
    let (created, ()) = tokio::join!(create_one_by_one(world, count), async {
        while (1..=count).any(|number| !seen.contains_key(&workload_id(&streamed_path(number)))) {
            next_new(&mut stream, &mut seen).await;
        }
    });
    created.into_iter().map(|(path, at)| seen[&workload_id(&path)].saturating_duration_since(at)).collect()
}

async fn create_one_by_one(world: &World, count: usize) -> Vec<(String, Instant)> {
    let admin = world.admin().await;
    let mut created = Vec::new();
    for number in 1..=count {
        let path = streamed_path(number);
        admin.create(vec![entry(NODE, &path, this_program())]).await;
        created.push((path, Instant::now()));
        sleep(BETWEEN).await;
    }
    created
}

/// Notes when each SVID came first.
async fn next_new(stream: &mut Streaming<X509svidResponse>, seen: &mut HashMap<String, Instant>) {
    let answer = timeout(PATIENCE, stream.message()).await.expect("nothing came").unwrap().unwrap();
    let now = Instant::now();
    for svid in answer.svids {
        seen.entry(svid.spiffe_id).or_insert(now);
    }
}

fn streamed_path(number: usize) -> String {
    format!("streamed/{number}")
}

fn workload_id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{path}")
}

/// When a workload begins to ask.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Start {
    /// For some time in vain, before its entry is made.
    Before,
    After,
}

/// How long a workload without any other identity waits for the first. The pause is before the entry is made.
async fn retried(world: &World, start: Start, pause: Duration) -> Duration {
    let (program, path) = own_copy(world);
    let admin = world.admin().await;
    let entry = entry(NODE, &path, format!("path:{}", program.display()));
    let run = || Workload::start(&program, world, &workload_id(&path));
    let mut waiting = (start == Start::Before).then(run);
    sleep(pause).await;
    admin.create(vec![entry]).await;
    let created = Instant::now();
    waiting.get_or_insert_with(run).wait().await;
    created.elapsed()
}

/// This program under a name of its own, by which the entry knows it, and a path for the entry.
fn own_copy(world: &World) -> (PathBuf, String) {
    let number = (0..).find(|number| !world.path(&format!("w{number}")).exists()).unwrap();
    let copy = world.path(&format!("w{number}"));
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    (copy, format!("retried/{number}"))
}

/// A process of [`retry`].
struct Workload {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    _child: Child,
}

impl Workload {
    fn start(program: &Path, world: &World, id: &str) -> Self {
        let mut command = Command::new(program);
        command.arg(RETRY).arg(world.workload_socket()).arg(id);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        Self { lines: BufReader::new(child.stdout.take().unwrap()).lines(), _child: child }
    }

    /// Until it has its SVID.
    async fn wait(&mut self) {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("the workload got nothing");
        line.unwrap().expect("the workload ended");
    }
}

/// What the workload that retries does: asks until it has its SVID, and says so.
pub(crate) async fn retry(socket: &Path, id: &str) {
    let mut client = SpiffeWorkloadApiClient::new(uds_channel(socket).await.unwrap());
    loop {
        let mut answer = Err(tonic::Status::unknown(""));
        if let Ok(stream) = client.fetch_x509svid(with_header(X509svidRequest {})).await {
            answer = stream.into_inner().message().await;
        }
        if let Ok(Some(answer)) = answer
            && answer.svids.iter().any(|svid| svid.spiffe_id == id)
        {
            println!("got it");
            return;
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Not a divisor of the agents' intervals.
const BETWEEN: Duration = Duration::from_millis(1_370);
const RETRY_AFTER: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
