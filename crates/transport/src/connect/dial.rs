//! A channel to one address of a server that may have several, with an account of whether it is connected.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use vouchsafe_runtime::clock::Clock;

use super::{Error, KEEPALIVE, KEEPALIVE_TIMEOUT};
use crate::net::{Network, Socket};

/// Where to connect, and how.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The network.
    pub network: Network,
    /// `host:port`: what is sent as SNI and authority.
    pub authority: String,
    /// The address of it.
    pub address: SocketAddr,
    /// Who the server must be.
    pub config: Arc<rustls::ClientConfig>,
    /// How long connecting may take, the TLS handshake included.
    pub timeout: Duration,
    /// Where connections are counted.
    pub links: Links,
}

impl Dial {
    /// A channel that connects at the first call, and again after a connection is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when the authority is not `host:port`.
    pub fn lazy(self) -> Result<Channel, Error> {
        let (endpoint, connector) = self.parts()?;
        Ok(endpoint.connect_with_connector_lazy(service_fn(move |_| connector.clone().connect())))
    }

    /// A channel that is connected.
    ///
    /// # Errors
    ///
    /// As [`Dial::lazy`]; [`Error::Connect`] when nobody answers there, or somebody else.
    pub async fn connected(self) -> Result<Channel, Error> {
        let (endpoint, connector) = self.parts()?;
        let target = connector.address.to_string();
        let connect = service_fn(move |_| connector.clone().connect());
        let connected = endpoint.connect_with_connector(connect).await;
        connected.map_err(|source| Error::Connect { target, source })
    }

    fn parts(self) -> Result<(Endpoint, Connector), Error> {
        let wrong = || Error::Address { address: self.authority.clone() };
        let host = host(&self.authority).ok_or_else(wrong)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
        // The scheme is `http` because tonic would otherwise ask for TLS of its own around ours.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.authority)).map_err(|_| wrong())?;
        let endpoint = endpoint
            .connect_timeout(self.timeout)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let (network, address, links) = (self.network, self.address, self.links);
        Ok((endpoint, Connector { network, address, name, tls: TlsConnector::from(self.config), links }))
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
#[must_use]
pub fn host(server: &str) -> Option<&str> {
    let (host, port) = server.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    Some(host.trim_start_matches('[').trim_end_matches(']')).filter(|host| !host.is_empty())
}

#[derive(Clone)]
struct Connector {
    network: Network,
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
    links: Links,
}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<Linked>> {
        let socket = self.network.connect(self.address).await?;
        let stream = self.tls.connect(self.name, socket).await?;
        Ok(TokioIo::new(Linked { stream, _link: self.links.open() }))
    }
}

/// Counts the open connections to one server. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Links {
    clock: Clock,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    since: Option<SystemTime>,
}

impl Links {
    /// None is open.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, open: Arc::default() }
    }

    /// Since when at least one is open.
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).since
    }

    fn open(&self) -> Link {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.count += 1;
        open.since.get_or_insert(self.clock.now());
        Link(self.clone())
    }
}

/// One open connection.
struct Link(Links);

impl Drop for Link {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.count = open.count.saturating_sub(1);
        if open.count == 0 {
            open.since = None;
        }
    }
}

/// A connection that counts as open for as long as it exists.
struct Linked {
    stream: TlsStream<Socket>,
    _link: Link,
}

impl AsyncRead for Linked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Linked {
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
