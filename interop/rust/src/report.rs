//! One line per check, and what the suite told this client to expect.

use crate::Failure;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

/// Prints each check once. The first verdict on a name stands, so a late `ok` cannot cover an earlier `FAIL`.
#[derive(Default)]
pub struct Report {
    verdicts: BTreeMap<&'static str, bool>,
}

impl Report {
    pub fn ok(&mut self, name: &'static str, detail: impl Display) {
        self.settle(name, true, detail);
    }

    pub fn fail(&mut self, name: &'static str, detail: impl Display) {
        self.settle(name, false, detail);
    }

    pub fn settle(&mut self, name: &'static str, passed: bool, detail: impl Display) {
        if self.verdicts.contains_key(name) {
            return;
        }
        self.verdicts.insert(name, passed);
        let detail = detail.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        println!("{} {name} {detail}", if passed { "ok" } else { "FAIL" });
    }

    /// A run without a single check is a failure too.
    pub fn exit_code(&self) -> ExitCode {
        if !self.verdicts.is_empty() && self.verdicts.values().all(|passed| *passed) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// A variable that the suite must have set: a default would hide a mistake in the suite.
pub fn must_env(name: &str) -> Result<String, Failure> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

pub fn deadline() -> Result<Duration, Failure> {
    Ok(Duration::from_secs(must_env("INTEROP_DEADLINE_SECS")?.parse()?))
}
