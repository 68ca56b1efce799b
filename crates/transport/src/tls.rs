//! Accepting TLS over TCP.
//!
//! A handshake costs its client nothing and us a signature, so: each runs in a task of its own, ends after
//! [`Limits::handshake_timeout`], and at most [`Limits::handshakes`] are unfinished at a time. At that bound no
//! connection is taken from the kernel until one ends. One address may hold half of them, so that a single peer that
//! opens connections and says nothing cannot keep the others out; beyond its half its connections are closed at once.
//! Behind a load balancer that is the client's address; until it is told, the connection counts in total only.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use vouchsafe_runtime::entropy::spread;
use vouchsafe_types::x509_svid::{X509Svid, X509SvidError};

use crate::listener::{Connection, Listener, PeerKey};
use crate::net::{Network, Port, Socket};
use crate::proxy::{Balancers, ProxyError};

/// Bounds on unfinished handshakes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many at a time.
    pub handshakes: usize,
    /// How long one may take.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 1024, handshake_timeout: Duration::from_secs(10) }
    }
}

/// A bound TCP port that speaks TLS.
pub struct TlsListener {
    port: Port,
    acceptor: TlsAcceptor,
    limits: Limits,
    balancers: Arc<Balancers>,
    foreign_certificates: bool,
    handshakes: JoinSet<(Option<PeerKey>, Result<Step, HandshakeError>)>,
    unfinished: HashMap<PeerKey, usize>,
}

/// How far a connection has come.
enum Step {
    /// It is known by this address, and has until then for its handshake.
    Known(Socket, SocketAddr, Instant),
    /// Its handshake is done.
    Done(Box<TlsConnection>),
}

impl TlsListener {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// [`BindError`] with the address.
    pub async fn bind(
        address: SocketAddr,
        config: Arc<rustls::ServerConfig>,
        limits: Limits,
    ) -> Result<Self, BindError> {
        Self::bind_on(&Network::default(), address, config, limits).await
    }

    /// Like [`TlsListener::bind`], on `network`.
    ///
    /// # Errors
    ///
    /// [`BindError`] with the address.
    pub async fn bind_on(
        network: &Network,
        address: SocketAddr,
        config: Arc<rustls::ServerConfig>,
        limits: Limits,
    ) -> Result<Self, BindError> {
        let port = network.bind(address).await.map_err(|source| BindError { address, source })?;
        Ok(Self::on(port, config, limits))
    }

    /// Takes a socket that is already bound.
    #[must_use]
    pub fn new(tcp: TcpListener, config: Arc<rustls::ServerConfig>, limits: Limits) -> Self {
        Self::on(Port::Tcp(tcp), config, limits)
    }

    fn on(port: Port, config: Arc<rustls::ServerConfig>, limits: Limits) -> Self {
        let acceptor = TlsAcceptor::from(config);
        let balancers = Arc::new(Balancers::default());
        Self {
            port,
            acceptor,
            limits,
            balancers,
            foreign_certificates: false,
            handshakes: JoinSet::new(),
            unfinished: HashMap::new(),
        }
    }

    /// Believes the PROXY headers of `balancers`. Without this, nobody may send one.
    #[must_use]
    pub fn with_balancers(self, balancers: Balancers) -> Self {
        Self { balancers: Arc::new(balancers), ..self }
    }

    /// Serves clients whose certificate is no SVID too, if the configuration's verifier accepts it. Such a client has no
    /// [`TlsPeer::svid`].
    #[must_use]
    pub fn with_foreign_certificates(self) -> Self {
        Self { foreign_certificates: true, ..self }
    }

    /// Where clients connect.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }

    /// Finds out whom a new connection is from.
    fn begin(&mut self, mut socket: Socket, address: SocketAddr) {
        let counted = if self.balancers.include(address.ip()) {
            None
        } else {
            let Some(peer) = self.take_place(address) else { return };
            Some(peer)
        };
        let (balancers, deadline) = (self.balancers.clone(), Instant::now() + self.limits.handshake_timeout);
        self.start(counted, address, deadline, async move {
            let client = balancers.client_of(&mut socket, address).await;
            let client = client.map_err(|source| HandshakeError::Proxy { address, source })?;
            Ok(Step::Known(socket, client, deadline))
        });
    }

    /// Counts one more unfinished handshake of `address`, unless it has its share.
    fn take_place(&mut self, address: SocketAddr) -> Option<PeerKey> {
        let peer = PeerKey::address(address.ip());
        let unfinished = self.unfinished.entry(peer).or_insert(0);
        if *unfinished >= self.limits.handshakes.div_ceil(2) {
            tracing::debug!(%address, "connection dropped: too many unfinished handshakes from this address");
            return None;
        }
        *unfinished += 1;
        Some(peer)
    }

