//! Servers and agents with their configuration files, and the commands that are used on them.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use vouchsafe_testkit::free_port;

use crate::process::{Outcome, Process, eventually, run};
use crate::programs::{Kind, Programs};
use crate::svids::{self, Fetched};

/// A place for one scenario.
pub(crate) struct World {
    pub(crate) kind: Kind,
    folder: TempDir,
    programs: Programs,
}

/// What a server's file says besides what every file says.
pub(crate) struct ServerSettings {
    pub(crate) trust_domain: &'static str,
    /// Further lines of the section `server`.
    pub(crate) server: String,
    /// Further blocks of the section `plugins`.
    pub(crate) plugins: String,
    /// The data of its datastore. Empty: SQLite in its folder.
    pub(crate) datastore: String,
    /// Its environment besides ours.
    pub(crate) environment: Environment,
}

type Environment = Vec<(String, String)>;

/// What an agent's file says besides what every file says.
pub(crate) struct AgentSettings {
    /// Further lines of the section `agent`.
    pub(crate) agent: String,
    /// The node attestor's block. Empty: `join_token`.
    pub(crate) attestor: String,
    /// The key manager.
    pub(crate) key_manager: &'static str,
}

/// A server.
pub(crate) struct Server {
    pub(crate) trust_domain: &'static str,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) socket: PathBuf,
    program: RefCell<PathBuf>,
    environment: Environment,
    process: RefCell<Process>,
}

/// An agent.
pub(crate) struct Agent {
    pub(crate) folder: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) admin_socket: PathBuf,
    program: PathBuf,
    process: RefCell<Process>,
}

/// An OIDC discovery provider.
pub(crate) struct Provider {
    process: Process,
}

impl Provider {
    /// Waits for a line that has all of `parts`.
    pub(crate) fn wait_for_log(&self, parts: &[&str]) {
        let has = || has_line(&self.process.log(), parts).then_some(());
        eventually(&format!("the provider logs {parts:?}"), has);
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            trust_domain: "domain.test",
            server: String::new(),
            plugins: String::new(),
            datastore: String::new(),
            environment: vec![],
        }
    }
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self { agent: String::new(), attestor: String::new(), key_manager: "disk" }
    }
}

impl World {
    /// A new folder; short, because a socket's path has room for 107 bytes.
    pub(crate) fn new() -> Self {
        let folder = vouchsafe_testkit::folder("vs");
        let programs = Programs::link_into(folder.path());
        Self { kind: programs.kind, programs, folder }
    }

    /// The same with this server and this agent; `None` is ours.
    #[allow(dead_code, reason = "for tests that mix ours and stock ones")]
    pub(crate) fn with(server: Option<PathBuf>, agent: Option<PathBuf>) -> Self {
        let folder = vouchsafe_testkit::folder("vs");
        let programs = Programs::link(folder.path(), server, agent);
        Self { kind: programs.kind, programs, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server and waits until it is healthy.
    pub(crate) fn server(&self, name: &str, settings: &ServerSettings) -> Server {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let port = free_port();
        let socket = folder.join("p/api.sock");
        let ServerSettings { trust_domain, server, plugins, datastore, environment } = settings;
        let datastore = if datastore.is_empty() {
            let folder = folder.display();
            format!("database_type = \"sqlite3\"\n connection_string = \"{folder}/datastore.sqlite3\"")
        } else {
            datastore.clone()
        };
        let text = format!(
            r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{socket}"
    trust_domain = "{trust_domain}"
    data_dir = "{folder}"
    log_level = "DEBUG"
    {server}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            {datastore}
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
    {plugins}
}}
"#,
            socket = socket.display(),
            folder = folder.display(),
        );
        std::fs::write(folder.join("server.conf"), text).unwrap();
        let process = start(&self.programs.server, &folder, "server.conf", &[], environment);
        let program = RefCell::new(self.programs.server.clone());
        let environment = environment.clone();
        let process = RefCell::new(process);
        let server = Server { trust_domain, folder, port, socket, program, process, environment };
        server.wait_until_healthy();
        server
    }

    /// Starts an agent that attests with a new join token, and waits until it is healthy. The agent's entries are
    /// parented to `spiffe://<trust domain>/node`.
    pub(crate) fn agent(&self, name: &str, server: &Server, settings: &AgentSettings) -> Agent {
        let token = server.join_token(Some("node"));
        let agent = self.agent_with(name, server, settings, &["-joinToken", &token]);
        agent.wait_until_healthy();
        agent
    }

