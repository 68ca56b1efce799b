//! Servers and agents on files that both sides read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::admin::Admin;
use crate::error::{Doing, Error};
use crate::pages;
use crate::place::{Place, free_port};
use crate::process::{Launch, Process, output, wait_until};
use crate::programs::{Program, Side, Who};

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// What a server's file says besides what every file says.
#[derive(Clone, Debug)]
pub(crate) struct ServerSettings {
    /// Of the primary.
    pub(crate) connection_string: String,
    /// Of a replica.
    pub(crate) ro_connection_string: Option<String>,
    /// Defaults of both: `default_x509_svid_ttl`, `agent_ttl`.
    pub(crate) x509_ttl: Duration,
    pub(crate) agent_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    /// Further blocks of the section `plugins`.
    pub(crate) plugins: String,
}

impl ServerSettings {
    /// SPIRE's defaults.
    pub(crate) fn on(connection_string: String) -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            connection_string,
            ro_connection_string: None,
            x509_ttl: hour,
            agent_ttl: hour,
            jwt_ttl: Duration::from_secs(300),
            plugins: String::new(),
        }
    }
}

/// A server.
pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) pages: u16,
    pub(crate) health: u16,
    pub(crate) process: Process,
    program: Program,
}

/// What an agent's file says besides what every file says.
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    /// `host:port` of each server; SPIRE's agent takes the first.
    pub(crate) servers: Vec<String>,
    /// Further lines of the section `agent`.
    pub(crate) lines: String,
    /// Programs that start it, before its own.
    pub(crate) under: Vec<String>,
}

/// An agent.
pub(crate) struct Agent {
    pub(crate) folder: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) pages: u16,
    pub(crate) process: Process,
    launch: (Program, Vec<String>),
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(crate) async fn start(
        place: &Place,
        side: &Side,
        name: &str,
        settings: &ServerSettings,
    ) -> Result<Self, Error> {
        let folder = place.folder(name)?;
        let (port, pages, health) = (free_port()?, free_port()?, free_port()?);
        let text = server_file(&folder, [port, pages, health], settings);
        std::fs::write(folder.join("conf"), text).doing("write a server's file")?;
        let process = launch(&side.server, &folder, &[])?;
        let mut server = Self { folder, port, pages, health, process, program: side.server.clone() };
        server.until_ready(START).await?;
        Ok(server)
    }

    pub(crate) fn admin(&self) -> Admin {
        Admin(self.folder.join("api.sock"))
    }

    /// The trust bundle, in PEM.
    pub(crate) async fn bundle(&self) -> Result<String, Error> {
        let socket = self.folder.join("api.sock").display().to_string();
        let first = self.program.first.iter().copied();
        let arguments: Vec<&str> = first.chain(["bundle", "show", "-socketPath", &socket]).collect();
        output(&self.program.path, &arguments).await
    }

    /// Makes a new X.509 authority, which is in the bundle from then on and signs nothing yet.
    pub(crate) async fn prepare_authority(&self) -> Result<(), Error> {
        let socket = self.folder.join("api.sock").display().to_string();
        let first = self.program.first.iter().copied();
        let words = ["localauthority", "x509", "prepare", "-socketPath", &socket];
        output(&self.program.path, &first.chain(words).collect::<Vec<_>>()).await.map(drop)
    }

    /// Until its health page says that it is ready.
    pub(crate) async fn until_ready(&mut self, patience: Duration) -> Result<(), Error> {
        wait_until("the server is ready", patience, async || {
            self.process.must_run()?;
            Ok(pages::ready(self.health).await.then_some(()))
        })
        .await
    }

    /// Asks it to end, and starts it again; does not wait until it is ready.
    pub(crate) async fn restart(&mut self) -> Result<(), Error> {
        self.process.stop(Signal::SIGTERM).await?;
        self.start_again()
    }

    /// Starts it again, after it ended or was killed; does not wait until it is ready.
    pub(crate) fn start_again(&mut self) -> Result<(), Error> {
        self.process = launch(&self.program, &self.folder, &[])?;
        Ok(())
    }
}

