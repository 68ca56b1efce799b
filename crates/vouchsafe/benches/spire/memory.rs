//! Resident memory of server and agent, with few and many entries.

use tokio::time::sleep;

use crate::client::entry;
use crate::report::{Better, Report, Row};
use crate::world::{NODE, World, eventually};
use crate::{Scale, TIMES};

/// Entries in one call.
const BATCH: usize = 500;
/// SVIDs that an agent holds by default; it has no more of the entries than that.
const HELD_BY_DEFAULT: usize = 1_000;
/// Nobody's user ids.
const FIRST_UID: usize = 100_000;

/// All entries are for the one agent, each for a user of its own.
pub(crate) async fn measure(worlds: &[World; 2], scale: &Scale, report: &mut Report) {
    Report::section(&format!("Resident memory, {} s after the last change", scale.settle.as_secs()));
    sleep(scale.settle).await;
    read(worlds, "idle", report);
    let mut before = 0;
    for &entries in scale.entries {
        let [stock, ours] = worlds;
        tokio::join!(fill(stock, before..entries), fill(ours, before..entries));
        before = entries;
        sleep(scale.settle).await;
        read(worlds, &format!("{entries} entries"), report);
    }
}

async fn fill(world: &World, numbers: std::ops::Range<usize>) {
    let (admin, end) = (world.admin().await, numbers.end);
    for first in numbers.step_by(BATCH) {
        let batch = (first..first + BATCH).map(|number| {
            entry(NODE, &format!("ns/bench/sa/w{number}"), format!("uid:{}", FIRST_UID + number))
        });
        admin.create(batch.collect()).await;
    }
    let held = end.min(HELD_BY_DEFAULT);
    eventually("the agent has asked for its SVIDs", async || {
        let log = world.agent().log();
        (log.lines().filter(|line| line.contains("Creating X509-SVID")).count() >= held).then_some(())
    })
    .await;
}

fn read(worlds: &[World; 2], when: &str, report: &mut Report) {
    for (name, process) in [("server", server as fn(&World) -> &_), ("agent", World::agent)] {
        let resident = worlds.each_ref().map(|world| process(world).resident());
        for (what, expected, values) in [
            ("resident", Some(TIMES), resident.map(|resident| resident.all)),
            ("of it anonymous", None, resident.map(|resident| resident.anonymous)),
        ] {
            let what = format!("{name}, {when}, {what}");
            report.add(&Row { what, unit: "MiB", better: Better::Less, values, expected });
        }
    }
}

fn server(world: &World) -> &crate::process::Process {
    &world.server
}