    /// Starts an agent with further flags and does not wait.
    pub(crate) fn agent_with(
        &self,
        name: &str,
        server: &Server,
        settings: &AgentSettings,
        flags: &[&str],
    ) -> Agent {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("bundle.pem"), server.cli(&["bundle", "show"]).ok()).unwrap();
        let (socket, admin_socket) = (folder.join("w/api.sock"), folder.join("a/admin.sock"));
        let AgentSettings { agent, attestor, key_manager } = settings;
        let attestor =
            if attestor.is_empty() { "NodeAttestor \"join_token\" { plugin_data {} }" } else { attestor };
        let text = format!(
            r#"agent {{
    data_dir = "{folder}"
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{socket}"
    admin_socket_path = "{admin_socket}"
    trust_bundle_path = "{folder}/bundle.pem"
    trust_domain = "{trust_domain}"
    {agent}
}}
plugins {{
    {attestor}
    KeyManager "{key_manager}" {{ plugin_data {{ {directory} }} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
            folder = folder.display(),
            port = server.port,
            socket = socket.display(),
            admin_socket = admin_socket.display(),
            trust_domain = server.trust_domain,
            directory = if *key_manager == "disk" {
                format!("directory = \"{}\"", folder.display())
            } else {
                String::new()
            },
        );
        std::fs::write(folder.join("agent.conf"), text).unwrap();
        let process = start(&self.programs.agent, &folder, "agent.conf", flags, &[]);
        let program = self.programs.agent.clone();
        Agent { folder, socket, admin_socket, program, process: RefCell::new(process) }
    }

    /// Starts an OIDC discovery provider for `localhost` whose file has these `lines` too, and does not wait.
    pub(crate) fn oidc(&self, name: &str, lines: &str) -> Provider {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("oidc.conf");
        std::fs::write(&file, format!("log_level = \"DEBUG\"\ndomains = [\"localhost\"]\n{lines}\n"))
            .unwrap();
        let mut command = Command::new(&self.programs.oidc);
        command.arg("-config").arg(file);
        Provider { process: Process::start(command, &folder.join("log")) }
    }

    /// Our server under the name of SPIRE's, whichever the scenario runs.
    pub(crate) fn our_server(&self) -> PathBuf {
        let folder = self.path().join("ours");
        std::fs::create_dir(&folder).unwrap();
        let link = folder.join("spire-server");
        std::os::unix::fs::symlink(Programs::ours(), &link).unwrap();
        link
    }

    /// A command of the server's program that needs no server.
    pub(crate) fn server_program(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(&self.programs.server).args(arguments))
    }

    /// A command of the agent's program that needs no agent.
    pub(crate) fn agent_program(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(&self.programs.agent).args(arguments))
    }
}

impl Server {
    /// Runs a command of the server's program on this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(&*self.program.borrow()).args(arguments).arg("-socketPath").arg(&self.socket))
    }

    /// Its program.
    pub(crate) fn program(&self) -> PathBuf {
        self.program.borrow().clone()
    }

    /// The command's answer as JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.cli(&[arguments, &["-output", "json"]].concat()).json()
    }

    /// A join token, for an agent that is to be known as `spiffe://<trust domain>/<alias>` too.
    pub(crate) fn join_token(&self, alias: Option<&str>) -> String {
        let id = alias.map(|alias| self.id(alias));
        let mut arguments = vec!["token", "generate"];
        arguments.extend(id.iter().flat_map(|id| ["-spiffeID", id]));
        let printed = self.cli(&arguments).ok();
        printed.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap().trim().to_owned()
    }

    /// `spiffe://<trust domain>/<path>`
    pub(crate) fn id(&self, path: &str) -> String {
        format!("spiffe://{}/{path}", self.trust_domain)
    }

    /// Creates an entry for this user's processes below `node` and returns its id.
    pub(crate) fn entry_for_this_user(&self, path: &str, flags: &[&str]) -> String {
        let selector = format!("unix:uid:{}", nix::unistd::geteuid());
        self.entry(path, "node", &selector, flags)
    }

    /// Creates an entry and returns its id.
    #[track_caller]
    pub(crate) fn entry(&self, path: &str, parent: &str, selector: &str, flags: &[&str]) -> String {
        let (id, parent) = (self.id(path), self.id(parent));
        let arguments = ["entry", "create", "-spiffeID", &id, "-parentID", &parent, "-selector", selector];
        let created = self.json(&[&arguments, flags].concat());
        created["results"][0]["entry"]["id"].as_str().unwrap().to_owned()
    }

    /// Writes the PEM bundle as it is now.
    pub(crate) fn bundle_pem(&self) -> Vec<u8> {
        self.cli(&["bundle", "show"]).ok().into_bytes()
    }

    pub(crate) fn wait_until_healthy(&self) {
        eventually("the server is healthy", || {
            assert!(self.process.borrow_mut().exited().is_none(), "the server ended");
            (self.cli(&["healthcheck"]).code == 0).then_some(())
        });
    }

    pub(crate) fn log(&self) -> String {
        self.process.borrow().log()
    }

    /// Waits for a line that has all of `parts`.
    pub(crate) fn wait_for_log(&self, parts: &[&str]) {
        eventually(&format!("the server logs {parts:?}"), || has_line(&self.log(), parts).then_some(()));
    }

    pub(crate) fn reconfigure(&self) {
        self.process.borrow().reconfigure();
    }

    pub(crate) fn stop(&self) {
        self.process.borrow_mut().terminate();
    }

    pub(crate) fn kill(&self) {
        self.process.borrow_mut().kill();
    }

    /// Starts it again, after [`Server::stop`] or [`Server::kill`].
    pub(crate) fn start_again(&self) {
        let program = self.program.borrow().clone();
        *self.process.borrow_mut() = start(&program, &self.folder, "server.conf", &[], &self.environment);
        self.wait_until_healthy();
    }

    /// Starts another program in its place, after [`Server::stop`]; returns the one before.
    pub(crate) fn run_as(&self, program: PathBuf) -> PathBuf {
        let before = self.program.replace(program);
        self.start_again();
        before
    }
}

