//! The process at the other end of a Unix socket, pinned when its connection is accepted.
//!
//! A process id alone names a process only until that process ends: the number is reused, and an attestor that reads
//! `/proc/<pid>` a moment later may look at somebody else. Two things pin it:
//!
//! * a **pidfd** from `SO_PEERPIDFD` (Linux 6.5): the kernel's own handle to the process that connected. While
//!   it does not poll readable, that process has not ended, so its number cannot have been reused;
//! * the **start time** from `/proc/<pid>/stat`, which differs between two processes with one number. Used
//!   alone where the kernel has no `SO_PEERPIDFD`.
//!
//! A caller attests, then asks [`PeerProcess::still_same`]: only then was what it read about this process.
//!
//! `exec` keeps the process: what it runs is read at attestation. But one that is of **another user or group** than
//! when it connected is no longer the same. Otherwise a process could connect, leave the connection to a child, become
//! a set-user-ID program, and the child would be given what belongs to root.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

/// A process that connected to a Unix socket of ours. Cheap to clone; a request extension on such connections.
#[derive(Clone)]
pub struct PeerProcess {
    /// Process id in our PID namespace; 0 when the process is not visible from it.
    pub pid: i32,
    /// Effective user id when it connected.
    pub uid: u32,
    /// Effective group id when it connected.
    pub gid: u32,
    /// The kernel's handle to it, where the kernel offers one.
    pub pidfd: Option<Arc<OwnedFd>>,
    /// Clock ticks between boot and its start; `None` when `/proc` does not show it.
    pub start_time: Option<u64>,
}

impl PeerProcess {
    /// Reads who connected `socket`, and pins it.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when the process ended before it could be pinned, [`Error::Credentials`] when the kernel does
    /// not say who it is. Neither is worth a retry on the same connection.
    pub fn of(socket: &impl AsFd) -> Result<Self, Error> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials).map_err(Error::Credentials)?;
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(fd) => Some(Arc::new(fd)),
            // "Unknown option" is an old kernel; anything else is about this peer (EINVAL and ESRCH: it is gone).
            Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => None,
            Err(_) => return Err(Error::Gone { pid: credentials.pid() }),
        };
        let peer = Self {
            pid: credentials.pid(),
            uid: credentials.uid(),
            gid: credentials.gid(),
            pidfd,
            start_time: start_time(credentials.pid()),
        };
        // The start time was read by number. The process being alive now shows that it was read from the right one.
        if peer.still_same() { Ok(peer) } else { Err(Error::Gone { pid: peer.pid }) }
    }

    /// Reads who connected `socket`, without anything that would last: [`PeerProcess::still_same`] says nothing about it.
    ///
    /// # Errors
    ///
    /// [`Error::Credentials`] when the kernel does not say who it is.
    pub(crate) fn unpinned(socket: &impl AsFd) -> Result<Self, Error> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials).map_err(Error::Credentials)?;
        let (pid, uid, gid) = (credentials.pid(), credentials.uid(), credentials.gid());
        Ok(Self { pid, uid, gid, pidfd: None, start_time: None })
    }

    /// Pins process `pid`, whoever it is. That the number means the process it should is for the caller to know.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] when there is none, or it ended meanwhile.
    pub fn of_pid(pid: i32) -> Result<Self, Error> {
        let gone = || Error::NoSuchProcess { pid };
        let owner = fs::metadata(format!("/proc/{pid}")).map_err(|_| gone())?;
        let start_time = start_time(pid);
        let process = Self { pid, uid: owner.uid(), gid: owner.gid(), pidfd: None, start_time };
        // The owner was read by number, before the start time: both must be of the same process.
        if process.still_same() { Ok(process) } else { Err(gone()) }
    }

    /// Whether the process that connected is still running as the same user and group, and so whether its pid still
    /// means it.
    ///
    /// `false` when in doubt. A `stat` of `/proc/<pid>`, then one `poll` with a pidfd, or a read of `/proc/<pid>/stat`
    /// without.
    #[must_use]
    pub fn still_same(&self) -> bool {
        // The owner is read by number, so it counts only if the process has not ended after that.
        self.owner_is_the_same() && self.is_running()
    }

    /// The kernel shows the effective user and group as the owner of this directory. Of a process that we cannot see (in
    /// another PID namespace, or hidden by `hidepid`) there is none, and nothing else can be read about it either.
    fn owner_is_the_same(&self) -> bool {
        match fs::metadata(format!("/proc/{}", self.pid)) {
            Ok(owner) => (owner.uid(), owner.gid()) == (self.uid, self.gid),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    fn is_running(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => {
                let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                // A pidfd polls readable once its process has ended, also while nobody has waited for it.
                poll(&mut fds, PollTimeout::ZERO) == Ok(0)
            }
            None => self.start_time.is_some() && start_time(self.pid) == self.start_time,
        }
    }
}

