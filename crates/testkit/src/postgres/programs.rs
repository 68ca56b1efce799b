//! PostgreSQL's programs: where they are, as whom they run, and how they end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The directory of the programs.
#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// `$POSTGRES_BIN`, else the newest version where Debian puts them.
    pub(super) fn find() -> Self {
        if let Some(named) = std::env::var_os("POSTGRES_BIN") {
            let named = PathBuf::from(named);
            assert!(named.join("initdb").exists(), "POSTGRES_BIN={} has no initdb", named.display());
            return Self(named);
        }
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut found: Vec<_> = versions
            .map(|version| version.path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        found.sort();
        Self(found.pop().expect(MISSING))
    }

    /// `program`, run as `account`.
    pub(super) fn command(&self, program: &str, account: Option<&Account>) -> Command {
        let program = self.0.join(program);
        let Some(account) = account else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", account.user))
            .arg(format!("--regid={}", account.group))
            .arg("--clear-groups")
            .arg(program);
        // Whoever calls may be somewhere that the account may not look.
        command.current_dir("/");
        command
    }
}

/// Whose processes the server's are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Account {
    /// `postgres` for root; nobody else may change who they are, and nobody else needs to.
    pub(super) fn needed() -> Option<Self> {
        let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        root.then(|| Self { user: id("-u"), group: id("-g") })
    }
}

fn id(which: &str) -> u32 {
    let printed = output(Command::new("id").args([which, "postgres"])).expect(MISSING);
    printed.trim().parse().expect("a number")
}

/// A server, and the shell that ends it when this process is gone.
pub(super) struct Running(Child);

impl Running {
    pub(super) fn start(server: &Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let words: Vec<OsString> =
            [server.get_program()].into_iter().chain(server.get_args()).map(OsString::from).collect();
        let mut shell = Command::new("sh");
        // A command in the background gets /dev/null as its input, so the pipe is moved aside first.
        shell.args(["-c", KEEPER, "sh"]).args(words).current_dir("/").stdin(Stdio::piped());
        shell.stdout(log.try_clone().expect("a log file")).stderr(log);
        Self(shell.spawn().expect("a shell"))
    }

    /// Waits for the end of a server that was told to end.
    pub(super) fn wait(&mut self) {
        // A line instead of the end: the shell waits for the server and does not kill it.
        drop(self.0.stdin.take().map(|mut pipe| pipe.write_all(b"\n")));
        self.0.wait().expect("a shell that ends");
    }
}

/// Starts the server, waits until the pipe ends, and ends the server as a crash does unless it ended by itself.
const KEEPER: &str = r#""$@" & server=$!; read -r line || kill -QUIT "$server" 2>/dev/null; wait "$server""#;

pub(super) fn signal(pid: u32, name: &str) {
    // It may have ended by itself.
    drop(output(Command::new("kill").args([format!("-{name}"), pid.to_string()])));
}

pub(super) fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

pub(super) fn run(command: &mut Command) {
    if let Err(refusal) = output(command) {
        panic!("{command:?}: {refusal}");
    }
}

pub(super) fn output(command: &mut Command) -> Result<String, String> {
    let done = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned());
    }
    Err(String::from_utf8_lossy(&done.stderr).into_owned())
}

const MISSING: &str =
    "PostgreSQL is not installed: apt-get install postgresql, or name its programs in $POSTGRES_BIN";
