//! The figures and the verdict.

use std::time::Duration;

/// What was seen at one size of the fleet.
pub(crate) struct Row {
    pub(crate) agents: usize,
    pub(crate) entries: usize,
    /// From the first attestation of this step to the last SVID.
    pub(crate) ready: Duration,
    /// CPU of the server, 1.0 is one core.
    pub(crate) cores: f64,
    /// MiB.
    pub(crate) resident: f64,
    /// Transactions per second in the database.
    pub(crate) transactions: Option<f64>,
    /// Calls per second that the fleet made.
    pub(crate) calls: f64,
    pub(crate) sync: Vec<Duration>,
    /// From `BatchCreateEntry` to the SVID, as the agent has it.
    pub(crate) propagation: Vec<Duration>,
}

/// Prints rows as they come and remembers what was missed.
pub(crate) struct Table {
    /// MiB of the server before it has agents.
    idle: f64,
    rows: Vec<Row>,
    missed: Vec<String>,
}

impl Table {
    pub(crate) fn new(idle: f64) -> Self {
        println!("server, no agents: {idle:.1} MiB");
        println!(
            "{:>6} {:>7} {:>8} {:>7} {:>8} {:>7} {:>8} {:>17} {:>22}",
            "agents",
            "entries",
            "ready s",
            "cores",
            "RSS MiB",
            "db tx/s",
            "calls/s",
            "sync p50/p99 ms",
            "entry to SVID p50/p99"
        );
        Self { idle, rows: Vec::new(), missed: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        print(&row);
        let p99 = quantile(&row.propagation, 0.99);
        self.bound(
            p99 <= PROPAGATION,
            format!("entry to SVID with {} agents: p99 {} ms", row.agents, ms(p99)),
        );
        self.bound(row.resident <= RESIDENT, format!("{} agents need {:.0} MiB", row.agents, row.resident));
        self.bound(row.cores <= CORES, format!("{} agents need {:.2} cores", row.agents, row.cores));
        self.rows.push(row);
    }

    pub(crate) fn readmitted(&mut self, after: &[Duration]) {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|part| quantile(after, part).as_secs_f64());
        println!(
            "all {} agents again after a kill, from the moment the server serves: half {half:.1} s, 99 % {most:.1} s, all {all:.1} s",
            after.len()
        );
        self.bound(all <= READMISSION.as_secs_f64(), format!("re-admission of all takes {all:.1} s"));
    }

    /// The same fleet if it were stock agents, which ask every 5 s.
    pub(crate) fn polling(&mut self, row: &Row) {
        println!("the same fleet polling every 5 s, as stock agents do:");
        print(row);
        self.bound(
            row.cores <= POLLING_CORES,
            format!("{} polling agents need {:.2} cores", row.agents, row.cores),
        );
        self.bound(
            row.resident <= RESIDENT,
            format!("{} polling agents need {:.0} MiB", row.agents, row.resident),
        );
    }

    /// Prints the growth and the verdict; whether all bounds were kept.
    pub(crate) fn verdict(mut self) -> bool {
        let per_agent = |row: &Row| (row.resident - self.idle) * 1024.0 / row.agents as f64;
        let (first, last) = (&self.rows[0], &self.rows[self.rows.len() - 1]);
        let (small, large) = (per_agent(first), per_agent(last));
        println!(
            "\nmemory per agent and its entries: {small:.0} KiB with {}, {large:.0} KiB with {}",
            first.agents, last.agents
        );
        let cpu = |row: &Row| row.cores * 1e6 / row.agents as f64;
        println!(
            "CPU per agent: {:.0} µs/s with {}, {:.0} µs/s with {}",
            cpu(first),
            first.agents,
            cpu(last),
            last.agents
        );
        let grows = format!("memory grows faster than the fleet: {small:.0} to {large:.0} KiB per agent");
        let linear = large <= small * LINEAR;
        self.bound(linear, grows);
        self.missed.iter().for_each(|missed| println!("missed: {missed}"));
        if self.missed.is_empty() {
            println!("all bounds kept");
        }
        self.missed.is_empty()
    }

    fn bound(&mut self, kept: bool, otherwise: String) {
        if !kept {
            self.missed.push(otherwise);
        }
    }
}

fn print(row: &Row) {
    let transactions = row.transactions.map_or_else(|| "-".to_owned(), |count| format!("{count:.1}"));
    let pair = |durations: &[Duration]| {
        format!("{} / {}", ms(quantile(durations, 0.5)), ms(quantile(durations, 0.99)))
    };
    println!(
        "{:>6} {:>7} {:>8.1} {:>7.3} {:>8.1} {transactions:>7} {:>8.0} {:>17} {:>22}",
        row.agents,
        row.entries,
        row.ready.as_secs_f64(),
        row.cores,
        row.resident,
        row.calls,
        pair(&row.sync),
        pair(&row.propagation),
    );
}

fn ms(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

/// The value that a part of `durations` does not exceed; 0 without any.
pub(crate) fn quantile(durations: &[Duration], part: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(index.max(1) - 1).copied().unwrap_or_default()
}

/// MiB that a server may need, whatever the size.
const RESIDENT: f64 = 512.0;
/// Cores that a fleet with nothing new may cost.
const CORES: f64 = 0.5;
/// The same for stock agents.
const POLLING_CORES: f64 = 1.0;
const PROPAGATION: Duration = Duration::from_millis(100);
/// Time to admit everybody again.
const READMISSION: Duration = Duration::from_secs(60);
/// How much more memory per agent a large fleet may take than a small one.
const LINEAR: f64 = 1.15;
