//! Why no agent answers, going by what can be seen from outside: the socket, who listens, the lock of the data directory, what
//! an agent that ended left behind.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tonic::{Code, Status};
use vouchsafe_proto::vouchsafe::agent::v1 as proto;

use super::finding;
use crate::cli::socket::Target;
use crate::console::Console;
use crate::go;
use crate::run::last_words;

/// What there is to say about the agent at `target`, which answered `status` or not at all.
pub(super) fn explanation(
    target: &Target,
    data_dir: Option<&Path>,
    status: &Status,
    console: &Console<'_>,
) -> proto::ExplainResponse {
    let path = target.path();
    let mut findings = Vec::new();
    if let Some(words) = last_words::read(path) {
        let ago = console.clock.unix_now().saturating_sub(words.at);
        let text = format!("the agent ended {ago} s ago, at {}: {}", go::rfc3339(words.at), words.reason);
        findings.push(finding(&words.code, text, next_after(&words.code).to_owned()));
    }
    findings.push(socket(path, status));
    findings.extend(lock(path, data_dir));
    findings.extend(elsewhere(path));
    let explanation = proto::Explanation {
        subject: format!("the agent at {}", path.display()),
        findings,
        ..proto::Explanation::default()
    };
    proto::ExplainResponse { explanations: vec![explanation], agent: None }
}

fn next_after(code: &str) -> &'static str {
    match code {
        last_words::BANNED => {
            "to bring it back: `vouchsafe server agent evict -spiffeID <agent>` on the server, then `vouchsafe server token generate`, and start the agent with -joinToken"
        }
        last_words::EVICTED => {
            "if that was a mistake: `vouchsafe server token generate -spiffeID <node alias>` on the server, and start the agent with -joinToken"
        }
        last_words::NOT_ATTESTED => {
            "`vouchsafe server token generate` on the server makes a new token, which works once; start the agent with -joinToken"
        }
        _ => "put that right and start it again; its log has more",
    }
}

/// What the socket says.
fn socket(path: &Path, status: &Status) -> proto::Finding {
    let shown = path.display();
    let start = "start it: `vouchsafe agent run -config agent.conf`, or `vouchsafe up`. If it runs with another socket_path, name that with -socketPath";
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => finding(
            "no-permission",
            format!("{shown} is in a directory that this user may not enter"),
            "ask as root, or as a user who may enter it".to_owned(),
        ),
        Err(_) => {
            finding("agent-not-running", format!("no agent listens: there is no {shown}"), start.to_owned())
        }
        Ok(found) if !found.file_type().is_socket() => finding(
            "not-a-socket",
            format!("{shown} is no socket, so no agent listens there"),
            "name the agent's socket_path with -socketPath".to_owned(),
        ),
        Ok(_) => answered(path, status),
    }
}

fn answered(path: &Path, status: &Status) -> proto::Finding {
    let shown = path.display();
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => finding(
            "stale-socket",
            format!("{shown} is left over: the agent that made it is gone and did not end in order"),
            "start it again: `vouchsafe agent run -config agent.conf`; it replaces the socket. Its log's last lines say why it ended".to_owned(),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => finding(
            "no-permission",
            format!("this user may not open {shown}"),
            "ask as root, or as a user who may: its owner, or a member of its group".to_owned(),
        ),
        _ if status.code() == Code::Unimplemented => finding(
            "not-our-agent",
            format!("whoever listens at {shown} explains nothing: a stock SPIRE agent, an older agent of ours, or a server"),
            "name the socket of a vouchsafe agent with -socketPath (the agent's, not the server's)".to_owned(),
        ),
        _ if status.code() == Code::DeadlineExceeded => finding(
            "agent-hangs",
            format!("somebody listens at {shown} and does not answer in time"),
            "look at the load of this machine and at the agent's log; with a longer -timeout it may still answer".to_owned(),
        ),
        _ => finding(
            "agent-not-answering",
            format!("somebody listens at {shown}, and answers {:?}: {}", status.code(), status.message()),
            "look at the agent's log".to_owned(),
        ),
    }
}

