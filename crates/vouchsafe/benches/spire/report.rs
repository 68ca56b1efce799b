//! The table and the verdict.

/// One line: what SPIRE needs or does, and what ours does.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// SPIRE, ours.
    pub(crate) values: [f64; 2],
    /// How many times better ours must be, if that is expected.
    pub(crate) expected: Option<f64>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Better {
    More,
    Less,
}

/// Prints rows as they come and remembers what was missed.
#[derive(Default)]
pub(crate) struct Report {
    missed: Vec<String>,
}

impl Row {
    fn ratio(&self) -> f64 {
        let [stock, ours] = self.values;
        match self.better {
            Better::More => ours / stock,
            Better::Less => stock / ours,
        }
    }
}

impl Report {
    pub(crate) fn section(title: &str) {
        println!("\n{title}");
        println!("{:<46} {:<10} {:>10} {:>10} {:>8} {:>9}", "", "unit", "SPIRE", "ours", "ratio", "expected");
    }

    pub(crate) fn add(&mut self, row: &Row) {
        let ratio = row.ratio();
        let expected = row.expected.map_or_else(|| "-".to_owned(), |times| format!(">= {times}"));
        let missed = row.expected.is_some_and(|times| ratio < times);
        let mark = if missed { " MISSED" } else { "" };
        let [stock, ours] = row.values.map(shown);
        println!(
            "{:<46} {:<10} {stock:>10} {ours:>10} {ratio:>7.2}x {expected:>9}{mark}",
            row.what, row.unit
        );
        if missed {
            self.missed.push(format!("{} ({}): {ratio:.2}x, expected {expected}x", row.what, row.unit));
        }
    }

    /// Prints the verdict, and whether all was as expected.
    pub(crate) fn verdict(self) -> bool {
        println!();
        self.missed.iter().for_each(|missed| println!("missed: {missed}"));
        if self.missed.is_empty() {
            println!("all expectations reached");
        }
        self.missed.is_empty()
    }
}

/// Three digits or more.
fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
