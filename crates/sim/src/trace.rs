//! What happened in a run, in virtual time.
//!
//! All of it is the same each time the seed runs, to the nanosecond and in the same order. A hash says so in one number.

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
    /// How the log names this process, which has another number each time.
    process: Arc<str>,
    shared: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    keep: bool,
    lines: Vec<String>,
    count: u64,
    hash: u64,
    violation: Option<Violation>,
}

impl Trace {
    /// Begins now. Without `keep` only the hash is kept.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        let shared = Arc::new(Mutex::new(Lines { keep, ..Lines::default() }));
        let process = format!("pid={}", std::process::id()).into();
        Self { began: Instant::now(), process, shared }
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// `who` did or saw something.
    pub fn line(&self, who: &str, what: &str) {
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

    /// How many lines there are so far, and what they hash to.
    #[must_use]
    pub fn hash(&self) -> (u64, u64) {
        let lines = self.lock();
        (lines.count, lines.hash)
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
        self.hash = spread(format!("{:x} {at:?} {who} {what}", self.hash).as_bytes()).to_bits();
        self.count += 1;
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
        let length = line.len();
        let line = String::from_utf8_lossy(line).replace(&*self.process, "pid=self");
        self.line("log", line.trim_end());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
