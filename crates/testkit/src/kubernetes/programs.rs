//! Kubernetes' own programs: where they are, and how they are started.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where `bash interop/run kubernetes` puts what it compiled: `$KUBERNETES_BIN`, or below the home directory.
///
/// # Panics
///
/// When the folder has no API server; the text says how to get one.
#[must_use]
pub fn programs() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folder = std::env::var_os("KUBERNETES_BIN")
        .filter(|value| !value.is_empty())
        .map_or_else(|| home().join(".cache/vouchsafe-kubernetes/bin"), PathBuf::from);
    assert!(
        folder.join("kube-apiserver").exists(),
        "{} has no kube-apiserver: run `bash interop/run kubernetes` once, or name a folder in $KUBERNETES_BIN",
        folder.display()
    );
    folder
}

/// Which etcd keeps the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Etcd {
    /// Debian's `etcd-server` (3.4 in Debian 12): the API server offers no streaming lists.
    #[default]
    Debian,
    /// The one of Kubernetes' own module, with streaming lists.
    Module,
}

impl Etcd {
    pub(super) fn program(self) -> PathBuf {
        match self {
            Self::Module => programs().join("etcd"),
            Self::Debian => {
                let etcd = PathBuf::from("/usr/bin/etcd");
                assert!(etcd.exists(), "/usr/bin/etcd is missing: apt-get install etcd-server");
                etcd
            }
        }
    }

    /// Whether the API server offers streaming lists on it: not before 3.4.31, nor from 3.5.0 to 3.5.12.
    ///
    /// # Panics
    ///
    /// When the program does not tell its version.
    #[must_use]
    pub fn lets_lists_stream(self) -> bool {
        let told = output(Command::new(self.program()).arg("--version"), None)
            .unwrap_or_else(|error| panic!("{error}"));
        let version = told.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap_or(&told);
        let mut numbers = version.trim().split('.').map_while(|number| number.parse::<u32>().ok());
        let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next());
        match (major, minor) {
            (Some(3), Some(4)) => patch >= Some(31),
            (Some(3), Some(5)) => patch >= Some(13),
            (Some(_), Some(_)) => (major, minor) > (Some(3), Some(5)),
            _ => panic!("no version of etcd: {told}"),
        }
    }

    /// Nothing here needs to survive a power cut.
    pub(super) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Module => &["--unsafe-no-fsync"],
            Self::Debian => &[],
        }
    }
}

/// Runs `command` with `input`; what it printed, or what it complained about.
pub(super) fn output(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    use std::io::Write;
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A program that ends early says why on its other streams.
        drop(pipe.write_all(input.as_bytes()));
    }
    let done = child.wait_with_output().map_err(|error| error.to_string())?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&done.stderr).into_owned())
}
