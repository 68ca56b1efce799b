//! A test that hangs fails.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vouchsafe_testkit::Stopwatch;

/// Ends the process when it is not dropped in time: a hanging test cannot fail in any other way.
pub struct Watchdog {
    _alive: mpsc::Sender<()>,
}

/// The house rule is 30 s per test, on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);

impl Watchdog {
    pub fn start() -> Self {
        let (alive, watch) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            let stopwatch = Stopwatch::start();
            while watch.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                if stopwatch.elapsed() > LIMIT {
                    eprintln!("{test} takes longer than {LIMIT:?}");
                    std::process::abort();
                }
            }
        });
        Self { _alive: alive }
    }
}
