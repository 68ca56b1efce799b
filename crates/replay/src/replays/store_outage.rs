//! The database is gone for 5 minutes under 200 agents: first nothing answers (a network that loses everything), then
//! connections are refused (the machine is back, its database is not).
//!
//! Each agent has two workloads that run throughout and ask every 5 s, one with SVIDs that last and one with SVIDs that are
//! renewed again and again; and one that starts during the outage, was registered before, and asks for a
//! token too that nobody had. Right after the return each agent gets a new entry. The time before the outage, in which each agent got
//! a new entry too, is what the server's load is compared with; both times see each brief SVID renewed once.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{READY, Scene};
use crate::admin::NewEntry;
use crate::error::Error;
use crate::measure::{Bound, Measured, Requests, quantile};
use crate::pages;
use crate::process::wait_until;
use crate::proxy::Link;
use crate::stack::{Agent, Server, ServerSettings};
use crate::workload::{Ask, Asking, Event, Job, Target, unix_micros};
use crate::workloads::{Folder, Workloads};
use load::Load;

mod load;

/// The size of it.
struct Scale {
    agents: usize,
    outage: Duration,
    /// The time whose load counts, before the outage and after. What is brief is renewed once in it.
    window: Duration,
    /// How long new entries are waited for after that.
    patience: Duration,
}

const FULL: Scale = Scale {
    agents: 200,
    outage: Duration::from_secs(300),
    window: Duration::from_secs(60),
    patience: Duration::from_secs(300),
};

const QUICK: Scale = Scale {
    agents: 20,
    outage: Duration::from_secs(30),
    window: Duration::from_secs(20),
    patience: Duration::from_secs(60),
};

impl Scale {
    /// Of what is renewed at half of its life.
    fn brief(&self) -> Duration {
        self.window * 2
    }
}

pub(super) async fn run(scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    let scale = scene.pick(FULL, QUICK);
    let (cluster, proxy) = scene.database().await?;
    let settings = ServerSettings {
        jwt_ttl: scale.brief(),
        ..ServerSettings::on(cluster.connection_string(proxy.port))
    };
    let server = Server::start(&scene.place, scene.side, "server", &settings).await?;
    let programs = Folder::new(scene.place.folder("w")?);
    for kind in ["existing", "brief", "fresh"] {
        let mut entries = entries(&programs, scale.agents, kind, kind);
        if kind == "brief" {
            let secs = u32::try_from(scale.brief().as_secs()).unwrap_or(u32::MAX);
            entries.iter_mut().for_each(|entry| entry.x509_ttl_secs = secs);
        }
        server.admin().create(&entries).await?;
    }
    let agents = start_agents(scene, &server, scale.agents).await?;
    let mut existing = Workloads::default();
    let asks = [(Ask::X509, 5_000), (Ask::HeldJwt, 5_000), (Ask::Watch, 0)];
    existing.start(&programs.program("existing")?, &job(&agents, 0, "existing", &asks)).await?;
    existing.until_each_served(&[Ask::X509, Ask::HeldJwt, Ask::Watch], READY * 2).await?;
    let mut brief = Workloads::default();
    brief.start(&programs.program("brief")?, &job(&agents, 0, "brief", &[(Ask::X509, 5_000)])).await?;
    brief.until_each_served(&[Ask::X509], READY).await?;
    existing.forget();
    brief.forget();

    scene.step(format!("steady for {} s; each agent gets a new entry", scale.window.as_secs()));
    let before = Load::of(&server).await?;
    let steady_entries = entries(&programs, scale.agents, "steady", "existing");
    let written = write(&server, &steady_entries).await?;
    sleep(scale.window).await;
    let steady = Load::of(&server).await?.since(&before);
    let steady_served = served(&existing.events(), &steady_entries, written);

    let mut fresh = Workloads::default();
    let live = outage(scene, &scale, (&server, &proxy, &agents), (&programs, &mut fresh)).await?;
    let before = Load::of(&server).await?;
    scene.step("the database is back; each agent gets a new entry");
    proxy.set_link(Link::Up);
    let (back, began) = (unix_micros(), Instant::now());
    let late_entries = entries(&programs, scale.agents, "late", "existing");
    let written = write(&server, &late_entries).await?;
    let fresh = std::mem::take(&mut fresh).events();
    sleep(scale.window.saturating_sub(began.elapsed())).await;
    let after = Load::of(&server).await?.since(&before);
    // A write that came late is watched for as long as one that came at once.
    let until = scale.patience + began.elapsed();
    while served(&existing.events(), &late_entries, back).len() < scale.agents && began.elapsed() < until {
        sleep(Duration::from_millis(500)).await;
    }
    let late = Late { entries: late_entries, back, written };
    let mut rows = failures(scene, [&existing.events(), &brief.events(), &fresh], scale.brief());
    rows.push(Measured::must("live", "the server stays live during the outage", live));
    rows.extend(deliveries(&existing.events(), &late, &steady_served));
    rows.extend(steady.figures(&after));
    scene.step(format!("calls per second before: {}; after: {}", steady.most(), after.most()));
    Ok(rows)
}

