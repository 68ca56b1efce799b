//! What was measured, on standard output as it comes.

use crate::manager::Figures;
use crate::parts::{Parts, VOLUMES};

/// A table that is printed row by row.
#[derive(Default)]
pub(crate) struct Table {
    /// Where ours was worse than the stock one.
    pub(crate) missed: Vec<String>,
    section: String,
}

impl Table {
    pub(crate) fn parts(&mut self, both: &[Parts; 2]) {
        self.head("resident memory, MiB");
        self.row("server, idle", both.each_ref().map(|parts| parts.server.all), true);
        self.row("agent, idle", both.each_ref().map(|parts| parts.agent.all), true);
        self.row("file writer", both.each_ref().map(|parts| parts.helper.all), true);
        self.row("CSI driver, idle", both.each_ref().map(|parts| parts.csi_idle.all), true);
        let mounted = format!("CSI driver, {VOLUMES} volumes");
        self.row(&mounted, both.each_ref().map(|parts| parts.csi.all), true);
        let allocated = format!("{mounted}, of it allocated");
        self.row(&allocated, both.each_ref().map(|parts| parts.csi.anonymous), false);
    }

    pub(crate) fn idle(&mut self, both: &[Figures; 2]) {
        self.head("registrar, no Pods");
        self.memory(both);
    }

    pub(crate) fn registered(&mut self, pods: usize, changes: usize, both: &[Figures; 2]) {
        self.head(&format!("registrar, {pods} Pods"));
        self.row("from its start to all entries, s", both.each_ref().map(|figures| figures.all), true);
        self.row("its CPU time for that, s", both.each_ref().map(|figures| figures.cpu_all), true);
        self.row("the server's, s", both.each_ref().map(|figures| figures.server_cpu_all), false);
        for (what, of) in [("new Pod to its entry", true), ("removed Pod to no entry", false)] {
            // With so few of them this is the one that the machine delayed most: no bound.
            for (name, at, bounded) in [("median", 0.5, true), ("p99", 0.99, false)] {
                let ms = |figures: &Figures| {
                    1e3 * quantile(if of { &figures.appeared } else { &figures.gone }, at)
                };
                self.row(&format!("{what}, {name} of {changes}, ms"), both.each_ref().map(ms), bounded);
            }
        }
        let per_change = |figures: &Figures| 1e3 * figures.cpu_changes / (2 * changes) as f64;
        self.row("its CPU time for one such change, ms", both.each_ref().map(per_change), true);
        self.memory(both);
        let wrong = both.each_ref().map(|figures| figures.wrong as f64);
        self.row("entries too few or too many at the end", wrong, false);
        if wrong[1] > 0.0 {
            self.missed.push(format!("{}: entries too few or too many: {}", self.section, wrong[1]));
        }
    }

    fn memory(&mut self, both: &[Figures; 2]) {
        self.row("its CPU time in a quiet minute, s", both.each_ref().map(|figures| figures.cpu_idle), true);
        let server = both.each_ref().map(|figures| figures.server_cpu_idle);
        self.row("the server's, s", server, false);
        self.row("resident memory, MiB", both.each_ref().map(|figures| figures.resident), true);
        let allocated = both.each_ref().map(|figures| figures.anonymous);
        self.row("of it allocated, MiB", allocated, false);
        self.row("resident memory, most, MiB", both.each_ref().map(|figures| figures.most), true);
        let server = both.each_ref().map(|figures| figures.server_resident);
        self.row("the server's resident memory, MiB", server, true);
    }

    fn head(&mut self, what: &str) {
        println!("\n{what:<46} {:>10} {:>10} {:>8} {:>6}", "SPIRE", "ours", "ratio", "bound");
        what.clone_into(&mut self.section);
    }

    /// A bounded row must not be more for ours than for the stock one.
    fn row(&mut self, what: &str, [stock, ours]: [f64; 2], bounded: bool) {
        let ratio = if ours > 0.0 { format!("{:.1}", stock / ours) } else { "-".to_owned() };
        println!("{what:<46} {stock:>10.2} {ours:>10.2} {ratio:>8} {:>6}", if bounded { "1" } else { "" });
        if bounded && ours > stock {
            self.missed.push(format!("{}: {what}: {ours:.2}, SPIRE's {stock:.2}", self.section));
        }
    }
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * at).ceil() as usize;
    values.get(index.saturating_sub(1)).copied().unwrap_or_default()
}
