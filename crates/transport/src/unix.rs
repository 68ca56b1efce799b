//! Listening on a Unix socket.
//!
//! The rules of [`UnixListener::bind`], in order:
//!
//! 1. A missing parent directory is created (with its own missing parents) with the given mode. One that exists is
//!    left as it is: its mode is the operator's choice.
//! 2. A path that holds anything but a socket is refused. A symbolic link is not followed.
//! 3. A socket that somebody listens on is refused, naming who does. A full backlog counts as listening.
//! 4. A socket that nobody listens on is left over from a crash, and is removed.
//! 5. The socket gets its mode **before** it listens, so that at no moment more may connect than the mode says.
//!
//! Dropping the listener removes its socket, unless another one has taken the path.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tonic::transport::server::Connected;

use crate::authority::LenientAuthority;
use crate::listener::{Connection, Listener, PeerKey};
use crate::net::{Arrival, Network, Place, Socket, next_arrival};
use crate::peer::{PeerProcess, process_name};

/// Connections that the kernel holds for us while we do not accept.
const BACKLOG: i32 = 1024;
/// `sun_path` has 108 bytes, one of them for the final zero.
const MAX_PATH: usize = 107;

/// A bound Unix socket.
#[derive(Debug)]
pub struct UnixListener {
    socket: Accepting,
    path: PathBuf,
    /// Device and inode of our socket, to tell it from a successor's.
    inode: Option<(u64, u64)>,
    /// Whether a peer that cannot be pinned is dropped.
    pinned: bool,
}

impl UnixListener {
    /// Binds `path` as the module describes, with `mode` for the socket and `parent_mode` for directories created.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A retry is sensible only for [`Error::InUse`], once the other process has gone.
    pub fn bind(path: &Path, mode: u32, parent_mode: u32) -> Result<Self, Error> {
        let failed = |step| move |source| Error::Failed { path: path.to_owned(), step, source };
        if path.as_os_str().len() > MAX_PATH {
            return Err(Error::PathTooLong { path: path.to_owned(), max: MAX_PATH });
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let mut directories = fs::DirBuilder::new();
            directories.recursive(true).mode(parent_mode);
            directories.create(parent).map_err(failed("create the directory of"))?;
        }
        remove_stale(path)?;
        let address = UnixAddr::new(path).map_err(io::Error::from).map_err(failed("name"))?;
        let fd = stream_socket().map_err(failed("open"))?;
        match nix::sys::socket::bind(fd.as_raw_fd(), &address) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => return Err(Error::InUse { path: path.to_owned(), holder: None }),
            Err(errno) => return Err(failed("bind")(errno.into())),
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
        let inode = fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
        Backlog::new(BACKLOG)
            .and_then(|backlog| listen(&fd, backlog))
            .map_err(|errno| failed("listen on")(errno.into()))?;
        let socket = tokio::net::UnixListener::from_std(fd.into()).map_err(failed("register"))?;
        Ok(Self { socket: Accepting::Real(socket), path: path.to_owned(), inode, pinned: true })
    }

    /// Like [`UnixListener::bind`], on `network`. On a simulated one there are neither files nor modes.
    ///
    /// # Errors
    ///
    /// As [`UnixListener::bind`].
    pub fn bind_on(network: &Network, path: &Path, mode: u32, parent_mode: u32) -> Result<Self, Error> {
        let Some(fabric) = network.simulated() else { return Self::bind(path, mode, parent_mode) };
        let bound = fabric.bind(Place::Path(path.to_owned()));
        let bound = bound.map_err(|_| Error::InUse { path: path.to_owned(), holder: None })?;
        Ok(Self { socket: Accepting::Simulated(bound), path: path.to_owned(), inode: None, pinned: true })
    }

