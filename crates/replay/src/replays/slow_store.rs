//! Every database call takes 5 s. 200 workloads of one agent ask for JWT- and X.509-SVIDs, each request from a connection
//! of its own, with a deadline of 500 ms.
//!
//! A credential is *held* when the same workload had it before. A *first signature* is a token for an audience that
//! nobody asked for, and the X.509-SVID of a workload that starts now and whose entry is beyond what the agent holds
//! ahead of need (`x509_svid_cache_max_size`). What it lets go for these are SVIDs that nobody ever asked for.

use std::time::Duration;

use tokio::time::sleep;

use super::{READY, Scene};
use crate::admin::NewEntry;
use crate::error::Error;
use crate::measure::{Bound, Measured, Requests};
use crate::stack::{Server, ServerSettings};
use crate::workload::{Ask, Asking, Job, Target};
use crate::workloads::{Folder, Workloads};

const WORKLOADS: usize = 200;
const DEADLINE_MS: u64 = 500;
const DELAY: Duration = Duration::from_secs(5);

pub(super) async fn run(scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    let (window, starters) = scene.pick((Duration::from_secs(90), 40), (Duration::from_secs(20), 20));
    let (cluster, proxy) = scene.database().await?;
    // Short, so that renewals fall into the time that is watched.
    let settings = ServerSettings {
        x509_ttl: scene.pick(Duration::from_secs(120), Duration::from_secs(40)),
        jwt_ttl: scene.pick(Duration::from_secs(120), Duration::from_secs(40)),
        ..ServerSettings::on(cluster.connection_string(proxy.port))
    };
    let server = Server::start(&scene.place, scene.side, "server", &settings).await?;
    let programs = Folder::new(scene.place.folder("w")?);
    let name = |number| match number {
        number if number < WORKLOADS => format!("w{number}"),
        number if number < WORKLOADS + starters => format!("z-starter{number}"),
        number => format!("a-unused{number}"),
    };
    let entries: Vec<NewEntry> = (0..WORKLOADS + 2 * starters)
        .map(|number| NewEntry::new(name(number), "node", &programs.path(&format!("w{number}"))))
        .collect();
    server.admin().create(&entries).await?;
    let limit = format!("x509_svid_cache_max_size = {}", WORKLOADS + starters);
    let mut agent = scene.agent("node", &server, &limit).await?;

    scene.step(format!("{WORKLOADS} workloads start, one process each"));
    let one = |entry: &NewEntry, asks: &[Asking], deadline_ms| Job {
        targets: vec![Target { socket: agent.socket.clone(), id: entry.id() }],
        asks: asks.to_vec(),
        deadline_ms,
        reconnect: false,
    };
    let mut warming = Workloads::default();
    let each = |ask| Asking { ask, period_ms: 500 };
    for (number, entry) in entries[..WORKLOADS].iter().enumerate() {
        let program = programs.program(&format!("w{number}"))?;
        warming.start(&program, &one(entry, &[each(Ask::X509), each(Ask::HeldJwt)], 10_000)).await?;
    }
    warming.until_each_served(&[Ask::X509, Ask::HeldJwt], READY).await?;
    drop(warming);

    scene.step(format!("from now on every database call takes {} s", DELAY.as_secs()));
    proxy.set_per_call(DELAY);
    let (calls, mut steady) = (proxy.calls(), Workloads::default());
    let asks = [(Ask::X509, 2_000), (Ask::HeldJwt, 2_000), (Ask::NewJwt, 10_000)]
        .map(|(ask, period_ms)| Asking { ask, period_ms });
    let apart = Duration::from_millis(2_000) / u32::try_from(WORKLOADS).unwrap_or(1);
    for (number, entry) in entries[..WORKLOADS].iter().enumerate() {
        steady.start(&programs.program(&format!("w{number}"))?, &one(entry, &asks, DEADLINE_MS)).await?;
        sleep(apart).await;
    }
    // What a program does at its start is not what is measured.
    sleep(Duration::from_secs(2)).await;
    steady.forget();
    scene.step(format!("watching for {} s, while {starters} further workloads start", window.as_secs()));
    let mut starting = Workloads::default();
    let pause = window / u32::try_from(starters + 1).unwrap_or(1);
    for (number, entry) in entries.iter().enumerate().skip(WORKLOADS).take(starters) {
        sleep(pause).await;
        let asks = [Asking { ask: Ask::X509, period_ms: 0 }];
        starting.start(&programs.program(&format!("w{number}"))?, &one(entry, &asks, DEADLINE_MS)).await?;
    }
    sleep(pause).await;
    starting.until_asked(starters, READY).await?;
    agent.process.must_run()?;
    let per_second = (proxy.calls() - calls) as f64 / window.as_secs_f64();
    Ok(figures(scene, &steady, &starting, per_second))
}

fn figures(scene: &Scene<'_>, steady: &Workloads, starting: &Workloads, calls: f64) -> Vec<Measured> {
    let (steady, starting) = (steady.events(), starting.events());
    let of = |ask| Requests::of(steady.iter().filter(move |event| event.ask == ask));
    let (x509, jwt, new) = (of(Ask::X509), of(Ask::HeldJwt), of(Ask::NewJwt));
    let first = Requests::of(starting.iter());
    let mut rows = Vec::new();
    let kinds = [
        ("held X.509-SVID", &x509, ["x509_missed", "x509_p99_ms"], 20.0),
        ("held JWT-SVID", &jwt, ["jwt_missed", "jwt_p99_ms"], 20.0),
        ("first JWT-SVID for an audience", &new, ["first_jwt_missed", "first_jwt_p99_ms"], 50.0),
        ("first X.509-SVID of a new workload", &first, ["first_x509_missed", "first_x509_p99_ms"], 50.0),
    ];
    for (what, requests, [missed, p99], bound) in kinds {
        if let Some(error) = &requests.error {
            scene.step(format!("{what}: {} of {} failed: {error}", requests.failed, requests.count));
        }
        let asked = format!("{what}: deadlines missed of {}", requests.count);
        rows.push(Measured::never(missed, asked, requests.failed));
        rows.push(
            Measured::told(p99, format!("{what}: p99"), "ms", requests.quantile(0.99))
                .bound(Bound::AtMost(bound)),
        );
    }
    rows.push(Measured::told("database_calls", "database calls", "per s", calls));
    rows
}
