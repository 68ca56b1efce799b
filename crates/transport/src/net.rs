//! Which network a process is on: the operating system's, or a simulated one.
//!
//! A [`Network`] is given to whatever binds or connects. The default one is made of real sockets, and costs one
//! comparison for each call to a socket. Another one is a [`Fabric`]: it hands out streams in memory, and may delay, break
//! and refuse them as it likes. A simulation cannot do without: with a real socket under tokio's paused clock every timeout
//! fires at once.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;

/// Where connections are made and accepted. Cheap to clone; the default is the operating system's.
#[derive(Clone, Default)]
pub struct Network {
    fabric: Option<Arc<dyn Fabric>>,
}

impl Network {
    /// A network that is not the operating system's.
    #[must_use]
    pub fn of(fabric: Arc<dyn Fabric>) -> Self {
        Self { fabric: Some(fabric) }
    }

    /// The addresses of `server` (`host:port`).
    ///
    /// # Errors
    ///
    /// The name is not known, or nobody answers who would know.
    pub async fn resolve(&self, server: &str) -> io::Result<Vec<SocketAddr>> {
        match &self.fabric {
            None => Ok(tokio::net::lookup_host(server).await?.collect()),
            Some(fabric) => fabric.resolve(server).await,
        }
    }

    /// A connection to `address`. On TCP, small messages are sent at once.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or nobody answers.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        match &self.fabric {
            None => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(Socket::Tcp(tcp))
            }
            Some(fabric) => fabric.connect(Place::Address(address)).await.map(Socket::Simulated),
        }
    }

    /// A connection to the Unix socket at `path`.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or its mode keeps us out.
    pub async fn connect_unix(&self, path: &Path) -> io::Result<Socket> {
        match &self.fabric {
            None => UnixStream::connect(path).await.map(Socket::Unix),
            Some(fabric) => fabric.connect(Place::Path(path.to_owned())).await.map(Socket::Simulated),
        }
    }

    /// Listens on `address`; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// The address is in use, or not this machine's.
    pub async fn bind(&self, address: SocketAddr) -> io::Result<Port> {
        match &self.fabric {
            None => TcpListener::bind(address).await.map(Port::Tcp),
            Some(fabric) => Ok(Port::Simulated(address, fabric.bind(Place::Address(address))?)),
        }
    }

    /// The simulated network, if it is one.
    pub(crate) fn simulated(&self) -> Option<&dyn Fabric> {
        self.fabric.as_deref()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fabric.is_some() { "Network(simulated)" } else { "Network" })
    }
}

/// Where somebody listens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// A port.
    Address(SocketAddr),
    /// A Unix socket.
    Path(PathBuf),
}

/// A network in memory, as one process sees it.
pub trait Fabric: Send + Sync + 'static {
    /// See [`Network::resolve`].
    fn resolve<'a>(&'a self, server: &'a str) -> Answer<'a, Vec<SocketAddr>>;

    /// See [`Network::connect`].
    fn connect(&self, to: Place) -> Answer<'_, Box<dyn Stream>>;

    /// Listens at a place that nobody else listens at. What is sent here has connected; dropping the receiver closes the
    /// place.
    ///
    /// # Errors
    ///
    /// The place is in use.
    fn bind(&self, at: Place) -> io::Result<mpsc::Receiver<Arrival>>;
}

/// What a [`Fabric`] answers in its own time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A simulated connection that was made to a place where somebody listens.
#[derive(Debug)]
pub struct Arrival {
    /// This end of it.
    pub stream: Box<dyn Stream>,
    /// Where it is from. Nobody looks at it for a Unix socket: there, all callers are this process.
    pub from: SocketAddr,
}

/// Any simulated stream.
pub trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for S {}

/// A port that is listened on.
#[derive(Debug)]
pub enum Port {
    /// Of the operating system.
    Tcp(TcpListener),
    /// Of a simulation.
    Simulated(SocketAddr, mpsc::Receiver<Arrival>),
}

impl Port {
    /// The next connection, and where it is from.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(tcp) => tcp.accept().await.map(|(tcp, from)| (Socket::Tcp(tcp), from)),
            Self::Simulated(_, arrivals) => {
                let arrival = next_arrival(arrivals).await;
                Ok((Socket::Simulated(arrival.stream), arrival.from))
            }
        }
    }

    /// Where clients connect.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr(),
            Self::Simulated(address, _) => Ok(*address),
        }
    }
}

/// The next connection; never, once the simulation has ended.
pub(crate) async fn next_arrival(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
    match arrivals.recv().await {
        Some(arrival) => arrival,
        None => std::future::pending().await,
    }
}

/// A connection, before anything is said on it.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// In a simulation.
    Simulated(Box<dyn Stream>),
}

impl Socket {
    /// Small messages are sent at once from now on.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nodelay(true),
            Self::Unix(_) | Self::Simulated(_) => Ok(()),
        }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut dyn Stream> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp),
            Self::Unix(unix) => Pin::new(unix),
            Self::Simulated(stream) => Pin::new(&mut **stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Unix(unix) => unix.is_write_vectored(),
            Self::Simulated(stream) => stream.is_write_vectored(),
        }
    }
}