    /// Takes connections also from processes that cannot be pinned: before Linux 6.5 that is every process of another PID
    /// namespace, as the kubelet is to a container. For sockets whose mode alone says who may connect.
    #[must_use]
    pub fn from_anywhere(mut self) -> Self {
        self.pinned = false;
        self
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener for UnixListener {
    type Io = UnixConnection;

    async fn accept(&mut self) -> io::Result<UnixConnection> {
        loop {
            let (socket, peer) = self.socket.next(self.pinned).await?;
            match peer {
                Ok(peer) => return Ok(UnixConnection { stream: LenientAuthority::new(socket), peer }),
                // Whoever it was is gone and cannot be told.
                Err(error) => tracing::debug!(%error, "connection dropped"),
            }
        }
    }
}

/// What connections come from.
#[derive(Debug)]
enum Accepting {
    Real(tokio::net::UnixListener),
    Simulated(mpsc::Receiver<Arrival>),
}

impl Accepting {
    /// The next connection, and who made it. In a simulation that is always this process.
    async fn next(&mut self, pinned: bool) -> io::Result<(Socket, Result<PeerProcess, crate::peer::Error>)> {
        match self {
            Self::Real(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = if pinned { PeerProcess::of(&stream) } else { PeerProcess::unpinned(&stream) };
                Ok((Socket::Unix(stream), peer))
            }
            Self::Simulated(arrivals) => {
                let arrival = next_arrival(arrivals).await;
                let pid = i32::try_from(std::process::id()).unwrap_or_default();
                Ok((Socket::Simulated(arrival.stream), PeerProcess::of_pid(pid)))
            }
        }
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        if found.is_some()
            && found == self.inode
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

/// A connection from a process on this machine. Its `ConnectInfo` is the [`PeerProcess`].
#[derive(Debug)]
pub struct UnixConnection {
    stream: LenientAuthority<Socket>,
    peer: PeerProcess,
}

impl Connected for UnixConnection {
    type ConnectInfo = PeerProcess;

    fn connect_info(&self) -> PeerProcess {
        self.peer.clone()
    }
}

impl Connection for UnixConnection {
    fn peer_key(&self) -> PeerKey {
        PeerKey::Process(self.peer.pid, self.peer.uid)
    }
}

impl AsyncRead for UnixConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for UnixConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Why a path cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens there.
    #[error("socket {} is in use{}; stop that process or choose another socket path", path.display(), by(.holder.as_deref()))]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens, for example `vouchsafe (pid 42)`, if the kernel says.
        holder: Option<String>,
    },
    /// Something else than a socket is there. It is not touched.
    #[error("{} exists and is not a socket; remove it or choose another socket path", path.display())]
    NotASocket {
        /// What was found.
        path: PathBuf,
    },
    /// The operating system cannot express the path.
    #[error("socket path {} is too long: at most {max} bytes are possible", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// A system call failed.
    #[error("cannot {step} socket {}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn by(holder: Option<&str>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// Whether a process listens at `path`.
#[must_use]
pub fn is_listened_on(path: &Path) -> bool {
    let (Ok(address), Ok(probe)) = (UnixAddr::new(path), stream_socket()) else { return false };
    // With a full backlog a non-blocking connect says EAGAIN.
    matches!(connect(probe.as_raw_fd(), &address), Ok(()) | Err(Errno::EAGAIN))
}

/// Rules 2 to 4.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |step| move |source| Error::Failed { path: path.to_owned(), step, source };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
    };
    if !found.file_type().is_socket() {
        return Err(Error::NotASocket { path: path.to_owned() });
    }
    let address = UnixAddr::new(path).map_err(|errno| failed("name")(errno.into()))?;
    let probe = stream_socket().map_err(failed("open"))?;
    match connect(probe.as_raw_fd(), &address) {
        // With a full backlog a non-blocking connect says EAGAIN.
        Ok(()) | Err(Errno::EAGAIN) => {
            let holder = PeerProcess::of(&probe).ok().map(|peer| {
                let name = process_name(peer.pid).unwrap_or_else(|| "a process".to_owned());
                format!("{name} (pid {})", peer.pid)
            });
            Err(Error::InUse { path: path.to_owned(), holder })
        }
        Err(Errno::ECONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the unused")(error)),
            _ => Ok(()),
        },
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed("tell whether anybody uses")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn missing_directories_are_created_and_the_modes_are_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/api.sock");
        let _listener = UnixListener::bind(&path, 0o770, 0o750).unwrap();
        assert_eq!(mode_of(&path), 0o770);
        assert_eq!(mode_of(&dir.path().join("a/b")), 0o750);
        assert_eq!(mode_of(&dir.path().join("a")), 0o750);
    }

    #[tokio::test]
    async fn an_existing_directory_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o705)).unwrap();
        let _listener = UnixListener::bind(&dir.path().join("s"), 0o777, 0o750).unwrap();
        assert_eq!(mode_of(dir.path()), 0o705);
    }

    #[tokio::test]
    async fn a_path_in_use_is_refused_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _first = UnixListener::bind(&path, 0o777, 0o755).unwrap();
        let error = UnixListener::bind(&path, 0o777, 0o755).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(path.exists(), "the other's socket is untouched");
    }

    #[tokio::test]
    async fn a_listener_with_a_full_backlog_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fd = stream_socket().unwrap();
        nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&fd, Backlog::new(0).unwrap()).unwrap();
        let probes: Vec<OwnedFd> = (0..4).map(|_| stream_socket().unwrap()).collect();
        for probe in &probes {
            let _full = connect(probe.as_raw_fd(), &UnixAddr::new(&path).unwrap());
        }
        assert!(matches!(UnixListener::bind(&path, 0o777, 0o755), Err(Error::InUse { .. })));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = UnixListener::bind(&path, 0o777, 0o755).unwrap();
    }

    #[tokio::test]
    async fn a_file_or_a_link_in_the_way_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(matches!(UnixListener::bind(path, 0o777, 0o755), Err(Error::NotASocket { .. })));
        }
        assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(MAX_PATH)));
        let error = UnixListener::bind(&path, 0o777, 0o755).unwrap_err();
        assert!(error.to_string().contains("at most 107 bytes"), "{error}");
    }

    #[tokio::test]
    async fn dropping_removes_the_own_socket_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path, 0o777, 0o755).unwrap();
        fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path, 0o777, 0o755).unwrap();
        drop(listener);
        assert!(path.exists(), "the successor's socket stays");
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_listener_for_peers_from_anywhere_pins_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut listener = UnixListener::bind(&path, 0o777, 0o755).unwrap().from_anywhere();
        let _client = UnixStream::connect(&path).await.unwrap();
        let peer = listener.accept().await.unwrap().connect_info();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.pidfd.is_none() && peer.start_time.is_none());
    }

    #[tokio::test]
    async fn accepting_tells_who_connected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut listener = UnixListener::bind(&path, 0o777, 0o755).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        let mut server = listener.accept().await.unwrap();
        assert_eq!(server.connect_info().pid, i32::try_from(std::process::id()).unwrap());
        assert!(server.connect_info().still_same());
        client.write_all(b"not http/2").await.unwrap();
        drop(client);
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"not http/2");
    }
}
