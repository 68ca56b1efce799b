//! What an answer of the Workload API costs beside the gRPC that it cannot do without.
//!
//! `cargo bench -p vouchsafe-agent` prints, for `FetchX509SVID` of a held SVID (open the stream, take the first message,
//! leave) and `FetchJWTSVID` of a cached token:
//!
//! * `empty`: the limit. Handlers of tonic's generated code that answer with nothing, behind our listener and our
//!   serving loop, without metrics;
//! * `held`: the agent's service, attestation, listener and metrics as [`vouchsafe_agent`] puts them together;
//! * `stock`: the empty handlers behind tonic's own server on a plain Unix socket. For information.
//!
//! Each server is a process with one thread, kept on one core; the clients are in this process on another. The three
//! are measured in turns. What counts is **the server's CPU time per request**, as the kernel accounts it: clients and
//! other processes on the machine do not dilute it. `req/s` is its inverse: what one core of server does. Latencies
//! are seen by the client. Exits with 1 if a ratio is below its target.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

mod empty;
mod held;
mod load;
mod process;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use load::{Method, median, quantile};
use process::{Kind, Server};

/// Requests in flight, and over how many connections.
const LOADS: [(usize, usize); 2] = [(1, 1), (32, 4)];
const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_millis(700);
/// Share of the empty handler's rate that must be reached.
const TARGET: f64 = 0.7;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(process::SERVE) {
        let (kind, socket) = (Kind::parse(&args.next().unwrap()), PathBuf::from(args.next().unwrap()));
        process::serve(kind, &socket);
        return ExitCode::SUCCESS;
    }
    process::stay_on_client_core();
    let dir = tempfile::tempdir().unwrap();
    let servers = Kind::ALL.map(|kind| Server::start(kind, dir.path()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "{:<16} {:>9} {:<8} {:>14} {:>10} {:>8} {:>8} {:>9}",
        "method", "in flight", "server", "CPU µs/request", "req/s/core", "p50 µs", "p99 µs", "of empty"
    );
    let mut good = true;
    for method in [Method::X509, Method::Jwt] {
        for (in_flight, connections) in LOADS {
            let rows = runtime.block_on(measure(&servers, method, in_flight, connections));
            for (server, row) in servers.iter().zip(&rows) {
                println!(
                    "{:<16} {in_flight:>9} {:<8} {:>14.2} {:>10.0} {:>8.0} {:>8.0} {:>8.1}%",
                    method.name(),
                    server.kind.name(),
                    row.cpu_micros,
                    1e6 / row.cpu_micros,
                    row.p50,
                    row.p99,
                    row.of_empty * 100.0
                );
                good &= server.kind != Kind::Held || row.of_empty >= TARGET;
            }
        }
    }
    println!("target: held >= {TARGET} of empty: {}", if good { "reached" } else { "MISSED" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Medians over the rounds.
struct Row {
    cpu_micros: f64,
    p50: f64,
    p99: f64,
    of_empty: f64,
}

async fn measure(servers: &[Server; 3], method: Method, in_flight: usize, connections: usize) -> [Row; 3] {
    let mut turns = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        for place in 0..servers.len() {
            let which = (round + place) % servers.len();
            let server = &servers[which];
            let before = server.cpu_time();
            let latencies = load::run(&server.socket, method, in_flight, connections, TURN).await;
            // What the last requests left to tidy up is theirs.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let cpu = server.cpu_time() - before;
            // The first round warms up.
            if round > 0 {
                turns[which].push((cpu.as_secs_f64() * 1e6 / latencies.len() as f64, latencies));
            }
        }
    }
    let empty: Vec<f64> = turns[0].iter().map(|(cpu, _)| *cpu).collect();
    turns.map(|turns| Row {
        cpu_micros: median(turns.iter().map(|(cpu, _)| *cpu)),
        p50: median(turns.iter().map(|(_, latencies)| quantile(latencies, 0.5))),
        p99: median(turns.iter().map(|(_, latencies)| quantile(latencies, 0.99))),
        of_empty: median(turns.iter().zip(&empty).map(|((cpu, _), empty)| empty / cpu)),
    })
}
