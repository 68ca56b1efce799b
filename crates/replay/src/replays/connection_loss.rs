//! One of three servers slows down, then dies; then all die, and come back.
//!
//! The servers share a database, and each is behind a proxy with an address of its own. The agent holds [`SHORT`] SVIDs
//! that end within minutes and [`LONG`] that last for more than a day, so a forecast for a day is right when it says
//! [`SHORT`]. A Prometheus scrapes all of them with the shipped rules.

use std::time::Duration;

use nix::unistd::geteuid;
use tokio::time::{Instant, sleep};

use super::{READY, Scene};
use crate::admin::NewEntry;
use crate::error::{Doing, Error};
use crate::measure::Measured;
use crate::pages::Series;
use crate::place::free_port;
use crate::process::wait_until;
use crate::programs::Who;
use crate::prometheus::Prometheus;
use crate::proxy::{Link, Protocol, Proxy, loopback};
use crate::stack::{Agent, AgentSettings, Server, ServerSettings};
use crate::workload::{Ask, Asking, Job, Target};
use crate::workloads::{Folder, Workloads};
use fleet::Fleet;
use verdict::{Loss, Seen};

mod fleet;
mod verdict;

const SERVERS: usize = 3;
const SHORT: usize = 200;
const LONG: usize = 100;
const LONG_TTL_SECS: u32 = 48 * 3600;

/// How long things take.
struct Scale {
    /// How long the slow server is given to be left.
    slow: Duration,
    /// Of the SVIDs that end.
    ttl: Duration,
    /// How long all servers are away: the SVIDs end, and the alerts fire.
    away: Duration,
    alerts: &'static [&'static str],
}

const FULL: Scale = Scale {
    slow: Duration::from_secs(180),
    ttl: Duration::from_secs(180),
    away: Duration::from_secs(780),
    alerts: &[
        "VouchsafeAgentSyncFailing",
        "VouchsafeAgentNoGoodServer",
        "VouchsafeAgentSvidsWillExpire",
        "VouchsafeAgentRenewalBehind",
        "VouchsafeAgentEntriesStale",
        "VouchsafeAgentBundleOld",
    ],
};

/// The others compare ages with minutes, whatever the time that they wait.
const QUICK: Scale = Scale {
    slow: Duration::from_secs(25),
    ttl: Duration::from_secs(60),
    away: Duration::from_secs(85),
    alerts: &["VouchsafeAgentSyncFailing", "VouchsafeAgentNoGoodServer", "VouchsafeAgentSvidsWillExpire"],
};

/// The alerts that must fire and clear.
#[cfg(test)]
pub(crate) fn alerts() -> &'static [&'static str] {
    FULL.alerts
}

pub(super) async fn run(scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    let scale = scene.pick(FULL, QUICK);
    let (cluster, database) = scene.database().await?;
    let settings = ServerSettings {
        x509_ttl: scale.ttl,
        jwt_ttl: scale.ttl,
        agent_ttl: Duration::from_secs(3600),
        ..ServerSettings::on(cluster.connection_string(database.port))
    };
    scene.step(format!("{SERVERS} servers start on one database, each behind a proxy"));
    let mut fleet = Fleet::start(scene, &settings).await?;
    let programs = Folder::new(scene.place.folder("w")?);
    let program = programs.program("workload")?;
    let mut entries: Vec<NewEntry> =
        (0..SHORT + LONG).map(|number| NewEntry::new(format!("e{number}"), "node", &program)).collect();
    entries.iter_mut().skip(SHORT).for_each(|entry| entry.x509_ttl_secs = LONG_TTL_SECS);
    fleet.servers[0].admin().create(&entries).await?;
    let mut agent = fleet.agent(scene).await?;
    let mut workloads = Workloads::default();
    let asks = [(Ask::X509, 2_000), (Ask::NewJwt, 2_000)].map(|(ask, period_ms)| Asking { ask, period_ms });
    let id = entries[0].id();
    let job = |id, ask| Job {
        targets: vec![Target { socket: agent.socket.clone(), id }],
        asks: vec![ask],
        deadline_ms: 5_000,
        reconnect: true,
    };
    workloads.start(&program, &job(String::new(), asks[0])).await?;
    workloads.start(&program, &job(id, asks[1])).await?;
    until_held(&workloads, SHORT + LONG, READY).await?;
    let pages: Vec<u16> = fleet.servers.iter().map(|server| server.pages).collect();
    let jobs = [("agent", &[agent.pages][..]), ("server", &pages[..])];
    let prometheus = Prometheus::start(&scene.place, &jobs, scene.quick).await?;

    let mut loss = Loss::default();
    workloads.forget();
    loss.slow(scene, (&fleet, &agent), scale.slow).await?;
    loss.dies(scene, &mut fleet, &agent).await?;
    loss.failed_while_some(&workloads.events());

    scene.step(format!("all servers are killed, for {} s", scale.away.as_secs()));
    fleet.kill_all();
    let away = Instant::now();
    sleep(FORECAST_AFTER).await;
    loss.forecast = Seen::of(&agent).await.forecast;
    while away.elapsed() < scale.away {
        sleep(Duration::from_secs(1)).await;
        loss.fired.extend(prometheus.firing().await?);
    }
    loss.ended = Some(SHORT + LONG - held(&workloads));
    let survived = agent.process.ended().is_none();

    scene.step("all servers start again");
    let back = Instant::now();
    fleet.start_all().await?;
    if survived {
        loss.recovered = until_held(&workloads, SHORT + LONG, RECOVERY).await.ok().map(|()| back.elapsed());
    }
    let cleared = wait_until("the alerts clear", RECOVERY, async || {
        let firing = prometheus.firing().await?;
        Ok((!scale.alerts.iter().any(|alert| firing.contains(*alert))).then_some(()))
    });
    loss.cleared = cleared.await.ok().map(|()| back.elapsed());
    loss.survived = survived;
    Ok(loss.figures(scene, scale.alerts))
}

/// X.509-SVIDs in the last answer.
fn held(workloads: &Workloads) -> usize {
    let events = workloads.events();
    events.iter().rev().find(|event| event.ask == Ask::X509).map_or(0, |event| event.count)
}

async fn until_held(workloads: &Workloads, count: usize, patience: Duration) -> Result<(), Error> {
    wait_until(
        "the workload holds all SVIDs",
        patience,
        async || Ok((held(workloads) == count).then_some(())),
    )
    .await
}

/// By then the agent has noticed, and no SVID has ended yet.
const FORECAST_AFTER: Duration = Duration::from_secs(15);
/// Agents back off for up to four minutes in SPIRE.
const RECOVERY: Duration = Duration::from_secs(300);
