//! `vouchsafe helper`, and spiffe-helper: an identity in files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use vouchsafe_testkit::free_port;
use vouchsafe_types::pem;
use vouchsafe_types::x509_svid::X509Svid;

use crate::process::{Outcome, Process, eventually, run};
use crate::programs::Programs;
use crate::svids;
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

/// A server, an agent, an entry for this user, and a folder for files.
struct Stage {
    world: World,
    server: Server,
    agent: Agent,
    entry: String,
    certs: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let server = world.server("server", &ServerSettings::default());
        let agent = world.agent("agent", &server, &AgentSettings::default());
        let entry = server.entry_for_this_user("web", &[]);
        agent.wait_for_svid("web");
        let certs = world.path().join("certs");
        fs::create_dir(&certs).unwrap();
        Self { world, server, agent, entry, certs }
    }

    /// A file for the helper with these `lines` too.
    fn config(&self, lines: &str) -> PathBuf {
        let path = self.world.path().join("helper.conf");
        let text = format!(
            "agent_address = \"{}\"\ncert_dir = \"{}\"\nsvid_file_name = \"svid.pem\"\nsvid_key_file_name = \"svid_key.pem\"\n\
             svid_bundle_file_name = \"svid_bundle.pem\"\n{lines}\n",
            self.agent.socket.display(),
            self.certs.display(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// The helper, kept running.
    fn helper(&self, lines: &str) -> Process {
        let mut command = command(&self.config(lines));
        command.arg("-daemon-mode=true");
        Process::start(command, &self.world.path().join("helper.log"))
    }

    fn once(&self, lines: &str) -> Outcome {
        run(command(&self.config(lines)).arg("-daemon-mode=false"))
    }

    /// Has the identity issued anew, with another DNS name.
    fn renew(&self, dns_name: &str) {
        let selector = format!("unix:uid:{}", nix::unistd::geteuid());
        let (id, parent) = (self.server.id("web"), self.server.id("node"));
        let flags = ["-spiffeID", &id, "-parentID", &parent, "-selector", &selector, "-dns", dns_name];
        self.server.cli(&[&["entry", "update", "-entryID", &self.entry], &flags[..]].concat()).ok();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.certs.join(name)).unwrap_or_default()
    }

    /// Waits until the certificate has this DNS name; then the key must be its own.
    fn wait_for_name(&self, dns_name: &str) {
        eventually(&format!("a certificate for {dns_name}"), || {
            let pair = read_pair(&self.certs)?;
            (pair.0.contains(&dns_name.to_owned()) && pair.1).then_some(())
        });
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.certs.join(name)).unwrap().permissions().mode() & 0o7777
    }
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(Programs::ours());
    command.arg("helper").arg("-config").arg(config);
    command
}

/// The DNS names of the certificate in `folder`, and whether the key beside it is its own. A folder that was replaced vanishes
/// under its reader, at any file.
fn read_pair(folder: &Path) -> Option<(Vec<String>, bool)> {
    let key = pem::parse(&fs::read(folder.join("svid_key.pem")).ok()?).ok()?;
    let chain = svids::certificates(&fs::read(folder.join("svid.pem")).ok()?);
    let leaf = vouchsafe_types::certificate::Certificate::parse(chain.first()?).ok()?;
    let key = PrivateKeyDer::Pkcs8(key.first()?.der.to_vec().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).ok()?;
    let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    Some((leaf.dns_names, CertifiedKey::new(chain, key).keys_match().is_ok()))
}

