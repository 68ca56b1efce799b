//! Running programs, and what the kernel says about them.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program. Ends with the value.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// Resident memory in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub(crate) all: f64,
    /// What the process allocated, as opposed to files that it has mapped in.
    pub(crate) anonymous: f64,
}

impl Process {
    /// Starts `command` with its output in the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log: log.to_owned() }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Fails when it has ended.
    pub(crate) fn must_run(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} ended: {ended:?}\n{}", self.log.display(), self.log());
    }

    /// Ends it without a chance to do anything about it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// CPU time of all its threads so far, also of those that ended, user and kernel; in steps of 10 ms.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(UTIME).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        TICK * u32::try_from(ticks.sum::<u64>()).unwrap()
    }

    pub(crate) fn resident(&self) -> Resident {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mib = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
        };
        Resident { all: mib("VmRSS:"), anonymous: mib("RssAnon:") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to signal.
        if self.child.try_wait().unwrap().is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Place of `utime` after the command's name in `/proc/<pid>/stat`; `stime` follows.
const UTIME: usize = 11;
/// What they count in, on all of Linux's usual machines.
const TICK: Duration = Duration::from_millis(10);
