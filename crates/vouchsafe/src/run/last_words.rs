//! What an agent that ended leaves beside its socket for `vouchsafe explain`: when, and why. Readable by its own user alone, and
//! removed when an agent starts there again.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use vouchsafe_agent::StartError;
use vouchsafe_agent::node::NodeError;
use vouchsafe_transport::unix;

/// The end of an agent.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LastWords {
    /// Unix seconds.
    pub(crate) at: i64,
    /// [`BANNED`], [`EVICTED`], [`NOT_ATTESTED`] or [`ENDED`].
    pub(crate) code: String,
    /// As its log has it.
    pub(crate) reason: String,
}

/// The server has banned it.
pub(crate) const BANNED: &str = "agent-banned";
/// The server does not know it any more.
pub(crate) const EVICTED: &str = "agent-evicted";
/// It could not be attested.
pub(crate) const NOT_ATTESTED: &str = "agent-not-attested";
/// Something else.
pub(crate) const ENDED: &str = "agent-ended";

/// Forgets the end of the agent before.
pub(super) fn forget(socket: &Path) {
    // Mostly there is none.
    drop(fs::remove_file(file_beside(socket)));
}

/// Notes why the agent at `socket` ends. Best effort: there may be no directory to write to. Nothing is noted while somebody
/// listens there: that agent has not ended, and one that ends because of it has nothing to say about it.
pub(super) fn note(socket: &Path, error: &anyhow::Error, at: i64) {
    if unix::is_listened_on(socket) {
        return;
    }
    let words = LastWords { at, code: code(error).to_owned(), reason: format!("{error:#}") };
    let Ok(text) = serde_json::to_vec(&words) else { return };
    if let Err(error) = vouchsafe_lastgood::sealed::replace(&file_beside(socket), &text) {
        tracing::debug!(%error, "cannot note why the agent ends");
    }
}

/// What the agent that last listened at `socket` left. `None` when there is none, or this user may not read it.
pub(crate) fn read(socket: &Path) -> Option<LastWords> {
    let path = file_beside(socket);
    let file = open_what_may_be_anybodys(&path).ok()?;
    // In a directory for everybody, anybody may leave something; what counts is from root or from us.
    let owner = file.metadata().ok()?.uid();
    if owner != 0
        && owner != nix::unistd::geteuid().as_raw()
        && owner != fs::metadata(path.parent()?).ok()?.uid()
    {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Opens a file in a directory that may be for everybody: follows no link, and does not wait for the other end of a pipe.
pub(crate) fn open_what_may_be_anybodys(path: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn file_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".ended");
    path.into()
}

fn code(error: &anyhow::Error) -> &'static str {
    let node = error.chain().find_map(|cause| {
        cause.downcast_ref::<NodeError>().or(match cause.downcast_ref::<StartError>() {
            Some(StartError::Node(node)) => Some(node),
            _ => None,
        })
    });
    match node {
        Some(NodeError::Banned) => BANNED,
        Some(NodeError::Evicted) => EVICTED,
        Some(NodeError::Refused { .. } | NodeError::NoAttestor) => NOT_ATTESTED,
        _ => ENDED,
    }
}

const MAX_BYTES: u64 = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_end_of_an_agent_is_found_beside_its_socket_until_the_next_one_starts() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        assert!(read(&socket).is_none());
        note(&socket, &anyhow::Error::new(NodeError::Banned).context("task agent-node failed"), 5);
        let words = read(&socket).unwrap();
        assert_eq!((words.at, words.code.as_str()), (5, BANNED));
        assert!(words.reason.contains("has banned this agent"), "{words:?}");
        let mode = fs::metadata(folder.path().join("api.sock.ended")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        forget(&socket);
        assert!(read(&socket).is_none());
    }

    #[test]
    fn an_agent_that_finds_another_one_at_its_socket_says_nothing_about_that_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        note(&socket, &anyhow::anyhow!("the socket is in use"), 5);
        assert!(read(&socket).is_none());
        drop(listening);
        note(&socket, &anyhow::anyhow!("a reason of its own"), 6);
        assert_eq!(read(&socket).unwrap().at, 6);
    }

    #[test]
    fn a_pipe_or_a_link_in_its_place_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = (folder.path().join("api.sock"), folder.path().join("api.sock.ended"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&socket).is_none(), "and nobody waits for a writer");
        fs::remove_file(&path).unwrap();
        let elsewhere = folder.path().join("elsewhere.sock");
        note(&elsewhere, &anyhow::Error::new(NodeError::Banned), 5);
        std::os::unix::fs::symlink(folder.path().join("elsewhere.sock.ended"), &path).unwrap();
        assert!(read(&elsewhere).is_some() && read(&socket).is_none());
    }
}
