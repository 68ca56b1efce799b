//! What registers 1,000 and 10,000 Pods, and what else runs on Kubernetes, next to the stock programs: `bash
//! bench/registrar [--quick]`.
//!
//! The API server and its etcd are the real ones; Pods are objects, and nothing runs for them. spire-controller-manager on a
//! stock server and `vouchsafe registrar` on ours meet the same objects, one after the other:
//!
//! 1. it starts where all Pods are: how long until all entries are there;
//! 2. nothing happens for a while: what it keeps in memory and what it costs;
//! 3. one Pod comes and goes, fifty times: how long until its entry does.
//!
//! Then the memory of server, agent, CSI driver (also with volumes that it mounted) and file writer, each beside its stock
//! counterpart. Exits with 1 when ours needs more time, memory or CPU time than the stock one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

#[allow(dead_code, reason = "`spire` uses more of it")]
#[path = "../spire/client.rs"]
mod client;
mod cluster;
mod manager;
mod parts;
#[allow(dead_code, reason = "`spire` uses more of it")]
#[path = "../spire/process.rs"]
mod process;
mod table;
#[allow(dead_code, reason = "`spire` uses more of it")]
#[path = "../spire/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cluster::Cluster;
use vouchsafe_testkit::kubernetes::programs;
use world::Side;

/// How many Pods there are, first few and then more, and how often one comes and goes.
pub(crate) struct Scale {
    pods: &'static [usize],
    changes: usize,
}

const FULL: Scale = Scale { pods: &[1_000, 10_000], changes: 50 };
const QUICK: Scale = Scale { pods: &[200, 1_000], changes: 20 };

/// One of the two that are compared, with the programs beside its server and agent.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    links: PathBuf,
}

impl Peer {
    fn both(links: &Path) -> [Self; 2] {
        let [stock, ours] = Side::both(links);
        let binary = std::env::var_os("VOUCHSAFE_BIN")
            .map_or_else(|| env!("CARGO_BIN_EXE_vouchsafe").into(), PathBuf::from);
        for name in [MANAGER, HELPER] {
            std::os::unix::fs::symlink(&binary, links.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(binary, links.join("vouchsafe")).unwrap();
        [
            Self { name: "stock", side: stock, links: programs() },
            Self { name: "ours", side: ours, links: links.to_owned() },
        ]
    }

    /// What keeps the entries of Pods.
    pub(crate) fn manager(&self) -> Command {
        Command::new(self.links.join(MANAGER))
    }

    /// What writes identities to files.
    pub(crate) fn helper(&self) -> Command {
        Command::new(self.links.join(HELPER))
    }

    /// What mounts the agent's socket, in a mount namespace of its own that ends with it.
    pub(crate) fn csi_driver(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        match self.name {
            "ours" => command.arg(self.links.join("vouchsafe")).args(["csi", "run"]),
            _ => command.arg(self.links.join("spiffe-csi-driver")),
        };
        command
    }
}

fn main() -> ExitCode {
    if std::env::var_os("SPIRE").is_none() {
        eprintln!(
            "SPIRE must name the directory of spire-server and spire-agent: run `bash bench/registrar`"
        );
        return ExitCode::from(2);
    }
    let scale = if std::env::args().any(|arg| arg == "--quick") { &QUICK } else { &FULL };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let missed = runtime.block_on(measure(scale));
    missed.iter().for_each(|missed| println!("missed: {missed}"));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(scale: &Scale) -> Vec<String> {
    let links = tempfile::tempdir().unwrap();
    let peers = Peer::both(links.path());
    let [stock, ours] = &peers;
    let mut table = table::Table::default();
    let parts = [parts::measure(stock).await, parts::measure(ours).await];
    table.parts(&parts);

    let mut cluster = Cluster::start();
    let idle = [manager::measure(stock, &cluster, 0).await, manager::measure(ours, &cluster, 0).await];
    table.idle(&idle);
    for pods in scale.pods {
        cluster.grow(*pods);
        let both = [
            manager::measure(stock, &cluster, scale.changes).await,
            manager::measure(ours, &cluster, scale.changes).await,
        ];
        table.registered(*pods, scale.changes, &both);
    }
    table.missed
}

const MANAGER: &str = "spire-controller-manager";
const HELPER: &str = "spiffe-helper";