impl Agent {
    /// Starts an agent known as `name`, and does not wait.
    pub(crate) async fn start(
        place: &Place,
        side: &Side,
        (name, server): (&str, &Server),
        bundle: &Path,
        settings: &AgentSettings,
    ) -> Result<Self, Error> {
        let folder = place.folder(name)?;
        let token = server.admin().join_token(name).await?;
        let (pages, socket) = (free_port()?, folder.join("w/s"));
        let text = agent_file(side.who, &folder, (pages, bundle, &token), settings);
        std::fs::write(folder.join("conf"), text).doing("write an agent's file")?;
        let process = launch(&side.agent, &folder, &settings.under)?;
        Ok(Self { folder, socket, pages, process, launch: (side.agent.clone(), settings.under.clone()) })
    }

    /// Where it keeps what it has.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts it again, after it ended or was killed.
    pub(crate) fn start_again(&mut self) -> Result<(), Error> {
        let (program, under) = &self.launch;
        self.process = launch(program, &self.folder, under)?;
        Ok(())
    }
}

fn launch(program: &Program, folder: &Path, under: &[String]) -> Result<Process, Error> {
    let (first, path) = (program.first.map(str::to_owned), program.path.display().to_string());
    let mut words: Vec<String> = under.iter().cloned().chain([path]).chain(first).collect();
    let launcher = PathBuf::from(words.remove(0));
    words.extend(["run".to_owned(), "-config".to_owned(), folder.join("conf").display().to_string()]);
    Launch::new(&launcher, &folder.join("log")).args(words).start()
}

fn server_file(folder: &Path, [port, pages, health]: [u16; 3], settings: &ServerSettings) -> String {
    let ServerSettings { connection_string, ro_connection_string, x509_ttl, agent_ttl, jwt_ttl, plugins } =
        settings;
    let reader = ro_connection_string
        .as_ref()
        .map(|reader| format!("ro_connection_string = \"{reader}\""))
        .unwrap_or_default();
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{folder}/api.sock"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{folder}/data"
    log_level = "INFO"
    ca_ttl = "168h"
    default_x509_svid_ttl = "{x509}s"
    default_jwt_svid_ttl = "{jwt}s"
    agent_ttl = "{agent}s"
    ratelimit {{ attestation = false }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "postgres"
            connection_string = "{connection_string}"
            {reader}
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
    {plugins}
}}
health_checks {{
    listener_enabled = true
    bind_address = "127.0.0.1"
    bind_port = "{health}"
    live_path = "/live"
    ready_path = "/ready"
}}
telemetry {{ Prometheus {{ host = "127.0.0.1" port = {pages} }} }}
"#,
        folder = folder.display(),
        x509 = x509_ttl.as_secs(),
        jwt = jwt_ttl.as_secs(),
        agent = agent_ttl.as_secs(),
    )
}

fn agent_file(
    who: Who,
    folder: &Path,
    (pages, bundle, token): (u16, &Path, &str),
    settings: &AgentSettings,
) -> String {
    let mut servers = String::new();
    let (host, port) =
        settings.servers.first().and_then(|first| first.rsplit_once(':')).unwrap_or(("127.0.0.1", "8081"));
    if who == Who::Ours && settings.servers.len() > 1 {
        let list: Vec<String> = settings.servers.iter().map(|server| format!("\"{server}\"")).collect();
        // Into a String, this does not fail.
        write!(servers, "server_addresses = [{}]", list.join(", ")).ok();
    } else {
        write!(servers, "server_address = \"{host}\"").ok();
    }
    format!(
        r#"agent {{
    {servers}
    server_port = "{port}"
    socket_path = "{folder}/w/s"
    trust_bundle_path = "{bundle}"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{folder}/data"
    log_level = "INFO"
    join_token = "{token}"
    {lines}
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ directory = "{folder}/data" }} }}
    WorkloadAttestor "unix" {{
        plugin_data {{
            discover_workload_path = true
            workload_size_limit = -1
        }}
    }}
}}
telemetry {{ Prometheus {{ host = "127.0.0.1" port = {pages} }} }}
"#,
        folder = folder.display(),
        bundle = bundle.display(),
        lines = settings.lines,
    )
}

/// How long a server may take to be ready when nothing is wrong.
const START: Duration = Duration::from_secs(60);
