//! The server and its database.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use vouchsafe_testkit::free_port;
use vouchsafe_testkit::postgres::Cluster;

use crate::client::Admin;
use crate::process::Process;

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// A server, its directory and its database.
pub(crate) struct World {
    pub(crate) port: u16,
    // The process ends before its database and its directory go.
    server: Option<Process>,
    cluster: Option<Cluster>,
    dir: TempDir,
}

impl World {
    /// Starts the server and waits until it is healthy; on `SQLite` without a database server.
    pub(crate) async fn start(sqlite: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("vf").tempdir_in("/tmp").unwrap();
        let port = free_port();
        // As a production database does, it flushes each transaction.
        let cluster = (!sqlite).then(|| Cluster::start_with(&[("fsync", "on")]));
        let (kind, connection) = match &cluster {
            None => ("sqlite3", "@DIR@/datastore.sqlite3".to_owned()),
            Some(cluster) => {
                cluster.create_database(DATABASE);
                ("postgres", cluster.connection_string(DATABASE))
            }
        };
        let config = CONFIG
            .replace("@KIND@", kind)
            .replace("@CONNECTION@", &connection)
            .replace("@PORT@", &port.to_string())
            .replace("@DIR@", dir.path().to_str().unwrap());
        fs::write(dir.path().join("server.conf"), config).unwrap();
        let mut world = Self { port, server: None, cluster, dir };
        world.start_again().await;
        world
    }

    /// Starts the server on what it left behind, and waits until it is healthy.
    pub(crate) async fn start_again(&mut self) {
        let binary =
            std::env::var_os("VOUCHSAFE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_vouchsafe").into());
        let mut command = Command::new(&binary);
        command.args(["server", "run", "-config"]).arg(self.dir.path().join("server.conf"));
        self.server = Some(Process::start(command, &self.dir.path().join("server.log")));
        let until = Instant::now() + PATIENCE;
        loop {
            self.server.as_mut().unwrap().must_run();
            let mut health = Command::new(&binary);
            health.args(["server", "healthcheck", "-socketPath"]).arg(self.dir.path().join("api.sock"));
            if health.output().unwrap().status.success() {
                return;
            }
            assert!(Instant::now() < until, "the server is not healthy after {PATIENCE:?}");
            sleep(PAUSE).await;
        }
    }

    pub(crate) fn kill(&mut self) {
        self.server.take().unwrap().kill();
    }

    pub(crate) fn server(&self) -> &Process {
        self.server.as_ref().unwrap()
    }

    pub(crate) async fn admin(&self) -> Admin {
        Admin::connect(&self.dir.path().join("api.sock")).await
    }

    /// Transactions that the database has run for the server, and one of ours each time.
    pub(crate) fn transactions(&self) -> Option<f64> {
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = '";
        let cluster = self.cluster.as_ref()?;
        Some(cluster.sql("postgres", &format!("{count}{DATABASE}'")).trim().parse().unwrap())
    }
}

const DATABASE: &str = "vouchsafe";
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

const CONFIG: &str = r#"
server {
    bind_address = "127.0.0.1"
    bind_port = "@PORT@"
    socket_path = "@DIR@/api.sock"
    trust_domain = "example.org"
    data_dir = "@DIR@/data"
    # All agents come from one address.
    ratelimit { attestation = false signing = false }
}
plugins {
    DataStore "sql" {
        plugin_data {
            database_type = "@KIND@"
            connection_string = "@CONNECTION@"
        }
    }
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { keys_path = "@DIR@/keys.json" } }
}
"#;