/// Whether an agent holds the data directory.
fn lock(socket: &Path, data_dir: Option<&Path>) -> Option<proto::Finding> {
    let near = socket.ancestors().skip(1).take(2).map(Path::to_owned);
    let above = socket.ancestors().nth(2);
    let beside = above.into_iter().flat_map(|above| DATA_DIRS.map(|name| above.join(name)));
    let places: Vec<PathBuf> = match data_dir {
        Some(named) => vec![named.to_owned()],
        None => near.chain(beside).collect(),
    };
    let (path, mut file) = places.iter().find_map(|place| {
        let path = place.join("agent.lock");
        let file = last_words::open_what_may_be_anybodys(&path).ok()?;
        Some((path, file))
    })?;
    let mut text = String::new();
    (&mut file).take(32).read_to_string(&mut text).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let held = is_locked(file.metadata().ok()?.ino());
    let folder = path.parent().unwrap_or(&path).display().to_string();
    let text = match (held, process_name(pid)) {
        (true, Some(name)) => format!(
            "process {pid} ({name}) holds the data directory {folder}: an agent runs, with another socket or without one"
        ),
        (true, None) => format!("an agent that this user cannot see holds the data directory {folder}"),
        (false, _) => format!("the agent of the data directory {folder} had the number {pid} and is gone"),
    };
    let next = match held {
        true => {
            "look at socket_path in that agent's configuration; without Workload API and SDS API it has no socket, and admin_socket_path serves explanations too"
        }
        false => "start it again; its log's last lines say why it ended",
    };
    let severity = proto::finding::Severity::Notice.into();
    let code = if held { "agent-runs-elsewhere" } else { "agent-gone" };
    Some(proto::Finding { severity, ..finding(code, text, next.to_owned()) })
}

/// Whether somebody has locked the file of this inode. Asked of the kernel's list: to try would be in the way of an agent that
/// starts at this moment.
fn is_locked(inode: u64) -> bool {
    let mut text = String::new();
    let read = File::open("/proc/locks").and_then(|file| file.take(MAX_SOCKETS).read_to_string(&mut text));
    let suffix = format!(":{inode}");
    read.is_ok()
        && text.lines().any(|line| {
            line.contains("FLOCK") && line.split_ascii_whitespace().any(|field| field.ends_with(&suffix))
        })
}

fn process_name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Sockets of the same name that somebody listens on.
fn elsewhere(path: &Path) -> Option<proto::Finding> {
    let mut text = String::new();
    File::open("/proc/net/unix").ok()?.take(MAX_SOCKETS).read_to_string(&mut text).ok()?;
    let found = listening(&text, path);
    if found.is_empty() {
        return None;
    }
    let severity = proto::finding::Severity::Notice.into();
    let text = format!("somebody listens at {}", found.join(", "));
    let next = format!("if one of these is the agent: `vouchsafe explain -socketPath {}`", found[0]);
    Some(proto::Finding { severity, ..finding("other-sockets", text, next) })
}

/// The paths in `/proc/net/unix` that are listened on and are named as `path` is.
fn listening<'t>(text: &'t str, path: &Path) -> Vec<&'t str> {
    let named = |line: &'t str| {
        let mut fields = line.split_ascii_whitespace();
        let flags = fields.nth(3)?;
        let found = fields.nth(3)?;
        (flags == ACCEPTS && Path::new(found) != path && Path::new(found).file_name() == path.file_name())
            .then_some(found)
    };
    let mut found: Vec<_> = text.lines().filter_map(named).filter(|path| !path.contains("server")).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_SHOWN);
    found
}

/// The flag of a socket that accepts connections.
const ACCEPTS: &str = "00010000";

/// Bytes of the list of sockets that are read.
const MAX_SOCKETS: u64 = 4 * 1024 * 1024;

/// What data directories beside a socket's are called.
const DATA_DIRS: [&str; 3] = ["data", ".data", "agent"];

/// Sockets that are named.
const MAX_SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_are_listened_on_are_found_by_name() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    000: 00000002 00000000 00010000 0001 01 1 /run/b/api.sock\n\
                    000: 00000002 00000000 00010000 0001 01 2 /run/a/api.sock\n\
                    000: 00000003 00000000 00000000 0001 03 3 /run/c/api.sock\n\
                    000: 00000002 00000000 00010000 0001 01 4 /run/spire-server/api.sock\n\
                    000: 00000002 00000000 00010000 0001 01 5 @abstract\n\
                    000: 00000002 00000000 00010000 0001 01 6\n\
                    000: 00000002 00000000 00010000 0001 01 7 /run/me/api.sock\n";
        assert_eq!(listening(text, Path::new("/run/me/api.sock")), ["/run/a/api.sock", "/run/b/api.sock"]);
    }

    #[test]
    fn what_is_in_the_place_of_the_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let code = |path: &Path| socket(path, &Status::unavailable("")).code;
        let path = folder.path().join("api.sock");
        assert_eq!(code(&path), "agent-not-running");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(code(&path), "stale-socket");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(code(&path), "not-a-socket");
    }

    #[test]
    fn the_lock_says_whether_an_agent_holds_the_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("agent.lock"), format!("{}\n", std::process::id())).unwrap();
        let found = || lock(&folder.path().join("public/api.sock"), None).unwrap().code;
        assert_eq!(found(), "agent-gone");
        let held = File::open(folder.path().join("agent.lock")).unwrap();
        held.try_lock().unwrap();
        assert_eq!(found(), "agent-runs-elsewhere");
        assert!(lock(&folder.path().join("a/b/c/api.sock"), None).is_none());
    }
}
