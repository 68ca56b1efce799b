//! Programs that end with the process that started them, also when it is killed.
//!
//! A shell beside each of them waits for the end of a pipe that only this process holds.

#![expect(clippy::expect_used, reason = "a test cannot go on without its programs")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A program that runs, and the shell that ends it when this process is gone.
pub(crate) struct Kept {
    shell: Child,
    pid: u32,
}

impl Kept {
    /// Starts `program` in `/`, with both its streams appended to `log`. When this process ends, it gets the signal `at_end`.
    pub(crate) fn start(program: &Command, log: &Path, at_end: &str) -> Self {
        let words = [program.get_program()].into_iter().chain(program.get_args()).map(OsString::from);
        let mut shell = Command::new("sh");
        // A command in the background gets /dev/null as its input, so the pipe is moved aside first.
        shell.args(["-c", KEEPER, "sh", at_end]).args(words).current_dir("/");
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut shell = spawn(shell, log);
        let pid = first_child(&mut shell);
        Self { shell, pid }
    }

    /// Removes `folder` when this process ends without having told otherwise by [`Kept::wait`].
    pub(crate) fn broom(folder: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", BROOM, "sh"]).arg(folder).current_dir("/");
        let shell = spawn(shell, Path::new("/dev/null"));
        let pid = shell.id();
        Self { shell, pid }
    }

    /// The process id of the program.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// Whether it has ended.
    pub(crate) fn ended(&self) -> bool {
        // Its parent, the shell, has not waited for it yet.
        let state = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// Waits for the end of a program that was told to end.
    pub(crate) fn wait(&mut self) {
        // A line instead of the end: the shell waits for the program and does not kill it.
        drop(self.shell.stdin.take().map(|mut pipe| pipe.write_all(b"\n")));
        self.shell.wait().expect("a shell that ends");
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        drop(self.shell.wait());
    }
}

/// Sends a signal to a process, which may have ended by itself.
pub(crate) fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    drop(kill.args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status());
}

/// The processes that `pid` started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn spawn(mut shell: Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    shell.stdin(Stdio::piped()).stdout(log.try_clone().expect("a log file")).stderr(log);
    shell.spawn().expect("a shell")
}

fn first_child(shell: &mut Child) -> u32 {
    loop {
        if let Some(pid) = children(shell.id()).first() {
            return *pid;
        }
        let ended = shell.try_wait().expect("the shell's state");
        assert!(ended.is_none(), "the shell ended before it started the program: {ended:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts the program, waits until the pipe ends, and ends the program with the signal given unless it ended by itself. A signal to all
/// processes of a terminal ends the pipe too.
const KEEPER: &str = r#"at_end=$1; shift; trap : INT TERM; "$@" & program=$!
read -r line || kill "-$at_end" "$program" 2>/dev/null; wait "$program""#;

/// What writes there is ended at the same time, and may do so for a moment.
const BROOM: &str = r#"trap : INT TERM
read -r line || for attempt in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && break; sleep 0.5; done"#;
