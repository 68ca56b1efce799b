//! What happened in a run, in virtual time.
//!
//! Two kinds of lines. A **step** is something that the simulation did or saw and that must be the same each time the seed
//! runs: it goes into the hash. A **remark** (the log of the code under test, a duration) is there for the reader only.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_runtime::entropy::spread;

use crate::invariants::Violation;

/// The trace of one run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace {
    began: Instant,
    shared: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    keep: bool,
    lines: Vec<String>,
    steps: u64,
    /// By who did it: parts that have nothing to do with each other may take turns in any order.
    hashes: BTreeMap<String, u64>,
    violation: Option<Violation>,
}

impl Trace {
    /// Begins now. Without `keep` only the hash is kept.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        let shared = Arc::new(Mutex::new(Lines { keep, ..Lines::default() }));
        Self { began: Instant::now(), shared }
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Something that must be the same each time.
    pub fn step(&self, who: &str, what: &str) {
        let at = self.elapsed();
        let mut lines = self.lock();
        let hash = lines.hashes.entry(who.to_owned()).or_default();
        *hash = spread(format!("{hash:x} {who} {what}").as_bytes()).to_bits();
        lines.steps += 1;
        lines.push(at, who, what);
    }

    /// Something for the reader.
    pub fn remark(&self, who: &str, what: &str) {
        let at = self.elapsed();
        self.lock().push(at, who, what);
    }

    /// The first one counts.
    pub fn violated(&self, violation: Violation) {
        let at = self.elapsed();
        let mut lines = self.lock();
        lines.push(at, "INVARIANT", &violation.to_string());
        lines.violation.get_or_insert(violation);
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Steps so far, and what they hash to.
    #[must_use]
    pub fn hash(&self) -> (u64, u64) {
        let lines = self.lock();
        (lines.steps, lines.hashes.values().fold(0, |all, hash| all ^ hash))
    }

    /// All lines, if they were kept.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, at: Duration, who: &str, what: &str) {
        if self.keep && self.lines.len() < MAX_LINES {
            self.lines.push(format!("{:9.3} {who:<10} {what}", at.as_secs_f64()));
        }
    }
}

/// Lines of one trace; further ones are not kept.
const MAX_LINES: usize = 500_000;

/// Where the code under test logs to.
impl io::Write for Trace {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.remark("log", String::from_utf8_lossy(line).trim_end());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
