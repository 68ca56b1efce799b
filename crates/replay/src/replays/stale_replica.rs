//! The server reads from a replica that has 551 of 665 entries.
//!
//! An agent and its workload hold all 665. Then the address that the server reads from leads to a replica that stopped
//! replaying before the last 114 were written, as after a failover of readers. Later the server is restarted while
//! the replica still lags.

use std::time::Duration;

use tokio::time::sleep;

use super::{READY, Scene};
use crate::admin::NewEntry;
use crate::error::Error;
use crate::measure::Measured;
use crate::postgres::Cluster;
use crate::proxy::Proxy;
use crate::stack::{Server, ServerSettings};
use crate::workload::{Ask, Asking, Job, Target};
use crate::workloads::{Folder, Workloads};

const ALL: usize = 665;
const ON_THE_REPLICA: usize = 551;

pub(super) async fn run(scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    scene.step("starting PostgreSQL, a streaming replica, and proxies before them");
    let primary = Cluster::primary_of_a_replica().await?;
    let writer = Proxy::before_postgres(primary.port()).await?;
    let replica = primary.replica().await?;
    let reader = Proxy::before_postgres(primary.port()).await?;
    let settings = ServerSettings {
        ro_connection_string: Some(primary.connection_string(reader.port)),
        ..ServerSettings::on(primary.connection_string(writer.port))
    };
    let mut server = Server::start(&scene.place, scene.side, "server", &settings).await?;
    let programs = Folder::new(scene.place.folder("w")?);
    let program = programs.program("reader")?;
    let entries: Vec<NewEntry> =
        (0..ALL).map(|number| NewEntry::new(format!("e{number}"), "node", &program)).collect();
    let mut agent = scene.agent("node", &server, "").await?;
    scene.step(format!("writing {ON_THE_REPLICA} entries; then the replica stops replaying"));
    server.admin().create(&entries[..ON_THE_REPLICA]).await?;
    let mut workloads = Workloads::default();
    let asks = [(Ask::Watch, 0), (Ask::X509, 2_000)].map(|(ask, period_ms)| Asking { ask, period_ms });
    let target = Target { socket: agent.socket.clone(), id: String::new() };
    let job = Job { targets: vec![target], asks: asks.to_vec(), deadline_ms: 10_000, reconnect: true };
    workloads.start(&program, &job).await?;
    until_held(&workloads, ON_THE_REPLICA).await?;
    replica.pause_after(&primary).await?;
    scene.step(format!("writing {} more", ALL - ON_THE_REPLICA));
    server.admin().create(&entries[ON_THE_REPLICA..]).await?;
    until_held(&workloads, ALL).await?;

    let window = scene.pick(Duration::from_secs(120), Duration::from_secs(20));
    scene.step(format!("the reader leads to the replica; watching for {} s", window.as_secs()));
    workloads.forget();
    reader.lead_to(replica.port());
    sleep(window).await;
    agent.process.must_run()?;
    let led = withdrawn(&workloads);

    scene.step("the server is restarted while the replica lags");
    workloads.forget();
    server.restart().await?;
    sleep(window).await;
    agent.process.must_run()?;
    let restarted = withdrawn(&workloads);
    let lost = workloads.events().iter().filter(|event| event.error.is_some()).count();
    Ok(vec![
        Measured::never("withdrawn", format!("identities withdrawn, of {ALL}, while the replica lags"), led),
        Measured::never("withdrawn_restart", "and after a restart of the server", restarted),
        Measured::never("failed", "failed fetches", lost),
        Measured::told(
            "replica_calls",
            "database calls that the replica answered",
            "",
            reader.calls() as f64,
        ),
    ])
}

async fn until_held(workloads: &Workloads, count: usize) -> Result<(), Error> {
    let held = |ask| {
        workloads.until("the workload has all SVIDs", READY, move |events| {
            let last = events.iter().rev().find(|event| event.ask == ask && event.error.is_none())?;
            (last.count == count).then_some(())
        })
    };
    held(Ask::Watch).await?;
    held(Ask::X509).await
}

/// How many of all were missing at the worst moment. Nothing heard is nothing held.
fn withdrawn(workloads: &Workloads) -> usize {
    let events = workloads.events();
    let held = events.iter().filter(|event| event.error.is_none()).map(|event| event.count);
    ALL.saturating_sub(held.min().unwrap_or(0))
}