impl fmt::Debug for PeerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerProcess")
            .field("pid", &self.pid)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("pinned", &self.pidfd.is_some())
            .field("start_time", &self.start_time)
            .finish()
    }
}

/// Why a peer could not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not say who connected.
    #[error("cannot read the credentials of the connecting process")]
    Credentials(#[source] Errno),
    /// There is no process of this number.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The number.
        pid: i32,
    },
    /// The process ended before it could be pinned.
    #[error("process {pid} ended while it was connecting")]
    Gone {
        /// The number that it had.
        pid: i32,
    },
}

/// The name a process goes by, for messages. Reads `/proc/<pid>/comm`.
pub(crate) fn process_name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn start_time(pid: i32) -> Option<u64> {
    let stat: io::Result<Vec<u8>> = fs::read(format!("/proc/{pid}/stat"));
    parse_start_time(&stat.ok()?)
}

/// Field 22 of `/proc/<pid>/stat`. Field 2 is the command's name in parentheses, which may itself hold spaces and
/// parentheses, so counting starts after the last `)`.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    const FIELDS_FROM_STATE_TO_START: usize = 22 - 3;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_ascii_whitespace().nth(FIELDS_FROM_STATE_TO_START)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    #[test]
    fn a_command_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = b"42 (a ) b (c) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21\n";
        assert_eq!(parse_start_time(stat), Some(777));
    }

    #[test]
    fn a_truncated_stat_has_no_start_time() {
        for stat in [
            &b""[..],
            b"42",
            b"42 (x)",
            b"42 (x) R 1 2 3",
            b"42 (x) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x",
        ] {
            assert_eq!(parse_start_time(stat), None, "{:?}", String::from_utf8_lossy(stat));
        }
    }

    #[test]
    fn a_connection_from_this_process_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(&ours).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.start_time.is_some());
        assert!(peer.still_same());
    }

    #[test]
    fn a_process_that_is_named_by_its_number_is_pinned_as_well() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let process = PeerProcess::of_pid(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(
            (process.uid, process.gid),
            (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        );
        assert!(process.still_same());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.still_same());
        assert!(matches!(PeerProcess::of_pid(process.pid), Err(Error::NoSuchProcess { .. })));
        assert!(PeerProcess::of_pid(-1).is_err() && PeerProcess::of_pid(0).is_err());
    }

    #[test]
    fn a_peer_that_became_another_user_is_no_longer_the_same() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(&ours).unwrap();
        let other_user = PeerProcess { uid: peer.uid + 1, ..peer.clone() };
        let other_group = PeerProcess { gid: peer.gid + 1, ..peer.clone() };
        assert!(peer.still_same() && !other_user.still_same() && !other_group.still_same());
    }

    /// A child whose first act is to connect to a socket of ours and stay.
    fn connected_child(dir: &tempfile::TempDir) -> Option<(std::process::Child, UnixStream)> {
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let program =
            "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ntime.sleep(60)";
        let child =
            Command::new("python3").args(["-c", program]).arg(&path).stdin(Stdio::null()).spawn().ok()?;
        let (stream, _) = listener.accept().unwrap();
        Some((child, stream))
    }

    #[test]
    fn a_peer_that_ended_is_no_longer_the_same_with_and_without_a_pidfd() {
        let dir = tempfile::tempdir().unwrap();
        // Needs some program that connects to a socket; skips on a machine without one rather than pretend.
        let Some((mut child, stream)) = connected_child(&dir) else { return };
        let pinned = PeerProcess::of(&stream).unwrap();
        let by_start_time = PeerProcess { pidfd: None, ..pinned.clone() };
        assert_eq!(pinned.pid, i32::try_from(child.id()).unwrap());
        assert!(pinned.still_same() && by_start_time.still_same());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!pinned.still_same());
        assert!(!by_start_time.still_same());
        // A process that took the number would have another start time.
        let reused = PeerProcess { pid: 1, ..by_start_time };
        assert!(!reused.still_same());
    }
}
