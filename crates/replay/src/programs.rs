//! What must be installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error};
use crate::process::output;

/// A server's and an agent's program, and whose they are.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) who: Who,
    pub(crate) server: Program,
    pub(crate) agent: Program,
}

/// Whose programs run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    Ours,
    Spire,
}

impl Who {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Spire => "SPIRE",
        }
    }
}

/// A program, and what comes before the arguments that both sides have.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) first: Option<&'static str>,
}

impl Side {
    /// The program under test: `VOUCHSAFE_BIN`, or the one beside this one, which `cargo run` brings up to date first.
    pub(crate) async fn ours() -> Result<Self, Error> {
        let path = match chosen("VOUCHSAFE_BIN") {
            Some(path) => path,
            None => sibling().await?,
        };
        if !path.is_file() {
            return Err(Error::Missing {
                what: path.display().to_string(),
                cure: "run `cargo build --release -p vouchsafe`, or set VOUCHSAFE_BIN".to_owned(),
            });
        }
        let program = |part| Program { path: path.clone(), first: Some(part) };
        Ok(Self { who: Who::Ours, server: program("server"), agent: program("agent") })
    }

    /// Stock SPIRE, where its programs are.
    pub(crate) fn spire() -> Option<Self> {
        let folder = chosen("SPIRE_BIN").or_else(cached_spire)?;
        let program = |name| Some(folder.join(name)).filter(|path| path.is_file());
        let of = |path| Program { path, first: None };
        Some(Self {
            who: Who::Spire,
            server: of(program("spire-server")?),
            agent: of(program("spire-agent")?),
        })
    }
}

/// What [`Side::spire`] found nothing of.
pub(crate) fn no_spire() -> Error {
    Error::Missing {
        what: "spire-server and spire-agent".to_owned(),
        cure:
            "set SPIRE_BIN to their directory, or run `bash interop/run spire join` once, which compiles them"
                .to_owned(),
    }
}

/// The directory of PostgreSQL's programs: `POSTGRES_BIN`, or the newest of Debian's.
pub(crate) fn postgres() -> Result<PathBuf, Error> {
    let complete = |folder: &Path| {
        ["initdb", "postgres", "pg_basebackup", "psql"].iter().all(|name| folder.join(name).is_file())
    };
    let mut found: Vec<PathBuf> = match chosen("POSTGRES_BIN") {
        Some(folder) => vec![folder],
        None => folders(Path::new("/usr/lib/postgresql")).map(|version| version.join("bin")).collect(),
    };
    found.retain(|folder| complete(folder));
    found.sort_by_key(|folder| {
        let version = folder.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        version.and_then(|version| version.parse::<u32>().ok())
    });
    found.pop().ok_or_else(|| Error::Missing {
        what: "PostgreSQL (initdb, postgres, pg_basebackup, psql)".to_owned(),
        cure: "apt-get install postgresql, or set POSTGRES_BIN".to_owned(),
    })
}

/// Whether Kubernetes' programs are where the test kit looks for them.
pub(crate) fn kubernetes() -> Result<(), Error> {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folder = chosen("KUBERNETES_BIN").unwrap_or_else(|| home().join(".cache/vouchsafe-kubernetes/bin"));
    let complete = ["kube-apiserver", "kubectl", "etcd"].iter().all(|name| folder.join(name).is_file());
    complete.then_some(()).ok_or_else(|| Error::Missing {
        what: format!("Kubernetes (kube-apiserver, kubectl and etcd in {})", folder.display()),
        cure: "run `bash interop/run kubernetes` once, which compiles them, or set KUBERNETES_BIN".to_owned(),
    })
}

/// A program of the search path, and the Debian package that has it.
pub(crate) fn installed(name: &str, package: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing { what: name.to_owned(), cure: format!("apt-get install {package}") })
}

/// The file `path` of this source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

async fn sibling() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().doing("find this program")?;
    let folder = own.parent().unwrap_or(Path::new("."));
    // Set by `cargo run`.
    if let Some(cargo) = chosen("CARGO") {
        let profile = match folder.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        eprintln!("building vouchsafe with the profile {profile}, unless it is up to date");
        output(&cargo, &["build", "--locked", "--quiet", "--package", "vouchsafe", "--profile", profile])
            .await?;
    }
    Ok(folder.join("vouchsafe"))
}

/// Where `interop/spire/binaries.sh` leaves what it compiled: `~/.cache/vouchsafe-spire-<hash>`. The newest counts.
fn cached_spire() -> Option<PathBuf> {
    let cache = PathBuf::from(std::env::var_os("HOME")?).join(".cache");
    let ours = folders(&cache).filter(|folder| {
        folder.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("vouchsafe-spire"))
    });
    let mut found: Vec<PathBuf> =
        ours.flat_map(|folder| folders(&folder).chain([folder]).collect::<Vec<_>>()).collect();
    found.retain(|folder| folder.join("spire-server").is_file() && folder.join("spire-agent").is_file());
    found.sort_by_key(|folder| {
        fs::metadata(folder.join("spire-server")).and_then(|file| file.modified()).ok()
    });
    found.pop()
}

fn folders(of: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let items = fs::read_dir(of).into_iter().flatten().flatten();
    items.map(|item| item.path()).filter(|path| path.is_dir())
}

fn chosen(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
