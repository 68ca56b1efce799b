//! 500 workloads of 250 Pods ask for their identity at once, while Pods come and go: `bash bench/kubelet [--quick]`.
//!
//! The kubelet is a fake one that lists 250 Pods in 4 MiB; the workloads are processes in cgroups as a kubelet makes them
//! (which needs root). A stock agent and ours meet the same, one after the other:
//!
//! 1. all workloads ask in the same moment; of each second one the container is not listed yet;
//! 2. every half second a wave of Pods takes the place of as many others, until all were listed;
//! 3. all ask once more.
//!
//! What counts is the time from when a workload could be known to its SVID, the requests to the kubelet, and the resident
//! memory of the agent. Exits with 1 when ours misses a bound.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

#[allow(dead_code, reason = "`spire` uses more of it")]
#[path = "../spire/client.rs"]
mod client;
mod node;
#[allow(dead_code, reason = "`spire` uses more of it")]
#[path = "../spire/process.rs"]
mod process;
mod workload;
#[allow(dead_code, reason = "`spire` uses more of it")]
#[path = "../spire/world.rs"]
mod world;

use std::process::ExitCode;

use node::{Figures, Scale};
use world::{Side, World};

const FULL: Scale = Scale { pods: 250, bytes: 4 << 20, waves: 10, rounds: 3 };
const QUICK: Scale = Scale { pods: 100, bytes: 4 << 20, waves: 5, rounds: 1 };

/// Bounds for ours.
const MAX_GROWTH_MIB: f64 = 20.0;
const MAX_REQUESTS_PER_SECOND: f64 = 2.0;
const MAX_P99_MS: f64 = 50.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [command, socket] = &args[..]
        && command == workload::WORKLOAD
    {
        workload::live(socket.as_ref());
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("SPIRE").is_none() {
        eprintln!("SPIRE must name the directory of spire-server and spire-agent: run `bash bench/kubelet`");
        return ExitCode::from(2);
    }
    let scale = if args.iter().any(|arg| arg == "--quick") { &QUICK } else { &FULL };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [stock, ours] = runtime.block_on(both(scale));
    let missed = table(&stock, &ours);
    missed.iter().for_each(|missed| println!("missed: {missed}"));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn both(scale: &Scale) -> [Figures; 2] {
    let links = tempfile::tempdir().unwrap();
    let [stock, ours] = Side::both(links.path());
    [
        node::measure("stock", World::server(&stock).await, scale).await,
        node::measure("ours", World::server(&ours).await, scale).await,
    ]
}

/// Prints what was measured, and gives back what ours missed.
fn table(stock: &Figures, ours: &Figures) -> Vec<String> {
    println!("{:<58} {:>10} {:>10} {:>8}", "", "SPIRE", "ours", "bound");
    let mut missed = Vec::new();
    let mut row = |what: &str, of: &dyn Fn(&Figures) -> f64, bound: Option<f64>| {
        let [stock, ours] = [of(stock), of(ours)];
        let shown = bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
        println!("{what:<58} {stock:>10.1} {ours:>10.1} {shown:>8}");
        if bound.is_some_and(|bound| ours > bound) {
            missed.push(format!("{what}: {ours:.1}, at most {shown}"));
        }
    };
    let ms = |seconds: f64| seconds * 1e3;
    type Times = fn(&Figures) -> &Vec<f64>;
    let times: [(&str, Times); 4] = [
        ("listed before it asks: from asking to the SVID", |figures| &figures.listed),
        ("listed later: from the end of the kubelet's answer", |figures| &figures.answered),
        ("listed later: from when the kubelet could list it", |figures| &figures.appeared),
        ("asked again: from asking to the SVID", |figures| &figures.again),
    ];
    for (what, of) in times {
        row(&format!("{what}, median, ms"), &|figures| ms(quantile(of(figures), 0.5)), None);
        let bound = what.contains("answer").then_some(MAX_P99_MS);
        row(&format!("{what}, p99, ms"), &|figures| ms(quantile(of(figures), 0.99)), bound);
    }
    row("requests to the kubelet, all", &|figures| figures.requests as f64, None);
    row(
        "requests to the kubelet, per s, busiest 5 s",
        &|figures| figures.busiest,
        Some(MAX_REQUESTS_PER_SECOND),
    );
    row("resident memory before, MiB", &|figures| figures.before, None);
    row("resident memory, most, MiB", &|figures| figures.most, None);
    row("growth, MiB", &|figures| figures.most - figures.before, Some(MAX_GROWTH_MIB));
    row("CPU time of the agent, s", &|figures| figures.cpu, None);
    row("workloads that got no SVID", &|figures| figures.failed as f64, Some(0.0));
    missed
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * at).ceil() as usize;
    values.get(index.saturating_sub(1)).copied().unwrap_or_default()
}
