//! The table and the verdict.

use serde_json::{Map, Value, json};

use crate::measure::{Bound, Measured};

/// What one replay measured, on one side or on both.
pub(crate) struct Report {
    pub(crate) replay: &'static str,
    pub(crate) quick: bool,
    pub(crate) ours: Option<Vec<Measured>>,
    pub(crate) spire: Option<Vec<Measured>>,
    /// What broke on the side that is tested.
    pub(crate) broken: Option<String>,
}

impl Report {
    /// Every bound was met, by ours.
    pub(crate) fn passes(&self) -> bool {
        self.broken.is_none()
            && self.ours.as_ref().is_some_and(|ours| !ours.is_empty() && ours.iter().all(Measured::is_met))
    }

    /// The rows, and then one line that a program can read.
    pub(crate) fn text(&self) -> String {
        let width = self.rows().map(|row| row.what.chars().count()).max().unwrap_or(0);
        let mut text = format!("\n{}{}\n", self.replay, if self.quick { " --quick" } else { "" });
        text += &format!("{:<width$}  {:<7} {:>10} {:>10}  bound\n", "", "unit", "ours", "SPIRE");
        for row in self.rows() {
            let (ours, spire) = (cell(&self.ours, row.key), cell(&self.spire, row.key));
            let missed = self.ours.is_some() && !find(&self.ours, row.key).is_some_and(Measured::is_met);
            let bound = row.bound.map_or_else(|| "-".to_owned(), Bound::text);
            let mark = if missed && row.bound.is_some() { "  MISSED" } else { "" };
            text += &format!("{:<width$}  {:<7} {ours:>10} {spire:>10}  {bound}{mark}\n", row.what, row.unit);
        }
        if let Some(broken) = &self.broken {
            text += &format!("{broken}\n");
        }
        text + &self.line()
    }

    fn line(&self) -> String {
        let mut line = format!("REPLAY {} {}", self.replay, self.verdict());
        for row in self.ours.iter().flatten() {
            line += &format!(" {}={}", row.key, shown(row.value));
        }
        if self.ours.is_none() && self.broken.is_none() {
            line += " reason=ours-did-not-run";
        }
        line
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows().map(|row| {
            json!({
                "key": row.key, "what": row.what, "unit": row.unit,
                "ours": find(&self.ours, row.key).and_then(|row| row.value),
                "spire": find(&self.spire, row.key).and_then(|row| row.value),
                "bound": row.bound.map(Bound::json),
                "met": find(&self.ours, row.key).map(Measured::is_met),
            })
        });
        json!({
            "replay": self.replay, "quick": self.quick, "verdict": self.verdict(), "broken": self.broken,
            "measures": rows.collect::<Vec<_>>(),
        })
    }

    fn verdict(&self) -> &'static str {
        if self.passes() { "PASS" } else { "FAIL" }
    }

    /// Each measure once, in the order in which it first came.
    fn rows(&self) -> impl Iterator<Item = &Measured> {
        let ours = self.ours.iter().flatten();
        let others = self.spire.iter().flatten().filter(|row| find(&self.ours, row.key).is_none());
        ours.chain(others)
    }
}

impl Bound {
    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", shown(Some(most))),
            Self::AtLeast(least) => format!(">= {}", shown(Some(least))),
        }
    }

    fn json(self) -> Value {
        let (name, value) = match self {
            Self::AtMost(most) => ("at_most", most),
            Self::AtLeast(least) => ("at_least", least),
        };
        Value::Object(Map::from_iter([(name.to_owned(), json!(value))]))
    }
}

fn find<'a>(side: &'a Option<Vec<Measured>>, key: &str) -> Option<&'a Measured> {
    side.iter().flatten().find(|row| row.key == key)
}

fn cell(side: &Option<Vec<Measured>>, key: &str) -> String {
    find(side, key).map_or_else(|| "-".to_owned(), |row| shown(row.value))
}

/// Whole numbers as they are; of others three digits or more.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.fract().abs() < 1e-9 => format!("{value:.0}"),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(failed: usize) -> Report {
        let rows = |failed| {
            vec![
                Measured::never("failed", "requests that failed", failed),
                Measured::told("p99_ms", "the slowest but one percent", "ms", 3.25),
            ]
        };
        Report {
            replay: "slow-store",
            quick: true,
            ours: Some(rows(failed)),
            spire: Some(rows(7)),
            broken: None,
        }
    }

    #[test]
    fn the_last_line_has_the_verdict_and_our_figures() {
        let text = report(0).text();
        assert!(text.ends_with("REPLAY slow-store PASS failed=0 p99_ms=3.25"), "{text}");
        assert!(
            text.lines().any(|row| row.split_whitespace().rev().take(4).eq(["0", "<=", "7", "0"])),
            "{text}"
        );
    }

    #[test]
    fn only_ours_decide() {
        assert!(report(0).passes());
        let failed = report(1);
        assert!(!failed.passes());
        assert!(
            failed.text().contains("MISSED") && failed.text().contains("REPLAY slow-store FAIL failed=1")
        );
        assert_eq!(failed.json()["measures"][0]["met"], false);
        let alone = Report { ours: None, ..report(0) };
        assert!(!alone.passes());
        assert!(alone.text().ends_with("FAIL reason=ours-did-not-run"));
        assert!(!Report { broken: Some("the server ended".into()), ..report(0) }.passes());
    }
}
