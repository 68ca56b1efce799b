//! Resident memory of the release binary: `cargo bench -p vouchsafe`.
//!
//! Starts `vouchsafe server run` and `vouchsafe agent run` on SPIRE-style configuration in a temporary directory and
//! reads `/proc/<pid>/status`. "anonymous" is what the process allocated; "file" is the pages of the binary and of the
//! system's libraries that it has mapped in, which processes of the same binary share. Exits with 1 if a target
//! is missed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use vouchsafe_testkit::free_port;

const BINARY: &str = env!("CARGO_BIN_EXE_vouchsafe");
const NODE: &str = "spiffe://example.org/node";
/// How long a process is left alone before it is measured.
const SETTLE: Duration = Duration::from_secs(12);
const WAIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1024;

const AGENT_SVIDS: usize = 1_000;
const SERVER_ENTRIES: usize = 10_000;
/// Entries in one `entry create`.
const BATCH: usize = 1_000;

fn main() -> ExitCode {
    let bench = Bench::new();
    println!(
        "{:<46} {:>9} {:>10} {:>9} {:>9} {:>10}",
        "process", "RSS MiB", "anonymous", "file", "peak", "target MiB"
    );
    let server = bench.start_server();
    let agent = bench.start_agent();
    sleep(SETTLE);
    let mut good = report("agent, idle", &agent, Some(12 * MIB));

    bench.create_entries(0..AGENT_SVIDS);
    wait_until("every entry has its SVID", || bench.svids_asked_for() >= AGENT_SVIDS);
    sleep(SETTLE);
    good &= report("agent, 1,000 SVIDs held", &agent, Some(24 * MIB));

    for first in (AGENT_SVIDS..SERVER_ENTRIES).step_by(BATCH) {
        bench.create_entries(first..first + BATCH);
    }
    sleep(SETTLE);
    good &= report("server, 10,000 entries just created", &server, Some(40 * MIB));
    report("agent, 10,000 entries and 1,000 SVIDs", &agent, None);
    drop(server);
    let server = bench.start_server();
    sleep(SETTLE);
    good &= report("server, started with 10,000 entries", &server, Some(40 * MIB));
    drop((server, agent));

    let bench = Bench::new();
    let server = bench.start_server();
    sleep(SETTLE);
    good &= report("server, idle", &server, Some(20 * MIB));
    println!("targets: {}", if good { "reached" } else { "MISSED" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(name: &str, process: &Process, target: Option<u64>) -> bool {
    let [rss, anonymous, file, peak] =
        ["VmRSS:", "RssAnon:", "RssFile:", "VmHWM:"].map(|field| process.kib(field));
    let mib = |kib: u64| kib as f64 / MIB as f64;
    let shown = target.map_or_else(|| "-".to_owned(), |target| format!("{:.0}", mib(target)));
    println!(
        "{name:<46} {:>9.1} {:>10.1} {:>9.1} {:>9.1} {shown:>10}",
        mib(rss),
        mib(anonymous),
        mib(file),
        mib(peak)
    );
    target.is_none_or(|target| rss <= target)
}

struct Process(Child);

impl Process {
    fn kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let asked = Command::new("kill").arg(pid).status();
        if !asked.is_ok_and(|status| status.success()) {
            self.0.kill().unwrap();
        }
        self.0.wait().unwrap();
    }
}

/// One server and one agent, and where they live.
struct Bench {
    dir: tempfile::TempDir,
    port: u16,
}

impl Bench {
    fn new() -> Self {
        let port = free_port();
        let bench = Self { dir: tempfile::tempdir().unwrap(), port };
        bench.write("server.conf", SERVER_CONF);
        bench.write("agent.conf", AGENT_CONF);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, template: &str) {
        let dir = self.dir.path().display().to_string();
        let text = template.replace("@DIR@", &dir).replace("@PORT@", &self.port.to_string());
        fs::write(self.path(name), text).unwrap();
    }

    fn start_server(&self) -> Process {
        let server = self.start("server", &[]);
        wait_until("the server is healthy", || self.ask(&["server", "healthcheck"]).is_some());
        server
    }

    fn start_agent(&self) -> Process {
        let bundle = self.ask(&["server", "bundle", "show"]).unwrap();
        fs::write(self.path("bundle.pem"), bundle).unwrap();
        let answer = self.ask(&["server", "token", "generate", "-spiffeID", NODE]).unwrap();
        let token = answer.trim().strip_prefix("Token: ").unwrap();
        let agent = self.start("agent", &["-joinToken", token]);
        wait_until("the agent is healthy", || self.ask(&["agent", "healthcheck"]).is_some());
        agent
    }

    fn start(&self, part: &str, more: &[&str]) -> Process {
        let log = fs::File::options().create(true).append(true).open(self.log(part)).unwrap();
        let config = self.path(&format!("{part}.conf"));
        let child = Command::new(BINARY)
            .args([part, "run", "-config"])
            .arg(config)
            .args(more)
            .stdout(log)
            .stderr(Stdio::inherit())
            .spawn();
        Process(child.unwrap())
    }

    fn log(&self, part: &str) -> PathBuf {
        self.path(&format!("{part}.log"))
    }

    /// What a command prints; `None` when it fails.
    fn ask(&self, command: &[&str]) -> Option<String> {
        let socket = self.path(&format!("{}/api.sock", command[0]));
        let output = Command::new(BINARY).args(command).arg("-socketPath").arg(socket).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// One entry per number, each for its own user and below the node.
    fn create_entries(&self, numbers: std::ops::Range<usize>) {
        let mut data = String::from("{\"entries\":[");
        for (place, number) in numbers.enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(
                data,
                "{comma}{{\"parent_id\":\"{NODE}\",\"spiffe_id\":\"spiffe://example.org/ns/bench/sa/w{number}\",\
                 \"selectors\":[{{\"type\":\"unix\",\"value\":\"uid:{}\"}}]}}",
                100_000 + number
            )
            .unwrap();
        }
        data.push_str("]}");
        let file = self.path("entries.json");
        fs::write(&file, data).unwrap();
        self.ask(&["server", "entry", "create", "-data", text(&file)]).expect("entries were refused");
    }

    /// SVIDs that the agent says it asked for.
    fn svids_asked_for(&self) -> usize {
        let log = fs::read_to_string(self.log("agent")).unwrap();
        log.lines().filter(|line| line.contains("Creating X509-SVID")).count()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    const STEP: Duration = Duration::from_millis(200);
    let mut waited = Duration::ZERO;
    while !done() {
        assert!(waited < WAIT, "still waiting until {what}");
        sleep(STEP);
        waited += STEP;
    }
}

const SERVER_CONF: &str = r#"
server {
    bind_address = "127.0.0.1"
    bind_port = "@PORT@"
    socket_path = "@DIR@/server/api.sock"
    trust_domain = "example.org"
    data_dir = "@DIR@/server"
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
}
plugins {
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { directory = "@DIR@/agent" } }
    WorkloadAttestor "unix" { plugin_data {} }
}
"#;
