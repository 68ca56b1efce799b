//! Processes that a scenario started, their logs, and waiting for them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// A running program. Ends with the value.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// What a command that ran to its end said.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts `command`, with both its streams appended to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log: log.to_owned() }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends it as `systemctl stop` would.
    pub(crate) fn terminate(&mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Asks for what SPIRE calls reconfiguration.
    pub(crate) fn reconfigure(&self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGUSR1).unwrap();
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    fn end(&mut self, signal: Signal) {
        if self.exited().is_some() {
            return;
        }
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        let until = Instant::now() + STOP_GRACE;
        while self.exited().is_none() {
            if Instant::now() > until {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return;
            }
            pause();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Before it is told to end, which it would log too.
            let log = self.log();
            let telling = log.lines().rev().filter(|line| !line.contains("msg=\"Read changes\" count=0"));
            let tail: Vec<&str> = telling.take(LOG_LINES).collect();
            eprintln!("--- {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.end(Signal::SIGTERM);
    }
}

/// Runs `command` to its end.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Outcome {
    /// The standard output of a command that succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// The standard error of a command that failed.
    #[track_caller]
    pub(crate) fn err(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.stderr
    }
}

/// Asks again and again until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, ask).unwrap_or_else(|| panic!("still not after {PATIENCE:?}: {what}"))
}

/// Asks again and again until there is an answer, or for `patience` and [`LEAST_ATTEMPTS`] times: on a machine that is busy, one
/// question may take that long.
pub(crate) fn within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + patience;
    for attempt in 1.. {
        let answer = ask();
        if answer.is_some() || (attempt >= LEAST_ATTEMPTS && Instant::now() >= until) {
            return answer;
        }
        pause();
    }
    None
}

pub(crate) fn pause() {
    std::thread::sleep(PAUSE);
}

/// A stock agent backs off for up to half a minute here and there, and a busy machine makes that several times as long.
const PATIENCE: Duration = Duration::from_secs(240);
const LEAST_ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How much of a log is shown when a scenario failed.
const LOG_LINES: usize = 60;
