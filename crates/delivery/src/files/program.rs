//! The program that reads the files.
//!
//! At each renewal, in this order: the command is started if it does not run, and signalled if it does; then the process that
//! the pid file names is signalled. The pid file is read each time, and a few times again if it is not there yet: whoever
//! writes it may be starting. A command that ends is started again at the next renewal and not before, because it may be one
//! that is meant to end. It lives on when this process ends.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

use super::settings::ProgramSettings;

/// Whoever reads the files.
#[derive(Debug)]
pub struct Program {
    settings: ProgramSettings,
    child: Option<Child>,
    /// The next attempt with the pid file, and how many there were.
    pid_file_due: Option<(Instant, u32)>,
}

impl Program {
    /// Not told anything yet.
    #[must_use]
    pub fn new(settings: ProgramSettings) -> Self {
        Self { settings, child: None, pid_file_due: None }
    }

    /// The files were renewed.
    pub fn renewed(&mut self) {
        // It may have ended without anybody having looked.
        if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
            self.child = None;
            tell_end(Ok(status));
        }
        if let Some((command, arguments)) = &self.settings.command {
            match self.child.as_ref().and_then(Child::id) {
                Some(pid) => self.signal(pid),
                None => match Command::new(command).args(arguments).spawn() {
                    Ok(child) => {
                        tracing::info!(command = %command.display(), pid = child.id(), "Started the command");
                        self.child = Some(child);
                    }
                    Err(error) => {
                        tracing::error!(command = %command.display(), %error, "Cannot start the command");
                    }
                },
            }
        }
        if self.settings.pid_file.is_some() {
            self.pid_file_due = Some((Instant::now(), 0));
        }
    }

    /// Waits for what is due, and does it: the command's end, or another look at the pid file. For ever if nothing is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not done yet stays due.
    pub async fn attend(&mut self) {
        let due = self.pid_file_due;
        let ended = async {
            match &mut self.child {
                Some(child) => child.wait().await,
                None => std::future::pending().await,
            }
        };
        let look = async {
            match due {
                Some((at, _)) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = ended => {
                self.child = None;
                tell_end(status);
            }
            () = look => self.look_at_pid_file(due.map_or(0, |(_, attempts)| attempts)),
        }
    }

    fn look_at_pid_file(&mut self, attempts: u32) {
        self.pid_file_due = None;
        let Some(path) = &self.settings.pid_file else { return };
        let signalled = read_pid(path).and_then(|pid| match self.settings.signal {
            Some(signal) => send(pid, signal).map(|()| {
                tracing::info!(pid, signal = signal.as_str(), "Signalled the process of the pid file")
            }),
            None => Ok(()),
        });
        let Err(error) = signalled else { return };
        if attempts + 1 < PID_FILE_ATTEMPTS {
            tracing::debug!(%error, path = %path.display(), "Cannot signal the process of the pid file, trying again");
            let pause = PID_FILE_PAUSE.saturating_mul(2_u32.saturating_pow(attempts));
            self.pid_file_due = Some((Instant::now() + pause, attempts + 1));
        } else {
            tracing::error!(%error, path = %path.display(), "Cannot signal the process of the pid file");
        }
    }

    /// Sends the signal to the command.
    fn signal(&self, pid: u32) {
        let Some(signal) = self.settings.signal else { return };
        let sent = i32::try_from(pid).map_err(io::Error::other).and_then(|pid| send(pid, signal));
        match sent {
            Ok(()) => tracing::info!(pid, signal = signal.as_str(), "Signalled the command"),
            Err(error) => tracing::error!(pid, %error, "Cannot signal the command"),
        }
    }
}

fn send(pid: i32, signal: Signal) -> io::Result<()> {
    kill(Pid::from_raw(pid), signal).map_err(Errno::into)
}

fn tell_end(status: io::Result<ExitStatus>) {
    match status {
        Ok(status) if status.success() => tracing::info!("The command ended"),
        Ok(status) => tracing::warn!(%status, "The command failed; it is started again at the next renewal"),
        Err(error) => tracing::error!(%error, "Cannot tell how the command ended"),
    }
}

/// The process that a file names.
fn read_pid(path: &Path) -> io::Result<i32> {
    // A pipe would hold us up.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("the pid file is no file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_PID_FILE_BYTES).read_to_string(&mut text)?;
    // Zero and less would be groups of processes, our own among them.
    let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| io::Error::other("the pid file does not hold the number of a process"))
}

/// How often the pid file is looked at after a renewal.
const PID_FILE_ATTEMPTS: u32 = 10;
/// Time before the second look; it doubles.
const PID_FILE_PAUSE: Duration = Duration::from_millis(100);
const MAX_PID_FILE_BYTES: u64 = 64;

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn shell(script: &str) -> ProgramSettings {
        let command = Some(("/bin/sh".into(), vec!["-c".to_owned(), script.to_owned()]));
        // Not SIGHUP: a shell cannot trap what was ignored when it began, as under nohup.
        ProgramSettings { command, pid_file: None, signal: Some(Signal::SIGUSR1) }
    }

    /// What a script wrote there, once it has.
    async fn wait_for(path: &Path, expected: &str) {
        while fs::read_to_string(path).unwrap_or_default() != expected {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_running_command_is_signalled_and_one_that_ended_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let script = format!(
            "trap 'echo signal >> {0}; exit 3' USR1; echo start >> {0}; while :; do sleep 0.01; done",
            told.display()
        );
        let mut program = Program::new(shell(&script));
        program.renewed();
        wait_for(&told, "start\n").await;
        program.renewed();
        program.attend().await;
        wait_for(&told, "start\nsignal\n").await;
        program.renewed();
        wait_for(&told, "start\nsignal\nstart\n").await;
        program.renewed();
        program.attend().await;
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_stops_nothing() {
        let command = Some(("/nonexistent/program".into(), vec![]));
        let mut program = Program::new(ProgramSettings { command, ..ProgramSettings::default() });
        program.renewed();
        program.renewed();
        assert!(timeout(Duration::from_millis(1), program.attend()).await.is_err());
    }

    #[tokio::test]
    async fn the_pid_file_is_waited_for_and_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let (pid_file, told) = (folder.path().join("pid"), folder.path().join("told"));
        let script = format!(
            "trap 'echo signal >> {0}; exit 0' USR1; echo $$ >> {0}; while :; do sleep 0.01; done",
            told.display()
        );
        let mut child = Command::new("/bin/sh").args(["-c", &script]).spawn().unwrap();
        let pid = child.id().unwrap().to_string();
        wait_for(&told, &format!("{pid}\n")).await;
        let settings = ProgramSettings {
            command: None,
            pid_file: Some(pid_file.clone()),
            signal: Some(Signal::SIGUSR1),
        };
        let mut program = Program::new(settings);
        program.renewed();
        program.attend().await;
        assert!(program.pid_file_due.is_some(), "it is not there yet");
        fs::write(&pid_file, format!("{pid}\n")).unwrap();
        program.attend().await;
        assert!(program.pid_file_due.is_none());
        assert!(child.wait().await.unwrap().success());
    }

    #[test]
    fn a_pid_file_names_one_process_and_never_a_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert!(read_pid(&path).is_err());
        assert!(read_pid(folder.path()).is_err());
        for wrong in ["", "0", "-1", "x", "12 13", "99999999999"] {
            fs::write(&path, wrong).unwrap();
            assert!(read_pid(&path).is_err(), "{wrong:?}");
        }
        fs::write(&path, " 4711\n").unwrap();
        assert_eq!(read_pid(&path).unwrap(), 4711);
    }
}
