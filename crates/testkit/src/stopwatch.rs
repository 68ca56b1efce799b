//! Time that a test may set bounds to.
//!
//! Policy: a promise such as "within 250 ms" is kept by the program, not by the machine that a test happens to run on. What
//! this process's threads spent waiting for a processor that others had is not counted, so that a bound can be as tight as
//! the promise and a machine that is busy breaks no test. A program that waits by itself, for a timer, a lock or a
//! peer, has all of it counted.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

/// Runs from when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    waited: Duration,
}

impl Stopwatch {
    /// A stopwatch that runs.
    #[must_use]
    pub fn start() -> Self {
        Self { began: Instant::now(), waited: waited() }
    }

    /// How long it has run, without the time in which a thread of this process was ready and did not run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let waited = waited().saturating_sub(self.waited);
        self.wall().saturating_sub(waited)
    }

    /// How long it has run, with that time: for what must not be too early.
    #[must_use]
    pub fn wall(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What all threads of this process have waited for a processor; nothing where the kernel does not say.
fn waited() -> Duration {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let waited = threads.filter_map(|thread| {
        // Nanoseconds on a processor, nanoseconds waiting for one, and how often.
        let line = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_by_oneself_is_counted() {
        let stopwatch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(300));
        // Other tests of this process may wait meanwhile.
        let (elapsed, by_the_wall) = (stopwatch.elapsed(), stopwatch.wall());
        assert!(elapsed <= by_the_wall && elapsed + waited() >= Duration::from_millis(300), "{elapsed:?}");
    }

    #[test]
    fn waiting_for_a_processor_is_not() {
        // More threads than processors: some must wait.
        let threads = 4 * std::thread::available_parallelism().unwrap().get();
        let stopwatch = Stopwatch::start();
        let work = || {
            let until = Instant::now() + Duration::from_millis(200);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            (stopwatch.elapsed(), stopwatch.wall())
        };
        let measured: Vec<_> = std::thread::scope(|scope| {
            let working: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            working.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(measured.iter().any(|(elapsed, wall)| *elapsed < *wall / 2), "{measured:?}");
    }
}
