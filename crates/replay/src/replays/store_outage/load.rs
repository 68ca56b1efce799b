//! How much a server does.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::measure::{Bound, Measured};
use crate::pages::Series;
use crate::stack::Server;

/// What a server did so far.
pub(super) struct Load {
    cpu: Duration,
    /// Calls by method.
    calls: BTreeMap<String, f64>,
    at: Instant,
}

/// What it did in a time, for each second of it.
pub(super) struct Rate {
    /// In milliseconds.
    cpu: f64,
    calls: BTreeMap<String, f64>,
}

impl Load {
    /// Calls of agents: what the operator of this replay asks for, and how often, is not the server's doing.
    pub(super) async fn of(server: &Server) -> Result<Self, Error> {
        let cpu = server.process.cpu().ok_or_else(|| Error::broken("the server ended"))?;
        let method = |name: &str| {
            let method = name.strip_prefix("spire_server_rpc_")?;
            let counts = !method.contains("elapsed_time") && !method.contains("batch_create_entry");
            counts.then(|| method.to_owned())
        };
        let calls = Series::read(server.pages).await?.sums(method);
        Ok(Self { cpu, calls, at: Instant::now() })
    }

    pub(super) fn since(&self, before: &Self) -> Rate {
        let seconds = (self.at - before.at).as_secs_f64();
        let cpu = self.cpu.saturating_sub(before.cpu).as_secs_f64();
        let rate = |(method, calls): (&String, &f64)| {
            let before = before.calls.get(method).unwrap_or(&0.0);
            (method.clone(), (calls - before) / seconds)
        };
        Rate { cpu: cpu / seconds * 1e3, calls: self.calls.iter().map(rate).collect() }
    }
}

impl Rate {
    pub(super) fn figures(&self, after: &Self) -> [Measured; 4] {
        let twice = |key, what, value: f64| Measured::told(key, what, "x", value).bound(Bound::AtMost(2.0));
        [
            Measured::told("steady_cpu_ms", "server before the outage: CPU", "ms/s", self.cpu),
            twice("cpu_ratio", "server after the return, CPU", after.cpu / self.cpu),
            Measured::told("steady_calls", "server before the outage: calls of agents", "per s", self.all()),
            twice("calls_ratio", "server after the return, calls of agents", after.all() / self.all()),
        ]
    }

    /// Calls by method, the most frequent ones.
    pub(super) fn most(&self) -> String {
        let mut methods: Vec<(&String, &f64)> = self.calls.iter().collect();
        methods.sort_by(|one, other| other.1.total_cmp(one.1));
        let shown = methods.iter().take(MOST).map(|(method, calls)| format!("{method} {calls:.2}"));
        shown.collect::<Vec<_>>().join(", ")
    }

    fn all(&self) -> f64 {
        self.calls.values().sum()
    }
}

/// Methods that are shown.
const MOST: usize = 4;