impl Agent {
    /// Runs a command of the agent's program on the Workload API socket.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(&self.program).args(arguments).arg("-socketPath").arg(&self.socket))
    }

    /// Its program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a command on the admin socket.
    pub(crate) fn admin_cli(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(&self.program).args(arguments).arg("-socketPath").arg(&self.admin_socket))
    }

    /// Fetches the X.509-SVIDs of this user's processes; they must verify.
    pub(crate) fn fetch_x509(&self) -> Result<Vec<Fetched>, Outcome> {
        let folder = tempfile::tempdir_in(&self.folder).unwrap();
        let fetched =
            self.cli(&["api", "fetch", "x509", "-timeout", "25s", "-write", folder.path().to_str().unwrap()]);
        if fetched.code != 0 {
            return Err(fetched);
        }
        let count = (0..).take_while(|n| folder.path().join(format!("svid.{n}.pem")).exists()).count();
        Ok((0..count).map(|n| svids::read(folder.path(), n)).collect())
    }

    /// Waits until this user's processes have an SVID for `path`.
    pub(crate) fn wait_for_svid(&self, path: &str) -> Fetched {
        eventually(&format!("an SVID for {path}"), || {
            self.fetch_x509().ok()?.into_iter().find(|fetched| fetched.svid.id.path() == format!("/{path}"))
        })
    }

    /// Fetches a JWT-SVID for `audience`; the answer of `api fetch jwt -output json`.
    #[track_caller]
    pub(crate) fn fetch_jwt(&self, audience: &str) -> Jwt {
        let answer = self.cli(&["api", "fetch", "jwt", "-audience", audience, "-output", "json"]).json();
        Jwt::of(&answer)
    }

    pub(crate) fn wait_until_healthy(&self) {
        eventually("the agent is healthy", || {
            let ended = self.process.borrow_mut().exited();
            assert!(ended.is_none(), "the agent ended: {ended:?}\n{}", self.log());
            (self.cli(&["healthcheck"]).code == 0).then_some(())
        });
    }

    pub(crate) fn log(&self) -> String {
        self.process.borrow().log()
    }

    /// Waits for a line that has all of `parts`.
    pub(crate) fn wait_for_log(&self, parts: &[&str]) {
        eventually(&format!("the agent logs {parts:?}"), || has_line(&self.log(), parts).then_some(()));
    }

    pub(crate) fn wait_until_it_ends(&self) {
        eventually("the agent ends", || self.process.borrow_mut().exited());
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.borrow_mut().exited().is_none()
    }

    pub(crate) fn kill(&self) {
        self.process.borrow_mut().kill();
    }

    /// Starts it again and does not wait. The log goes on in the same file after `mark`, which is returned.
    pub(crate) fn start_again(&self, flags: &[&str]) -> usize {
        let mark = self.log().len();
        *self.process.borrow_mut() = start(&self.program, &self.folder, "agent.conf", flags, &[]);
        mark
    }
}

/// A token and the keys that it can be verified with.
pub(crate) struct Jwt {
    pub(crate) token: String,
    pub(crate) key_id: String,
    pub(crate) subject: String,
    /// Key ids in the trust domain's own bundle.
    pub(crate) bundle: Vec<String>,
}

impl Jwt {
    fn of(answer: &Value) -> Self {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let token = answer[0]["svids"][0]["svid"].as_str().unwrap().to_owned();
        let part = |n: usize| -> Value {
            let part = token.split('.').nth(n).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let (header, claims) = (part(0), part(1));
        let subject = claims["sub"].as_str().unwrap().to_owned();
        let trust_domain = subject.split('/').take(3).collect::<Vec<_>>().join("/");
        let keys = STANDARD.decode(answer[1]["bundles"][&trust_domain].as_str().unwrap()).unwrap();
        let keys: Value = serde_json::from_slice(&keys).unwrap();
        let bundle =
            keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned());
        Self { key_id: header["kid"].as_str().unwrap().to_owned(), subject, bundle: bundle.collect(), token }
    }
}

fn start(
    program: &Path,
    folder: &Path,
    config: &str,
    flags: &[&str],
    environment: &[(String, String)],
) -> Process {
    let mut command = Command::new(program);
    command.envs(environment.iter().cloned());
    command.arg("run").arg("-config").arg(folder.join(config)).args(flags);
    Process::start(command, &folder.join("log"))
}

/// Whether a line of `log` has all of `parts`.
pub(crate) fn has_line(log: &str, parts: &[&str]) -> bool {
    log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
}
