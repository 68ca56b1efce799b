//! A PostgreSQL of our own, and a streaming replica of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{User, chown, geteuid};

use crate::error::{Doing, Error};
use crate::place::{Place, free_port};
use crate::process::{Launch, Process, output, wait_until};
use crate::programs;

/// A running database server on a port of the loopback interface, or the place of one that was stopped.
pub(crate) struct Cluster {
    pub(crate) port: u16,
    programs: PathBuf,
    folder: PathBuf,
    process: Process,
}

impl Cluster {
    /// A new primary with the database `spire`.
    pub(crate) async fn primary(place: &Place) -> Result<Self, Error> {
        let (programs, folder) = (programs::postgres()?, own_folder(place, "pg")?);
        let data = folder.join("data");
        as_owner(&programs.join("initdb"), &["-A", "trust", "-U", USER, "-E", "UTF8", "--no-locale", "-D", text(&data)])
            .await?;
        let cluster = Self::start(programs, folder, free_port()?).await?;
        cluster.ask("template1", "CREATE DATABASE spire").await?;
        Ok(cluster)
    }

    /// A replica that follows this one.
    pub(crate) async fn replica(&self, place: &Place) -> Result<Self, Error> {
        let folder = own_folder(place, "replica")?;
        let (data, port) = (folder.join("data"), self.port.to_string());
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", USER, "-R", "-c", "fast", "-D", text(&data)];
        as_owner(&self.programs.join("pg_basebackup"), &from).await?;
        Self::start(self.programs.clone(), folder, free_port()?).await
    }

    async fn start(programs: PathBuf, folder: PathBuf, port: u16) -> Result<Self, Error> {
        let process = launch(&programs, &folder, port)?;
        let mut cluster = Self { port, programs, folder, process };
        cluster.wait_until_it_answers().await?;
        Ok(cluster)
    }

    /// How it is reached through `port`, as SPIRE's `connection_string` has it.
    pub(crate) fn connection_string(port: u16) -> String {
        format!("host=127.0.0.1 port={port} dbname=spire user={USER} sslmode=disable")
    }

    /// Asks one question that has one answer.
    pub(crate) async fn query(&self, sql: &str) -> Result<String, Error> {
        self.ask("spire", sql).await
    }

    /// Stops replaying what the primary writes, on a replica that has seen all of it until now.
    pub(crate) async fn pause_after(&self, primary: &Self) -> Result<(), Error> {
        let written = primary.query("SELECT pg_current_wal_lsn()").await?;
        let seen = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
        wait_until("the replica has what the primary wrote", PATIENCE, async || {
            Ok((self.query(&seen).await? == "t").then_some(()))
        })
        .await?;
        self.query("SELECT pg_wal_replay_pause()").await?;
        wait_until("the replica pauses", PATIENCE, async || {
            Ok((self.query("SELECT pg_get_wal_replay_pause_state()").await? == "paused").then_some(()))
        })
        .await
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    async fn wait_until_it_answers(&mut self) -> Result<(), Error> {
        wait_until("PostgreSQL answers", PATIENCE, async || {
            if self.process.ended().is_some() {
                return Err(Error::setup("start PostgreSQL", self.process.tail()));
            }
            Ok(self.ask("template1", "SELECT 1").await.ok().map(|_| ()))
        })
        .await
    }

    async fn ask(&self, database: &str, sql: &str) -> Result<String, Error> {
        let port = self.port.to_string();
        let arguments = ["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", database, "-X", "-A", "-t", "-c", sql];
        Ok(output(&self.programs.join("psql"), &arguments).await?.trim().to_owned())
    }
}

fn launch(programs: &Path, folder: &Path, port: u16) -> Result<Process, Error> {
    let mut launch = Launch::new(&programs.join("postgres"), &folder.join("log"));
    launch = launch.args(["-D", text(&folder.join("data")), "-p", &port.to_string(), "-k", text(folder)]);
    launch = launch.args(["-c", "listen_addresses=127.0.0.1", "-c", MAX_CONNECTIONS]);
    launch.user = geteuid().is_root().then_some(USER);
    // To its postmaster: end all of you at once, without leaving shared memory behind.
    launch.end = Signal::SIGQUIT;
    launch.start()
}

/// A folder that PostgreSQL may write to: it refuses to run as root.
fn own_folder(place: &Place, name: &str) -> Result<PathBuf, Error> {
    let folder = place.folder(name)?;
    if geteuid().is_root() {
        let user = User::from_name(USER).doing("look up the user postgres")?.ok_or_else(|| Error::Missing {
            what: "the user postgres".to_owned(),
            cure: "apt-get install postgresql, or do not run this as root".to_owned(),
        })?;
        chown(&folder, Some(user.uid), Some(user.gid)).doing("give a directory to postgres")?;
    }
    Ok(folder)
}

async fn as_owner(program: &Path, arguments: &[&str]) -> Result<(), Error> {
    if !geteuid().is_root() {
        return output(program, arguments).await.map(drop);
    }
    let setpriv = ["--reuid", USER, "--regid", USER, "--clear-groups", text(program)];
    output(Path::new("setpriv"), &[&setpriv, arguments].concat()).await.map(drop)
}

/// Paths of ours are text.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Both the system's user and the database's.
const USER: &str = "postgres";
/// SPIRE opens up to 100 for each server.
const MAX_CONNECTIONS: &str = "max_connections=400";
const PATIENCE: Duration = Duration::from_secs(30);