#[test]
fn files_are_written_renewed_and_the_program_is_told() {
    let stage = Stage::new();
    let told = stage.world.path().join("told");
    let script = stage.world.path().join("reload.sh");
    // Not SIGHUP: a shell cannot trap what was ignored when it began, as under nohup.
    let trap = format!(
        "trap 'echo signal >> {0}' USR1\necho start >> {0}\necho $$ > {0}.pid\nwhile :; do sleep 0.1; done\n",
        told.display()
    );
    fs::write(&script, trap).unwrap();
    let port = free_port();
    let lines = format!(
        "cmd = \"/bin/bash\"\ncmd_args = \"{}\"\nrenew_signal = \"SIGUSR1\"\njwt_bundle_file_name = \"bundle.json\"\n\
         jwt_svids = [{{ jwt_audience = \"a\", jwt_extra_audiences = [\"b\"], jwt_svid_file_name = \"jwt.token\" }}]\n\
         health_checks {{\n listener_enabled = true\n bind_port = {port}\n }}",
        script.display()
    );
    let mut helper = stage.helper(&lines);
    eventually("all files", || {
        let page = run(Command::new("curl").args(["-sf", &format!("http://127.0.0.1:{port}/ready")]));
        (page.code == 0).then_some(())
    });
    let chain = svids::certificates(stage.read("svid.pem").as_bytes());
    let svid = X509Svid::parse(chain.clone()).unwrap();
    assert_eq!(svid.id.to_string(), stage.server.id("web"));
    let bundle = stage.read("svid_bundle.pem");
    svids::verify(&chain, &svid.id.trust_domain(), bundle.as_bytes()).unwrap();
    assert!(read_pair(&stage.certs).unwrap().1, "the key is the certificate's");
    let modes = ["svid.pem", "svid_key.pem", "svid_bundle.pem", "jwt.token", "bundle.json"]
        .map(|name| stage.mode(name));
    assert_eq!(modes, [0o644, 0o600, 0o644, 0o600, 0o600]);
    let bundles: Value = serde_json::from_str(&stage.read("bundle.json")).unwrap();
    assert!(bundles["domain.test"].is_string(), "{bundles}");
    let token = vouchsafe_types::jwt_svid::JwtSvid::parse_unverified(&stage.read("jwt.token")).unwrap();
    assert_eq!(token.audience, ["a", "b"]);
    eventually("the command runs", || (fs::read_to_string(&told).ok()? == "start\n").then_some(()));

    stage.renew("one.test");
    stage.wait_for_name("one.test");
    eventually("the signal", || (fs::read_to_string(&told).ok()? == "start\nsignal\n").then_some(()));

    // The agent is away: nothing is taken back. It comes back with something new: that is written.
    let before = stage.read("svid.pem");
    stage.agent.kill();
    eventually("the helper notices", || helper.log().contains("the files stay as they are").then_some(()));
    assert_eq!(stage.read("svid.pem"), before);
    stage.agent.start_again(&[]);
    stage.renew("two.test");
    stage.wait_for_name("two.test");

    helper.terminate();
    assert!(helper.exited().unwrap().success());
    assert!(!stage.read("svid_key.pem").is_empty(), "the files outlive the helper");
    let pid = fs::read_to_string(told.with_extension("pid")).unwrap();
    let ended = kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL);
    assert_eq!(ended, Ok(()), "the command outlives the helper too");
}

#[test]
fn a_helper_that_is_killed_leaves_whole_files_and_pairs_are_never_mixed_when_replaced_at_once() {
    let stage = Stage::new();
    for round in 0..6 {
        let name = format!("r{round}.test");
        let mut helper = stage.helper("replace_all_at_once = true");
        stage.renew(&name);
        eventually("the helper runs", || helper.log().contains("Keeping identities in files").then_some(()));
        for _ in 0..2000 {
            // A reader that opens the folder once has one set, whatever happens meanwhile.
            let Ok(folder) = fs::canonicalize(stage.certs.join("..data")) else { continue };
            if let Some((_, own)) = read_pair(&folder) {
                assert!(own, "a key with another's certificate");
            }
        }
        helper.kill();
        for file in ["svid.pem", "svid_key.pem", "svid_bundle.pem"] {
            let text = stage.read(file);
            if !text.is_empty() {
                assert!(!pem::parse(text.as_bytes()).unwrap().is_empty(), "{file} is not whole");
            }
        }
    }
    let helper = stage.helper("replace_all_at_once = true");
    stage.wait_for_name("r5.test");
    // The files may be those of the helper before, and their folder vanish while this one replaces it.
    let key = eventually("the key", || fs::metadata(stage.certs.join("svid_key.pem")).ok());
    assert_eq!(key.permissions().mode() & 0o7777, 0o600);
    drop(helper);
}

#[test]
fn one_shot_writes_and_ends_and_says_what_is_wrong() {
    let stage = Stage::new();
    let done = stage.once("key_file_mode = 0400");
    assert_eq!(done.code, 0, "{done:?}");
    assert!(read_pair(&stage.certs).unwrap().1);
    assert_eq!(stage.mode("svid_key.pem"), 0o400);

    // The folder's place is taken by a file, which keeps root out too.
    fs::remove_dir_all(&stage.certs).unwrap();
    fs::write(&stage.certs, "in the way").unwrap();
    let unwritable = stage.once("");
    assert_eq!(unwritable.code, 1);
    assert!(
        unwritable.stderr.contains("cannot write") && unwritable.stderr.contains("svid_key.pem"),
        "{unwritable:?}"
    );

    let hint = stage.once("hint = \"other\"");
    assert_eq!(hint.code, 1);
    assert!(hint.stderr.contains("has the hint \"other\""), "{hint:?}");

    let config = stage.once("renew_signal = \"SIGNOPE\"\nnope = 1");
    assert_eq!(config.code, 1);
    let expected = ["helper.conf:6:16: renew_signal", "helper.conf:7:1: unknown configuration"];
    assert!(expected.iter().all(|part| config.stderr.contains(part)), "{config:?}");
}
