//! Server and database are gone. The agent is killed and started again, as a service manager would, again and again.
//!
//! A fetch fails when it has no good answer within [`DEADLINE_MS`]; while nobody listens, or when its connection breaks,
//! a workload connects again until then, as client libraries do.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{READY, Scene};
use crate::admin::NewEntry;
use crate::error::{Doing, Error};
use crate::measure::{Measured, Requests, quantile};
use crate::stack::{Agent, Server, ServerSettings};
use crate::workload::{self, Ask, Asking, Job, Target, unix_micros};
use crate::workloads::{Folder, Workloads};

mod secrecy;

const WORKLOADS: usize = 20;
const DEADLINE_MS: u64 = 5_000;
/// Identities of this program, whose keys are searched for on disk.
const SEARCHED: usize = 10;

pub(super) async fn run(scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    let (cluster, proxy) = scene.database().await?;
    let settings = ServerSettings {
        jwt_ttl: Duration::from_secs(1800),
        ..ServerSettings::on(cluster.connection_string(proxy.port))
    };
    let mut server = Server::start(&scene.place, scene.side, "server", &settings).await?;
    let programs = Folder::new(scene.place.folder("w")?);
    let mut entries: Vec<NewEntry> = (0..WORKLOADS)
        .map(|number| NewEntry::new(format!("w{number}"), "node", &programs.path(&format!("w{number}"))))
        .collect();
    let own = std::env::current_exe().doing("find this program")?;
    entries.extend((0..SEARCHED).map(|number| NewEntry::new(format!("searched-for/{number}"), "node", &own)));
    server.admin().create(&entries).await?;
    let mut agent = scene.agent("node", &server, "").await?;

    scene.step(format!("{WORKLOADS} workloads start, one process each"));
    let mut workloads = Workloads::default();
    let asks = [Ask::X509, Ask::HeldJwt].map(|ask| Asking { ask, period_ms: 500 });
    for (number, entry) in entries[..WORKLOADS].iter().enumerate() {
        let target = Target { socket: agent.socket.clone(), id: entry.id() };
        let job =
            Job { targets: vec![target], asks: asks.to_vec(), deadline_ms: DEADLINE_MS, reconnect: true };
        workloads.start(&programs.program(&format!("w{number}"))?, &job).await?;
    }
    workloads.until_each_served(&[Ask::X509, Ask::HeldJwt], READY).await?;
    let keys = workload::private_keys(&agent.socket, SEARCHED).await?;
    let found = secrecy::look(&scene.place, &agent.data(), &keys).await?;

    scene.step("server and database are killed");
    server.process.kill();
    cluster.kill().await?;
    workloads.forget();
    let mut back = Vec::new();
    let rounds = scene.pick(20, 4);
    for round in 0..rounds {
        // Somewhere else in what the agent does each time.
        sleep(Duration::from_millis(1_500 + 617 * round % 1_000)).await;
        scene.step(format!("the agent is killed, {} of {rounds}", round + 1));
        back.extend(kill_once(&mut agent, &workloads).await?);
    }
    // What was begun ends.
    sleep(Duration::from_millis(DEADLINE_MS)).await;
    let mut rows = figures(scene, &workloads, back, rounds);
    rows.extend(found.figures());
    Ok(rows)
}

/// Kills the agent and starts it; again when it ends by itself. How long, in milliseconds, until every workload was
/// answered again; `None` when that did not happen within [`PATIENCE`].
async fn kill_once(agent: &mut Agent, workloads: &Workloads) -> Result<Option<f64>, Error> {
    agent.process.kill();
    let (since, began) = (unix_micros(), Instant::now());
    agent.start_again()?;
    while began.elapsed() < PATIENCE {
        if agent.process.ended().is_some() {
            sleep(RESTART_AFTER).await;
            agent.start_again()?;
        }
        let events = workloads.events();
        let good = events.iter().filter(|event| event.at + event.took > since && event.error.is_none());
        let mut first = [None; WORKLOADS];
        for event in good {
            let ended = event.at + event.took - since;
            let held: &mut Option<u64> = &mut first[event.target];
            *held = Some(held.map_or(ended, |before| before.min(ended)));
        }
        if let Some(all) = first.into_iter().collect::<Option<Vec<u64>>>() {
            return Ok(all.into_iter().max().map(|micros| micros as f64 / 1e3));
        }
        sleep(LOOK).await;
    }
    Ok(None)
}

fn figures(scene: &Scene<'_>, workloads: &Workloads, mut back: Vec<f64>, rounds: u64) -> Vec<Measured> {
    let events = workloads.events();
    let mut rows = Vec::new();
    for (ask, what, failed) in
        [(Ask::X509, "X.509-SVIDs", "x509_failed"), (Ask::HeldJwt, "JWT-SVIDs", "jwt_failed")]
    {
        let requests = Requests::of(events.iter().filter(|event| event.ask == ask));
        if let Some(error) = &requests.error {
            scene.step(format!("{what}: {} of {} failed: {error}", requests.failed, requests.count));
        }
        rows.push(Measured::never(
            failed,
            format!("failed fetches of {what}, of {}", requests.count),
            requests.failed,
        ));
    }
    let lost = usize::try_from(rounds).unwrap_or(usize::MAX) - back.len();
    rows.push(Measured::never("not_back", format!("restarts that served nobody, of {rounds}"), lost));
    back.sort_by(f64::total_cmp);
    rows.push(Measured::told(
        "back_ms",
        "from the kill to answers for all workloads, median",
        "ms",
        quantile(&back, 0.5),
    ));
    rows
}

const PATIENCE: Duration = Duration::from_secs(8);
/// As service managers do.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