async fn start_agents(scene: &Scene<'_>, server: &Server, count: usize) -> Result<Vec<Agent>, Error> {
    scene.step(format!("{count} agents start"));
    let mut agents = Vec::new();
    for number in 0..count {
        let mut agent = scene.agent(&format!("a{number}"), server, "").await?;
        // Gently: the machine is small, and how fast agents start is not what is measured.
        let socket = agent.socket.clone();
        wait_until("an agent listens", READY, async || {
            agent.process.must_run()?;
            Ok(socket.exists().then_some(()))
        })
        .await?;
        agents.push(agent);
    }
    Ok(agents)
}

/// Whether the server was live all the time.
async fn outage(
    scene: &Scene<'_>,
    scale: &Scale,
    (server, proxy, agents): (&Server, &crate::proxy::Proxy, &[Agent]),
    (programs, fresh): (&Folder, &mut Workloads),
) -> Result<bool, Error> {
    scene.step(format!("the database is gone for {} s; nothing answers", scale.outage.as_secs()));
    proxy.set_link(Link::Silent);
    let mut live = true;
    let asks = [(Ask::X509, 5_000), (Ask::HeldJwt, 5_000)];
    let quarter = agents.len().div_ceil(QUARTERS);
    let pause = scale.outage / (2 * u32::try_from(QUARTERS).unwrap_or(1));
    for (number, agents) in agents.chunks(quarter).enumerate() {
        sleep(pause).await;
        scene.step(format!("{} new workloads start", agents.len()));
        // A process of its own for each group, so all of them are new to their agents.
        let program = programs.program("fresh")?;
        fresh.start(&program, &job(agents, number * quarter, "fresh", &asks)).await?;
        if number == QUARTERS / 2 {
            scene.step("connections to the database are refused from now on");
            proxy.set_link(Link::Refused);
        }
        sleep(pause).await;
        live &= pages::get(server.health, "/live").await.is_ok_and(|(status, _)| status == 200);
    }
    Ok(live)
}

/// One entry for each agent, `<kind>/<number>`, for the program that is named.
fn entries(programs: &Folder, agents: usize, kind: &str, program: &str) -> Vec<NewEntry> {
    let entry =
        |number| NewEntry::new(format!("{kind}/{number}"), &format!("a{number}"), &programs.path(program));
    (0..agents).map(entry).collect()
}

fn job(agents: &[Agent], first: usize, kind: &str, asks: &[(Ask, u64)]) -> Job {
    let server = crate::stack::TRUST_DOMAIN;
    let target = |(number, agent): (usize, &Agent)| Target {
        socket: agent.socket.clone(),
        id: format!("spiffe://{server}/{kind}/{}", first + number),
    };
    Job {
        targets: agents.iter().enumerate().map(target).collect(),
        asks: asks.iter().map(|&(ask, period_ms)| Asking { ask, period_ms }).collect(),
        deadline_ms: 5_000,
        reconnect: false,
    }
}

