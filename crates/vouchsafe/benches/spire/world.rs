//! A server and an agent of one side, on the same SPIRE-style configuration files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use vouchsafe_testkit::free_port;

use crate::client::Admin;
use crate::process::Process;

pub(crate) const TRUST_DOMAIN: &str = "example.org";
/// The agent's entries are parented to this.
pub(crate) const NODE: &str = "node";

/// Whose programs run.
#[derive(Clone)]
pub(crate) struct Side {
    server: PathBuf,
    agent: PathBuf,
}

/// A server, perhaps an agent, and where they live.
pub(crate) struct World {
    pub(crate) side: Side,
    pub(crate) port: u16,
    // The processes end before their directory goes.
    pub(crate) agent: Option<Process>,
    pub(crate) server: Process,
    dir: TempDir,
}

impl Side {
    /// Stock SPIRE from the directory in `SPIRE`, and ours from `VOUCHSAFE_BIN` under the names that SPIRE's have. The
    /// links are in `dir`.
    pub(crate) fn both(dir: &Path) -> [Self; 2] {
        let chosen = |name| std::env::var_os(name).map(PathBuf::from);
        let spire = chosen("SPIRE").expect("SPIRE must name the directory of spire-server and spire-agent");
        let ours = chosen("VOUCHSAFE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_vouchsafe").into());
        let link = |name| {
            let link = dir.join(name);
            std::os::unix::fs::symlink(&ours, &link).unwrap();
            link
        };
        [
            Self { server: spire.join("spire-server"), agent: spire.join("spire-agent") },
            Self { server: link("spire-server"), agent: link("spire-agent") },
        ]
    }
}

impl World {
    /// Starts a server and waits until it is healthy.
    pub(crate) async fn server(side: &Side) -> Self {
        let dir = tempfile::Builder::new().prefix("vb").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let server =
            run(&side.server, dir.path(), "server", &SERVER_CONF.replace("@PORT@", &port.to_string()));
        let mut world = Self { side: side.clone(), port, agent: None, server, dir };
        eventually("the server is healthy", async || {
            world.server.must_run();
            world.ask(&["healthcheck"])
        })
        .await;
        world
    }

    /// Starts an agent beside it, with these settings of the unix attestor, and waits until it is healthy.
    pub(crate) async fn with_agent(self, unix: &str) -> Self {
        self.with_attestors(&format!("WorkloadAttestor \"unix\" {{ plugin_data {{ {unix} }} }}")).await
    }

    /// The same with these workload attestors.
    pub(crate) async fn with_attestors(mut self, attestors: &str) -> Self {
        fs::write(self.path("bundle.pem"), self.ask(&["bundle", "show"]).unwrap()).unwrap();
        let token = self.admin().await.join_token(Some(NODE)).await;
        let config = AGENT_CONF
            .replace("@PORT@", &self.port.to_string())
            .replace("@TOKEN@", &token)
            .replace("@ATTESTORS@", attestors);
        let mut agent = run(&self.side.agent, self.dir.path(), "agent", &config);
        eventually("the agent is healthy", async || {
            agent.must_run();
            let mut health = Command::new(&self.side.agent);
            health.args(["healthcheck", "-socketPath"]).arg(self.workload_socket());
            health.output().unwrap().status.success().then_some(())
        })
        .await;
        self.agent = Some(agent);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn workload_socket(&self) -> PathBuf {
        self.path("agent/api.sock")
    }

    pub(crate) fn agent(&self) -> &Process {
        self.agent.as_ref().unwrap()
    }

    pub(crate) async fn admin(&self) -> Admin {
        Admin::connect(&self.path("server/api.sock")).await
    }

    /// What a command of the server prints; `None` when it fails.
    fn ask(&self, command: &[&str]) -> Option<Vec<u8>> {
        let socket = self.path("server/api.sock");
        let output = Command::new(&self.side.server).args(command).arg("-socketPath").arg(socket).output();
        let output = output.unwrap();
        output.status.success().then_some(output.stdout)
    }
}

fn run(program: &Path, dir: &Path, part: &str, config: &str) -> Process {
    let file = dir.join(format!("{part}.conf"));
    fs::write(&file, config.replace("@DIR@", dir.to_str().unwrap())).unwrap();
    let mut command = Command::new(program);
    command.arg("run").arg("-config").arg(file);
    Process::start(command, &dir.join(format!("{part}.log")))
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "still not after {PATIENCE:?}: {what}");
        sleep(PAUSE).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

const SERVER_CONF: &str = r#"
server {
    bind_address = "127.0.0.1"
    bind_port = "@PORT@"
    socket_path = "@DIR@/server/api.sock"
    trust_domain = "example.org"
    data_dir = "@DIR@/server"
    ratelimit { attestation = false signing = false }
}
plugins {
    DataStore "sql" {
        plugin_data {
            database_type = "sqlite3"
            connection_string = "@DIR@/server/datastore.sqlite3"
        }
    }
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { keys_path = "@DIR@/server/keys.json" } }
}
"#;

const AGENT_CONF: &str = r#"
agent {
    server_address = "127.0.0.1"
    server_port = "@PORT@"
    socket_path = "@DIR@/agent/api.sock"
    trust_bundle_path = "@DIR@/bundle.pem"
    trust_domain = "example.org"
    data_dir = "@DIR@/agent"
    join_token = "@TOKEN@"
}
plugins {
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { directory = "@DIR@/agent" } }
    @ATTESTORS@
}
"#;
