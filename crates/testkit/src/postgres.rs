//! Private PostgreSQL servers for tests, replays and benchmarks.
//!
//! [`Cluster::start`] runs `initdb` in a temporary directory and serves it on a free loopback port, with a password.
//! It ends with its value, and also when this process is killed: a shell beside it waits for the end of a pipe that
//! only this process holds. As root, the programs run as the user `postgres`, because PostgreSQL refuses root.
//!
//! Everything blocks and everything that fails panics: this is for tests.

#![expect(clippy::expect_used, clippy::panic, reason = "a test cannot go on without its database")]

use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;

use crate::kept::{self, Kept};
use crate::ports::free_port;

mod programs;
mod replica;

use programs::{Account, Programs};
pub use replica::Replica;

/// Who owns the databases: a superuser.
pub const USER: &str = "registry";
/// The password of [`USER`]. No error or log line may show it.
pub const PASSWORD: &str = "pg-secret-4711";

/// One PostgreSQL server with its own data.
pub struct Cluster {
    programs: Programs,
    account: Option<Account>,
    directory: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    running: Mutex<Option<Kept>>,
    databases: AtomicU32,
}

impl Cluster {
    /// A new server that does not flush to disk.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed; the text names the package.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[("fsync", "off")])
    }

    /// A new server with these settings of `postgresql.conf`.
    ///
    /// # Panics
    ///
    /// As [`Cluster::start`].
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::prepare(settings);
        let password = cluster.write_file("password", PASSWORD);
        let mut initdb = cluster.programs.command("initdb", cluster.account.as_ref());
        programs::run(
            initdb
                .args([
                    "-U",
                    USER,
                    "-A",
                    "scram-sha-256",
                    "-E",
                    "UTF8",
                    "--locale=C",
                    "--no-sync",
                    "--pwfile",
                ])
                .arg(password)
                .arg("-D")
                .arg(cluster.data()),
        );
        cluster.start_again();
        cluster
    }

    /// The server that the tests of this process share while at least one of them holds it.
    ///
    /// # Panics
    ///
    /// As [`Cluster::start`].
    #[must_use]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start());
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    /// The loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server");
        file.lines().next().and_then(|pid| pid.trim().parse().ok()).expect("a process id")
    }

    /// How to reach `database`, in SPIRE's form, without TLS.
    #[must_use]
    pub fn connection_string(&self, database: &str) -> String {
        let port = self.port;
        format!(
            "host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname={database} sslmode=disable"
        )
    }

    /// How to reach `database` by way of another port, such as a proxy's.
    #[must_use]
    pub fn connection_string_by(&self, port: u16, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname={database} sslmode=disable"
        )
    }

    /// Creates a database.
    ///
    /// # Panics
    ///
    /// When it exists.
    pub fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
    }

    /// Creates a database with a name of its own.
    #[must_use]
    pub fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.create_database(&name);
        name
    }

    /// Runs SQL and returns what `psql -At` prints.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"))
    }

    /// Runs SQL and returns what `psql -At` prints.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.programs.command("psql", None);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d"]);
        programs::output(psql.arg(self.connection_string(database)))
    }

    /// Whether the server takes connections.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.try_sql("postgres", "SELECT 1").is_ok()
    }

    /// Ends the server in order: sessions are cut off, data is written.
    pub fn stop(&self) {
        self.end("INT");
    }

    /// Ends the server as a crash does; the next start recovers.
    pub fn kill(&self) {
        self.end("QUIT");
    }

    /// Stops the server's processes where they are: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal_all("STOP");
    }

    /// Undoes [`Cluster::freeze`].
    pub fn thaw(&self) {
        self.signal_all("CONT");
    }

    /// Starts the server, on the same port and data, after [`Cluster::stop`] or [`Cluster::kill`].
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start_again(&self) {
        let mut postgres = self.programs.command("postgres", self.account.as_ref());
        postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let running = Kept::start(&postgres, &self.directory.path().join("log"), "QUIT");
        *self.running() = Some(running);
        for _ in 0..START_ATTEMPTS {
            if self.answers() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    /// Ends the server and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// What the server logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Writes a file that only the server may read, and returns its path: certificates, keys.
    pub fn write_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).expect("room for a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        self.give(&path);
        path
    }

    /// Serves TLS from the next start on. `authority` signs the clients that must show a certificate.
    pub fn use_tls(&mut self, certificate: &str, key: &str, authority: Option<&str>) {
        let mut files = vec![("ssl_cert_file", "tls.crt", certificate), ("ssl_key_file", "tls.key", key)];
        files.extend(authority.map(|authority| ("ssl_ca_file", "ca.crt", authority)));
        self.settings.push(("ssl".to_owned(), "on".to_owned()));
        for (setting, name, content) in files {
            let path = self.write_file(name, content);
            self.settings.push((setting.to_owned(), path.display().to_string()));
        }
    }

    /// Replaces `pg_hba.conf`, from the next start on.
    pub fn use_hba(&self, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).expect("room for a file");
    }

    /// A standby that follows this server.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[must_use]
    pub fn replica(&self) -> Replica {
        Replica::of(self)
    }

    /// A directory, a port and settings, without data.
    fn prepare(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("vouchsafe-pg-").tempdir().expect("a directory");
        let account = Account::needed();
        let sockets = directory.path().display().to_string();
        let own = [("unix_socket_directories", sockets.as_str()), ("listen_addresses", "127.0.0.1")];
        let settings = DEFAULTS.iter().chain(&own).chain(settings);
        let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let cluster = Self {
            programs: Programs::find(),
            account,
            directory,
            port: free_port(),
            settings,
            running: Mutex::default(),
            databases: AtomicU32::new(0),
        };
        cluster.give(cluster.directory.path());
        cluster
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn give(&self, path: &Path) {
        if let Some(Account { user, group }) = self.account {
            chown(path, Some(user), Some(group)).expect("a change of owner");
        }
    }

    fn end(&self, signal: &str) {
        let Some(mut running) = self.running().take() else { return };
        kept::signal(self.pid(), signal);
        running.wait();
    }

    fn signal_all(&self, signal: &str) {
        let postmaster = self.pid();
        let children = kept::children(postmaster);
        children.into_iter().chain([postmaster]).for_each(|pid| kept::signal(pid, signal));
    }

    fn running(&self) -> MutexGuard<'_, Option<Kept>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running().is_some() {
            if self.data().join("postmaster.pid").exists() {
                self.thaw();
            }
            self.kill();
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("port", &self.port).finish_non_exhaustive()
    }
}

/// What suits a small server that lives for seconds.
const DEFAULTS: &[(&str, &str)] = &[
    ("shared_buffers", "16MB"),
    ("max_connections", "400"),
    ("max_wal_senders", "4"),
    ("autovacuum_naptime", "10s"),
    ("logging_collector", "off"),
    ("log_min_messages", "warning"),
];
/// How often a starting server is asked: half a minute.
const START_ATTEMPTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