/// Writes them as soon as the server takes them. When it did.
async fn write(server: &Server, entries: &[NewEntry]) -> Result<u64, Error> {
    wait_until("the server takes new entries", WRITE_PATIENCE, async || {
        Ok(server.admin().create(entries).await.ok())
    })
    .await?;
    Ok(unix_micros())
}

/// Seconds from `since` until each of `entries` was in a workload's hands; those that never were are missing.
fn served(events: &[Event], entries: &[NewEntry], since: u64) -> Vec<f64> {
    let mut first = HashMap::new();
    for event in events {
        for id in &event.new {
            first.entry(id.as_str()).or_insert(event.at);
        }
    }
    let seconds = |entry: &NewEntry| Some(first.get(entry.id().as_str())?.saturating_sub(since) as f64 / 1e6);
    let mut seconds: Vec<f64> = entries.iter().filter_map(seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn failures(scene: &Scene<'_>, [existing, brief, fresh]: [&[Event]; 3], ttl: Duration) -> Vec<Measured> {
    let ttl = ttl.as_secs();
    let kinds = [
        (existing, Ask::X509, "existing workloads, X.509-SVIDs of 1 h".to_owned(), "existing_x509_failed"),
        (brief, Ask::X509, format!("existing workloads, X.509-SVIDs of {ttl} s"), "brief_x509_failed"),
        (existing, Ask::HeldJwt, format!("existing workloads, JWT-SVIDs of {ttl} s"), "existing_jwt_failed"),
        (existing, Ask::Watch, "existing workloads, open streams".to_owned(), "existing_streams_lost"),
        (fresh, Ask::X509, "workloads that start in the outage, X.509-SVIDs".to_owned(), "new_x509_failed"),
        (fresh, Ask::HeldJwt, "workloads that start in the outage, JWT-SVIDs".to_owned(), "new_jwt_failed"),
    ];
    let row = |(events, ask, what, key): (&[Event], _, String, _)| {
        let requests = Requests::of(events.iter().filter(|event| event.ask == ask));
        if let Some(error) = &requests.error {
            scene.step(format!("{what}: {} of {} failed: {error}", requests.failed, requests.count));
        }
        Measured::never(key, format!("{what}: failures of {}", requests.count), requests.failed)
    };
    kinds.into_iter().map(row).collect()
}

/// The entries that were written after the return.
struct Late {
    entries: Vec<NewEntry>,
    /// When the database was back, and when the entries were written.
    back: u64,
    written: u64,
}

fn deliveries(events: &[Event], late: &Late, steady: &[f64]) -> Vec<Measured> {
    let after = served(events, &late.entries, late.back);
    let unserved = late.entries.len() - after.len();
    vec![
        Measured::never(
            "late_unserved",
            format!("of {} entries written after the return, never served", late.entries.len()),
            unserved,
        ),
        Measured::told(
            "late_p99_s",
            "from the return to a new entry's SVID: p99",
            "s",
            quantile(&after, 0.99),
        )
        .bound(Bound::AtMost(3.0)),
        Measured::told("late_median_s", "the same: median", "s", quantile(&after, 0.5)),
        Measured::told(
            "written_s",
            "from the return until the entries were written",
            "s",
            late.written.saturating_sub(late.back) as f64 / 1e6,
        ),
        Measured::told(
            "steady_p99_s",
            "before the outage, from write to SVID: p99",
            "s",
            quantile(steady, 0.99),
        ),
    ]
}

const QUARTERS: usize = 4;
/// How long an operator tries to write.
const WRITE_PATIENCE: Duration = Duration::from_secs(120);
