//! What keeps the entries of Pods on a server: how fast it is, and what it costs.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::entry::v1 as entry_api;
use vouchsafe_proto::spire::api::types;
use vouchsafe_testkit::free_port;
use vouchsafe_transport::connect::uds_channel;

use crate::Peer;
use crate::client::id;
use crate::cluster::{Cluster, identity};
use crate::process::Process;
use crate::world::{TRUST_DOMAIN, World};

/// What was measured. Seconds, MiB.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// From its start until the server has an entry for each Pod.
    pub(crate) all: f64,
    /// CPU time until then.
    pub(crate) cpu_all: f64,
    /// The server's.
    pub(crate) server_cpu_all: f64,
    /// Resident at the end of a while in which nothing happened.
    pub(crate) resident: f64,
    /// Of it what it allocated.
    pub(crate) anonymous: f64,
    /// The most that was seen.
    pub(crate) most: f64,
    /// The server's, when nothing happened.
    pub(crate) server_resident: f64,
    /// CPU time per minute in which nothing happens.
    pub(crate) cpu_idle: f64,
    /// The server's.
    pub(crate) server_cpu_idle: f64,
    /// From before a Pod is created until its entry is there.
    pub(crate) appeared: Vec<f64>,
    /// From before a Pod is removed until its entry is not.
    pub(crate) gone: Vec<f64>,
    /// CPU time for all these changes.
    pub(crate) cpu_changes: f64,
    /// Entries too few or too many at the end.
    pub(crate) wrong: usize,
}

/// Starts a server and what keeps its entries, where all Pods of `cluster` are; then so many Pods come and go.
pub(crate) async fn measure(peer: &Peer, cluster: &Cluster, changes: usize) -> Figures {
    let world = World::server(&peer.side).await;
    let mut running = Running::start(peer, cluster, world).await;
    let mut figures = Figures::default();
    let began = Instant::now();
    running.wait_for("all entries", BUSY_PAUSE, async |running| running.count().await == cluster.pods).await;
    figures.all = began.elapsed().as_secs_f64();
    figures.cpu_all = running.process.cpu_time().as_secs_f64();
    figures.server_cpu_all = running.world.server.cpu_time().as_secs_f64();
    eprintln!("{}: {} entries after {:.1} s", peer.name, cluster.pods, figures.all);

    sleep(SETTLE).await;
    let cpu = [&running.process, &running.world.server].map(Process::cpu_time);
    sleep(IDLE).await;
    let minutes = IDLE.as_secs_f64() / 60.0;
    figures.cpu_idle = (running.process.cpu_time() - cpu[0]).as_secs_f64() / minutes;
    figures.server_cpu_idle = (running.world.server.cpu_time() - cpu[1]).as_secs_f64() / minutes;
    let resident = running.process.resident();
    (figures.resident, figures.anonymous) = (resident.all, resident.anonymous);
    figures.server_resident = running.world.server.resident().all;

    let cpu = running.process.cpu_time();
    for change in 0..changes {
        let number = cluster.pods + change;
        let began = Instant::now();
        cluster.create(number);
        running.wait_for("the entry", PAUSE, async |running| running.has(number).await).await;
        figures.appeared.push(began.elapsed().as_secs_f64());
        // At another time of its intervals, if it has any.
        sleep(STEP * u32::try_from(change % STEPS).unwrap()).await;
        let began = Instant::now();
        cluster.delete(number);
        running.wait_for("the entry's end", PAUSE, async |running| !running.has(number).await).await;
        figures.gone.push(began.elapsed().as_secs_f64());
    }
    figures.cpu_changes = (running.process.cpu_time() - cpu).as_secs_f64();
    eprintln!("{}: {changes} Pods came and went", peer.name);
    figures.wrong = running.count().await.abs_diff(cluster.pods);
    figures.most = running.most.max(running.process.resident().all);
    figures
}

/// A server and what keeps its entries.
struct Running {
    process: Process,
    entries: entry_api::entry_client::EntryClient<Channel>,
    most: f64,
    world: World,
}

impl Running {
    async fn start(peer: &Peer, cluster: &Cluster, world: World) -> Self {
        let socket = world.path("server/api.sock");
        let file = world.path("manager.yaml");
        std::fs::write(&file, settings(&socket, [free_port(), free_port()])).unwrap();
        let mut command = peer.manager();
        command.arg(format!("--config={}", file.display()));
        command.env("ENABLE_WEBHOOKS", "false").env("KUBECONFIG", cluster.api.admin());
        let entries = entry_api::entry_client::EntryClient::new(uds_channel(&socket).await.unwrap());
        let process = Process::start(command, &world.path("manager.log"));
        Self { process, entries, most: 0.0, world }
    }

    /// Looks again and again, also at its memory.
    async fn wait_for(&mut self, what: &str, pause: Duration, so: impl AsyncFn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so(self).await {
            self.process.must_run();
            self.most = self.most.max(self.process.resident().all);
            let log = || self.process.log().lines().rev().take(20).collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < until, "still not after {PATIENCE:?}: {what}\n{}", log());
            sleep(pause).await;
        }
    }

    async fn count(&self) -> usize {
        let request = entry_api::CountEntriesRequest::default();
        let count = self.entries.clone().count_entries(request).await.unwrap().into_inner().count;
        usize::try_from(count).unwrap()
    }

    /// Whether there is the entry of a Pod.
    async fn has(&self, number: usize) -> bool {
        let by_spiffe_id = Some(id(identity(number).trim_start_matches('/')));
        let filter = Some(entry_api::list_entries_request::Filter { by_spiffe_id, ..Default::default() });
        let output_mask = Some(types::EntryMask::default());
        let request = entry_api::ListEntriesRequest { filter, output_mask, ..Default::default() };
        !self.entries.clone().list_entries(request).await.unwrap().into_inner().entries.is_empty()
    }
}

/// The manager's file: its defaults, but for the addresses.
fn settings(server: &Path, [metrics, health]: [u16; 2]) -> String {
    format!(
        "apiVersion: spire.spiffe.io/v1alpha1\nkind: ControllerManagerConfig\n\
         metrics: {{bindAddress: '127.0.0.1:{metrics}'}}\nhealth: {{healthProbeBindAddress: '127.0.0.1:{health}'}}\n\
         clusterName: c1\nclusterDomain: cluster.local\ntrustDomain: {TRUST_DOMAIN}\n\
         spireServerSocketPath: {}\n",
        server.display()
    )
}

const SETTLE: Duration = Duration::from_secs(10);
/// Three of the intervals at which both compare all of it.
const IDLE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(70);
const STEPS: usize = 7;
const PAUSE: Duration = Duration::from_millis(5);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(900);
