//! One node: a fake kubelet, an agent, and processes in the cgroups of its Pods.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, sleep_until};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_testkit::kubelet::{Admits, FakeKubelet, FakePod, PodCgroup, list_json};

use crate::client::id;
use crate::workload::WORKLOAD;
use crate::world::{NODE, World};

/// How much happens.
pub(crate) struct Scale {
    /// Pods that are listed at a time, and again as many that come later; each of the former half has one workload, and
    /// each of the others too.
    pub(crate) pods: usize,
    /// Bytes of the list.
    pub(crate) bytes: usize,
    /// In how many waves the others come.
    pub(crate) waves: usize,
    /// How often all of it happens, each time with other Pods.
    pub(crate) rounds: usize,
}

/// What was measured. Seconds, MiB.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Of containers that were listed before: from asking to the SVID.
    pub(crate) listed: Vec<f64>,
    /// Of the others: from the last byte of the kubelet's first answer that has it.
    pub(crate) answered: Vec<f64>,
    /// Of the others: from when the kubelet would have listed it.
    pub(crate) appeared: Vec<f64>,
    /// From asking to the SVID, of all, the second time.
    pub(crate) again: Vec<f64>,
    pub(crate) requests: usize,
    /// Requests per second, in the busiest five seconds.
    pub(crate) busiest: f64,
    pub(crate) before: f64,
    pub(crate) most: f64,
    pub(crate) cpu: f64,
    pub(crate) failed: usize,
}

struct Workload {
    pod: usize,
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _cgroup: PodCgroup,
}

impl Workload {
    /// Its process first, or its cgroup cannot go.
    async fn end(mut self) {
        drop(self.input);
        self.process.wait().await.unwrap();
    }
}

/// When it asked and when it had its SVID; `None` without one.
type Fetched = Option<(f64, f64)>;

pub(crate) async fn measure(name: &str, world: World, scale: &Scale) -> Figures {
    let kubelet = FakeKubelet::secure("node-1", Admits::Token).await;
    let files = kubelet.files();
    let attestors = format!(
        r#"WorkloadAttestor "k8s" {{ plugin_data {{ kubelet_secure_port = {} kubelet_ca_path = "{}" token_path = "{}" }} }}"#,
        kubelet.port(),
        files.ca.display(),
        files.token.display()
    );
    let world = world.with_attestors(&attestors).await;
    world.admin().await.create(vec![entry()]).await;
    // Until the SVID is there.
    sleep(SETTLE).await;
    let mut figures = Figures { before: world.agent().resident().all, ..Figures::default() };
    let cpu = world.agent().cpu_time();
    for round in 0..scale.rounds {
        let numbers = 2 * scale.pods * round;
        let pods: Vec<_> = (0..2 * scale.pods).map(|number| FakePod::number(numbers + number)).collect();
        let mut workloads = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            workloads.push(
                start(&format!("vouchsafe-bench-{}-{name}", std::process::id()), number, pod, &world).await,
            );
        }
        happen(&kubelet, &pods, &mut workloads, &world, scale, &mut figures).await;
        for workload in workloads {
            workload.end().await;
        }
        eprintln!("{name}: round {} of {}", round + 1, scale.rounds);
    }
    figures.cpu = (world.agent().cpu_time() - cpu).as_secs_f64();
    let times = kubelet.request_times();
    figures.requests = times.len();
    let within =
        |start: &Instant| times.iter().filter(|at| *at >= start && **at - *start < NEARLY_BUSY).count();
    figures.busiest = times.iter().map(within).max().unwrap_or_default() as f64 / BUSY.as_secs_f64();
    figures
}

