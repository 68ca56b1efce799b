//! One server and thousands of agents: `bash bench/fleet [--quick] [--sqlite]`.
//!
//! The server is the release binary on a PostgreSQL of its own. The agents live in this program: each has its own SVID,
//! its own TLS connection and speaks the protocol of a real one (attestation, the revision stream, synchronization,
//! signatures, renewals at half-life), but serves no workloads. The fleet grows in four steps on the same server; each
//! step waits until every agent holds its SVIDs and is then watched.
//!
//! * [`world`]     the server's process and its database
//! * [`simulated`] an agent
//! * [`fleet`]     all of them, and what they saw
//! * [`table`]     the figures and the verdict
//!
//! Exits with 1 when a bound is missed, and says which.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

#[allow(dead_code, reason = "the benchmark `spire` uses more of it")]
#[path = "../spire/client.rs"]
mod client;
mod fleet;
#[allow(dead_code, reason = "the benchmark `spire` uses more of it")]
#[path = "../spire/process.rs"]
mod process;
mod simulated;
mod table;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use fleet::Fleet;
use simulated::Mode;
use table::{Row, Table};
use world::World;

/// How much is measured.
struct Scale {
    /// Numbers of agents, rising; each has [`ENTRIES_EACH`] entries.
    agents: [usize; 4],
    /// How long the fleet is watched.
    window: Duration,
    /// New entries that are followed to their SVID, at each size.
    followed: usize,
}

const FULL: Scale =
    Scale { agents: [625, 1_250, 2_500, 5_000], window: Duration::from_secs(60), followed: 400 };
const QUICK: Scale = Scale { agents: [60, 125, 250, 500], window: Duration::from_secs(12), followed: 100 };

const ENTRIES_EACH: usize = 2;
/// Time between the end of a step's work and its measurement.
const SETTLE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(unknown) = args.iter().find(|arg| !["--quick", "--sqlite"].contains(&arg.as_str())) {
        eprintln!("unknown argument {unknown:?}; usage: bash bench/fleet [--quick] [--sqlite]");
        return ExitCode::from(2);
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let scale = if has("--quick") { QUICK } else { FULL };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if runtime.block_on(run(&scale, has("--sqlite"))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(scale: &Scale, sqlite: bool) -> bool {
    let mut world = World::start(sqlite).await;
    let mut fleet = Fleet::new(&world).await;
    let mut table = Table::new(world.server().resident().all);
    for agents in scale.agents {
        let began = Instant::now();
        fleet.grow_to(agents, &world).await;
        let ready = began.elapsed();
        sleep(SETTLE).await;
        let row = watch(&world, &fleet, scale).await;
        table.add(Row { ready, propagation: fleet.follow(scale.followed).await, ..row });
    }
    let admitted = readmit(&mut world, &fleet).await;
    table.readmitted(&admitted);
    fleet.switch(Mode::Poll);
    sleep(SETTLE).await;
    table.polling(&watch(&world, &fleet, scale).await);
    table.verdict()
}

/// What the server needs while nothing is new but time: heartbeats, renewals, connections that reached their age.
async fn watch(world: &World, fleet: &Fleet, scale: &Scale) -> Row {
    let (cpu, transactions) = (world.server().cpu_time(), world.transactions());
    fleet.forget_latencies();
    let began = Instant::now();
    sleep(scale.window).await;
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(fleet.failures(), 0, "an agent was refused or cut off");
    Row {
        agents: fleet.len(),
        entries: fleet.entries(),
        ready: Duration::ZERO,
        cores: (world.server().cpu_time() - cpu).as_secs_f64() / seconds,
        resident: world.server().resident().all,
        transactions: transactions.map(|before| (world.transactions().unwrap() - before) / seconds),
        sync: fleet.sync_latencies(),
        calls: fleet.calls() / seconds,
        propagation: Vec::new(),
    }
}

/// The server is killed and started again. Gives, for each agent, when it was in touch again.
async fn readmit(world: &mut World, fleet: &Fleet) -> Vec<Duration> {
    let killed = Instant::now();
    world.kill();
    fleet.wait_until_all_are_away().await;
    world.start_again().await;
    let serving = Instant::now();
    println!("killed; serving again after {:.2} s", killed.elapsed().as_secs_f64());
    let returned = fleet.wait_until_all_are_back().await;
    returned.into_iter().map(|at| at.saturating_duration_since(serving)).collect()
}
