//! What happens now, on standard error.

use tokio::time::Instant;

/// The steps of one run of one replay.
pub(crate) struct Progress {
    who: String,
    began: Instant,
}

impl Progress {
    pub(crate) fn new(replay: &str, side: &str) -> Self {
        Self { who: format!("{replay} ({side})"), began: Instant::now() }
    }

    pub(crate) fn step(&self, what: impl AsRef<str>) {
        eprintln!("{:>5} s  {}: {}", self.began.elapsed().as_secs(), self.who, what.as_ref());
    }
}
