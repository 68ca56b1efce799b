//! PostgreSQL's programs: where they are, and as whom they run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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