async fn happen(
    kubelet: &FakeKubelet,
    pods: &[FakePod],
    workloads: &mut [Workload],
    world: &World,
    scale: &Scale,
    figures: &mut Figures,
) {
    let (first, _) = pods.split_at(scale.pods);
    let mut generations: HashMap<usize, (u64, f64)> = HashMap::new();
    let generation = kubelet.lists(first, scale.bytes);
    generations.extend((0..scale.pods).map(|number| (number, (generation, now()))));
    // Writing a list takes time that is not the kubelet's.
    let waves: Vec<_> = (1..=scale.waves)
        .map(|wave| scale.pods * wave / scale.waves)
        .map(|come| (come, list_json(&pods[come..scale.pods + come], scale.bytes)))
        .collect();
    let churn = async {
        let mut at = Instant::now();
        for (come, list) in waves {
            at += WAVE;
            sleep_until(at).await;
            let generation = kubelet.serves(list);
            for number in scale.pods..scale.pods + come {
                generations.entry(number).or_insert_with(|| (generation, now()));
            }
        }
        // The longest that an agent may need.
        std::future::pending::<()>().await;
    };
    let mut most: f64 = figures.most;
    let watch = async {
        loop {
            most = most.max(world.agent().resident().all);
            sleep(WATCH).await;
        }
    };
    let fetched = tokio::select! {
        fetched = ask_all(workloads) => fetched,
        () = churn => Vec::new(),
        () = watch => Vec::new(),
    };
    let answers = kubelet.answered();
    for (workload, fetched) in workloads.iter().zip(fetched) {
        let (generation, listed) = generations.get(&workload.pod).copied().unwrap_or_default();
        let Some((asked, had)) = fetched else {
            figures.failed += 1;
            continue;
        };
        if workload.pod < scale.pods {
            figures.listed.push(had - asked);
            continue;
        }
        let answered = answers.iter().find(|(sent, _)| *sent >= generation).map(|(_, at)| wall(*at));
        figures.appeared.push(had - listed.max(asked));
        figures.answered.push((had - answered.unwrap_or(listed).max(asked)).max(0.0));
    }
    // Workloads of Pods that have left are known no more to an agent that looks at the newest list only.
    kubelet.lists(pods, scale.bytes);
    sleep(SETTLE).await;
    let again = tokio::select! {
        fetched = ask_all(workloads) => fetched,
        () = async { loop { most = most.max(world.agent().resident().all); sleep(WATCH).await; } } => Vec::new(),
    };
    figures.most = most.max(figures.most);
    for fetched in again {
        match fetched {
            Some((asked, had)) => figures.again.push(had - asked),
            None => figures.failed += 1,
        }
    }
}

async fn start(name: &str, number: usize, pod: &FakePod, world: &World) -> Workload {
    let cgroup = PodCgroup::make(name, pod);
    let program = std::env::current_exe().unwrap();
    let mut command = Command::from(cgroup.command(&program));
    command.arg(WORKLOAD).arg(world.workload_socket());
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
    assert_eq!(output.next_line().await.unwrap().as_deref(), Some("ready"));
    let input = process.stdin.take().unwrap();
    Workload { pod: number, process, input, output, _cgroup: cgroup }
}

/// All at once.
async fn ask_all(workloads: &mut [Workload]) -> Vec<Fetched> {
    for workload in workloads.iter_mut() {
        workload.input.write_all(b"\n").await.unwrap();
    }
    let mut fetched = Vec::new();
    for workload in workloads {
        let line = workload.output.next_line().await.unwrap().unwrap();
        let times = line.split_once(' ').and_then(|(asked, had)| Some((seconds(asked)?, seconds(had)?)));
        if times.is_none() {
            eprintln!("workload {}: {line}", workload.pod);
        }
        fetched.push(times);
    }
    fetched
}

fn seconds(nanos: &str) -> Option<f64> {
    Some(Duration::from_nanos(nanos.parse().ok()?).as_secs_f64())
}

fn now() -> f64 {
    Clock::system().now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn wall(at: Instant) -> f64 {
    now() - (Instant::now() - at).as_secs_f64()
}

/// For every Pod of the namespace, so that the SVID is there before anybody asks.
fn entry() -> types::Entry {
    types::Entry {
        spiffe_id: Some(id("web")),
        parent_id: Some(id(NODE)),
        selectors: vec![types::Selector { r#type: "k8s".into(), value: "ns:shop".into() }],
        ..types::Entry::default()
    }
}

const SETTLE: Duration = Duration::from_secs(12);
const WAVE: Duration = Duration::from_millis(500);
const WATCH: Duration = Duration::from_millis(20);
const BUSY: Duration = Duration::from_secs(5);
/// A little less: connections take different times to arrive.
const NEARLY_BUSY: Duration = Duration::from_millis(4_900);
