//! Programs that we started.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::error::{Doing, Error};

/// What to start.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Both its streams are appended to this file.
    pub(crate) log: PathBuf,
    /// Another user, as `setpriv` names them.
    pub(crate) user: Option<&'static str>,
    /// What ends it at once, with all that it started.
    pub(crate) end: Signal,
}

/// A running program. It ends with the value, and also when we end in a way that runs no destructor.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    end: Signal,
}

impl Launch {
    pub(crate) fn new(program: &Path, log: &Path) -> Self {
        Self {
            program: program.to_owned(),
            arguments: Vec::new(),
            log: log.to_owned(),
            user: None,
            end: Signal::SIGKILL,
        }
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn start(self) -> Result<Process, Error> {
        let name = self.program.display().to_string();
        let log = File::options().create(true).append(true).open(&self.log).doing("open a log")?;
        let mut command = Command::new("setpriv");
        // `setpriv` executes the program in its own place, so its process id is the program's.
        command.args(["--pdeathsig", self.end.as_str().trim_start_matches("SIG")]);
        if let Some(user) = self.user {
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        }
        command.arg(&self.program).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().doing("open a log")?).stderr(log);
        let child = command.spawn().doing(format!("start {name}"))?;
        Ok(Process { child, log: self.log, end: self.end })
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails when it has ended, with the last lines of its log.
    pub(crate) fn must_run(&mut self) -> Result<(), Error> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                Err(Error::broken(format!("{} ended: {status}\n{}", self.log.display(), self.tail())))
            }
        }
    }

    /// The last lines of the log.
    pub(crate) fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(self.end);
        // There is nothing to do about a child that cannot be waited for.
        self.child.wait().ok();
    }

    /// Asks it to end as `systemctl stop` would, and waits for it.
    pub(crate) async fn stop(&mut self, signal: Signal) -> Result<(), Error> {
        self.signal(signal);
        wait_until(&format!("{} ends", self.log.display()), STOP_GRACE, async || Ok(self.ended().map(|_| ())))
            .await
    }

    /// CPU time of all its threads so far, user and kernel; in steps of 10 ms.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let ticks: Option<u64> =
            fields.split(' ').skip(UTIME).take(2).map(|ticks| ticks.parse::<u64>().ok()).sum();
        Some(TICK * u32::try_from(ticks?).ok()?)
    }

    fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Ok(id) = i32::try_from(self.id())
        {
            // It may have ended just now, and then there is nothing to signal.
            kill(Pid::from_raw(id), signal).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and gives what it printed.
pub(crate) async fn output(program: &Path, arguments: &[&str]) -> Result<String, Error> {
    let doing = || format!("{} {}", program.display(), arguments.join(" "));
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .doing(doing())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(Error::setup(doing(), format!("{}{}", text(&output.stdout), text(&output.stderr)).trim()))
}

/// Asks again and again until there is an answer.
pub(crate) async fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() >= until {
            return Err(Error::broken(format!("still not after {} s: {what}", patience.as_secs())));
        }
        sleep(PAUSE).await;
    }
}

const PAUSE: Duration = Duration::from_millis(100);
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Lines of a log that are shown.
const TAIL: usize = 15;
/// Place of `utime` after the command's name in `/proc/<pid>/stat`; `stime` follows.
const UTIME: usize = 11;
/// What they count in, on all of Linux's usual machines.
const TICK: Duration = Duration::from_millis(10);
