//! A test that hangs fails.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Ends the process when it is not dropped in time: a hanging test cannot fail in any other way.
pub struct Watchdog {
    _alive: mpsc::Sender<()>,
}

/// The house rule is 30 s per test.
const LIMIT: Duration = Duration::from_secs(30);

impl Watchdog {
    pub fn start() -> Self {
        let (alive, watch) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if watch.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} takes longer than {LIMIT:?}");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}
