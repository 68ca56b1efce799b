//! SPIRE and Vouchsafe side by side, in one run on one machine: `bash bench/spire [--quick]`.
//!
//! Both sides run as their users run them: a server and an agent of two processes each, on the same configuration files.
//! The load comes from this program, the same for both, and the sides take turns (or run at the same time, where only
//! the clock or the kernel's account is read), so that what else happens on the machine meets both.
//!
//! * [`rates`]    how turns are measured: CPU time of the process that serves, by request
//! * [`workload`] `FetchX509SVID` and `FetchJWTSVID` of an agent
//! * [`signing`]  `BatchNewX509SVID` and `NewJWTSVID` of a server
//! * [`delivery`] from a new entry to the SVID in the workload's hands
//! * [`memory`]   resident memory with few and many entries
//! * [`fleet`]    what hundreds of polling agents cost the server
//!
//! A ratio says how many times better ours is. Exits with 1 when one is below what is expected.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

#[allow(dead_code, reason = "`fleet` uses more of it")]
mod client;
mod delivery;
mod fleet;
#[path = "../../../agent/benches/workload_api/load.rs"]
mod load;
mod memory;
#[allow(dead_code, reason = "`fleet` uses more of it")]
mod process;
mod rates;
mod report;
mod signing;
mod workload;
mod world;

use std::fs::read_to_string;
use std::process::ExitCode;
use std::time::Duration;

use report::Report;
use world::{Side, World};

/// How many times better ours is expected to be: rates, and the inverse of memory and CPU time.
const TIMES: f64 = 3.0;

/// How much is measured.
struct Scale {
    /// Turns of each side in a measurement of rates, besides one to warm up.
    rounds: usize,
    turn: Duration,
    /// Rounds of new entries for an open stream, and for a workload that retries.
    streamed: usize,
    retried: usize,
    /// How long a process is left alone before its memory is read.
    settle: Duration,
    /// Numbers of entries that memory is read with, rising.
    entries: &'static [usize],
    agents: usize,
    /// How long the agents are watched.
    window: Duration,
}

const FULL: Scale = Scale {
    rounds: 7,
    turn: Duration::from_millis(1_500),
    streamed: 20,
    retried: 5,
    settle: Duration::from_secs(30),
    entries: &[1_000, 10_000],
    agents: 500,
    window: Duration::from_secs(60),
};

const QUICK: Scale = Scale {
    rounds: 3,
    turn: Duration::from_millis(700),
    streamed: 5,
    retried: 1,
    settle: Duration::from_secs(8),
    entries: &[1_000],
    agents: 100,
    window: Duration::from_secs(15),
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let [command, socket, id] = &args[..]
        && command == delivery::RETRY
    {
        runtime.block_on(delivery::retry(socket.as_ref(), id));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("SPIRE").is_none() {
        eprintln!("SPIRE must name the directory of spire-server and spire-agent: run `bash bench/spire`");
        return ExitCode::from(2);
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    // Parts by name, for work on one of them.
    let parts: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
    let good = runtime.block_on(run(if quick { &QUICK } else { &FULL }, &parts));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(scale: &Scale, parts: &[&str]) -> bool {
    let links = tempfile::tempdir().unwrap();
    let sides = Side::both(links.path());
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let mut report = Report::default();
    machine("before");
    if wanted("workload") || wanted("signing") {
        let worlds = worlds(&sides, "").await;
        if wanted("workload") {
            workload::measure(&worlds, scale, &mut report).await;
        }
        if wanted("signing") {
            signing::measure(&worlds, scale, &mut report).await;
        }
    }
    if wanted("delivery") {
        // Workloads are told apart by their programs, whose contents do not matter.
        let worlds = worlds(&sides, "discover_workload_path = true workload_size_limit = -1").await;
        delivery::measure(&worlds, scale, &mut report).await;
    }
    if wanted("memory") {
        memory::measure(&worlds(&sides, "").await, scale, &mut report).await;
    }
    if wanted("fleet") {
        let [stock, ours] = &sides;
        let servers = [World::server(stock).await, World::server(ours).await];
        fleet::measure(&servers, scale, &mut report).await;
    }
    machine("after");
    report.verdict()
}

async fn worlds([stock, ours]: &[Side; 2], unix: &str) -> [World; 2] {
    [World::server(stock).await.with_agent(unix).await, World::server(ours).await.with_agent(unix).await]
}

/// The machine, and how busy it is.
fn machine(when: &str) {
    let cpus = std::thread::available_parallelism().unwrap();
    let info = read_to_string("/proc/cpuinfo").unwrap();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = read_to_string("/proc/loadavg").unwrap();
    println!("{when}: {cpus} CPUs,{}; load average {}", model.trim_start_matches(['\t', ':']), load.trim());
}