    fn start(
        &mut self,
        counted: Option<PeerKey>,
        address: SocketAddr,
        deadline: Instant,
        step: impl Future<Output = Result<Step, HandshakeError>> + Send + 'static,
    ) {
        let timeout = self.limits.handshake_timeout;
        self.handshakes.spawn(async move {
            let outcome = tokio::time::timeout_at(deadline, step).await;
            (counted, outcome.unwrap_or(Err(HandshakeError::TimedOut { address, timeout })))
        });
    }

    fn ended(&mut self, from: PeerKey) {
        if let Some(unfinished) = self.unfinished.get_mut(&from) {
            *unfinished -= 1;
            if *unfinished == 0 {
                self.unfinished.remove(&from);
            }
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsConnection;

    async fn accept(&mut self) -> io::Result<TlsConnection> {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok((from, outcome)) => {
                        if let Some(peer) = from {
                            self.ended(peer);
                        }
                        match outcome {
                            Ok(Step::Known(socket, client, deadline)) => {
                                let Some(peer) = self.take_place(client) else { continue };
                                let handshake = shake_hands(self.acceptor.clone(), socket, client, self.foreign_certificates);
                                self.start(Some(peer), client, deadline, handshake);
                            }
                            Ok(Step::Done(connection)) => return Ok(*connection),
                            Err(error) => {
                                tracing::debug!(error = &error as &dyn std::error::Error, "handshake failed");
                            }
                        }
                    }
                    Err(error) => tracing::error!(%error, "handshake panicked"),
                },
                accepted = self.port.accept(), if self.handshakes.len() < self.limits.handshakes => {
                    let (socket, address) = accepted?;
                    self.begin(socket, address);
                }
            }
        }
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    socket: Socket,
    address: SocketAddr,
    foreign_certificates: bool,
) -> Result<Step, HandshakeError> {
    let failed = |source| HandshakeError::Failed { address, source };
    // tonic sets this on its own listener only; without it small replies wait for delayed acknowledgements.
    socket.set_nodelay().map_err(failed)?;
    let stream = acceptor.accept(socket).await.map_err(failed)?;
    let svid = presented(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let svid = match svid {
        Err(_) if foreign_certificates => None,
        svid => svid.map_err(|source| HandshakeError::NotAnSvid { address, source })?,
    };
    Ok(Step::Done(Box::new(TlsConnection { peer: TlsPeer { address, svid }, stream })))
}

fn presented(chain: &[CertificateDer<'_>]) -> Result<Option<Arc<X509Svid>>, X509SvidError> {
    if chain.is_empty() {
        return Ok(None);
    }
    let chain = chain.iter().map(|der| Arc::from(der.as_ref())).collect();
    X509Svid::parse(chain).map(|svid| Some(Arc::new(svid)))
}

/// Who is at the other end of a TLS connection; a request extension on such connections.
#[derive(Clone, Debug)]
pub struct TlsPeer {
    /// Where it connected from; behind a load balancer that is believed, where the balancer says.
    pub address: SocketAddr,
    /// The X.509-SVID that it presented and the configuration's verifier accepted; `None` for an anonymous client.
    pub svid: Option<Arc<X509Svid>>,
}

/// A connection whose handshake is done. Its `ConnectInfo` is the [`TlsPeer`].
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<Socket>,
    peer: TlsPeer,
}

impl Connected for TlsConnection {
    type ConnectInfo = TlsPeer;

    fn connect_info(&self) -> TlsPeer {
        self.peer.clone()
    }
}

impl Connection for TlsConnection {
    fn peer_key(&self) -> PeerKey {
        match &self.peer.svid {
            Some(svid) => PeerKey::Identity(spread(svid.id.as_str().as_bytes()).to_bits()),
            None => PeerKey::address(self.peer.address.ip()),
        }
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
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

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("TLS handshake with {address} failed")]
    Failed { address: SocketAddr, source: io::Error },
    #[error("a connection from {address} was cut off")]
    Proxy { address: SocketAddr, source: ProxyError },
    #[error("the client at {address} has no X.509-SVID")]
    NotAnSvid { address: SocketAddr, source: X509SvidError },
    #[error("TLS handshake with {address} did not end in {timeout:?}")]
    TimedOut { address: SocketAddr, timeout: Duration },
}

#[cfg(test)]
pub(crate) mod tests;
