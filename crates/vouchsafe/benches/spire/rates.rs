//! Two servers in turns.
//!
//! What counts is the CPU time of the process that serves, by request; its inverse is what one core does. Neither the
//! clients nor other programs are in it. Latencies are what the clients see on this machine, and they are noisy.

use std::time::Duration;

use tokio::time::sleep;

use crate::load::{median, quantile};
use crate::process::Process;
use crate::report::{Better, Report, Row};
use crate::{Scale, TIMES};

/// Medians over the turns.
struct Cost {
    per_core: f64,
    p99_millis: f64,
}

/// Something that is asked for.
pub(crate) struct Subject {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// How many of them a call brings.
    pub(crate) per_call: usize,
}

impl Subject {
    /// Lets `turn` load the first or the second of `servers` for so long, in turns. It gives the latencies of its calls.
    pub(crate) async fn measure(
        &self,
        servers: [&Process; 2],
        turn: impl AsyncFn(usize, Duration) -> Vec<Duration>,
        scale: &Scale,
        report: &mut Report,
    ) {
        let mut turns = [const { Vec::new() }; 2];
        for round in 0..=scale.rounds {
            for place in 0..servers.len() {
                let which = (round + place) % servers.len();
                let before = servers[which].cpu_time();
                let latencies = turn(which, scale.turn).await;
                // What the last calls left to tidy up is theirs.
                sleep(TIDY).await;
                let cpu = servers[which].cpu_time() - before;
                // The first round warms up.
                if round > 0 {
                    let done = latencies.len() * self.per_call;
                    turns[which].push((done as f64 / cpu.as_secs_f64(), quantile(&latencies, 0.99)));
                }
            }
        }
        let [stock, ours] = turns.map(|turns| Cost {
            per_core: median(turns.iter().map(|(rate, _)| *rate)),
            p99_millis: median(turns.iter().map(|(_, p99)| p99 / 1e3)),
        });
        report.add(&Row {
            what: self.what.clone(),
            unit: self.unit,
            better: Better::More,
            values: [stock.per_core, ours.per_core],
            expected: Some(TIMES),
        });
        report.add(&Row {
            what: format!("{}, p99", self.what),
            unit: "ms",
            better: Better::Less,
            values: [stock.p99_millis, ours.p99_millis],
            expected: None,
        });
    }
}

const TIDY: Duration = Duration::from_millis(50);
