//! Client channels.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::net::{Network, Socket};

mod dial;

pub use dial::{Dial, Links, host};

/// How long connecting may take, a TLS handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without a word from the server on a TLS connection it is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel over the Unix socket at `path`, connected.
///
/// Its authority is `localhost`. After the connection is lost, the next call connects anew.
///
/// # Errors
///
/// [`Error::Connect`] when nobody listens there or the socket's mode keeps us out. A retry is sensible.
pub async fn uds_channel(path: &Path) -> Result<Channel, Error> {
    let connector = unix_connector(&Network::default(), path.to_owned());
    let connected = local_endpoint().connect_with_connector(connector).await;
    connected.map_err(|source| Error::Connect { target: path.display().to_string(), source })
}

/// Like [`uds_channel`], connecting at the first call.
#[must_use]
pub fn uds_channel_lazy(path: &Path) -> Channel {
    uds_channel_on(&Network::default(), path)
}

/// Like [`uds_channel_lazy`], on `network`.
#[must_use]
pub fn uds_channel_on(network: &Network, path: &Path) -> Channel {
    local_endpoint().connect_with_connector_lazy(unix_connector(network, path.to_owned()))
}

/// A channel to `server` (`host:port`) over TLS as `config` says, connecting at the first call.
///
/// The host is resolved for each connection, and is sent as SNI and authority; whether the server is the right one is
/// up to the configuration's verifier.
///
/// # Errors
///
/// [`Error::Address`] when `server` is not `host:port`.
pub fn tls_channel(server: &str, config: Arc<rustls::ClientConfig>) -> Result<Channel, Error> {
    tls_channel_on(&Network::default(), server, config)
}

/// Like [`tls_channel`], on `network`.
///
/// # Errors
///
/// As [`tls_channel`].
pub fn tls_channel_on(
    network: &Network,
    server: &str,
    config: Arc<rustls::ClientConfig>,
) -> Result<Channel, Error> {
    let wrong = || Error::Address { address: server.to_owned() };
    let (host, port) = server.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().map_err(|_| wrong())?;
    let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned());
    let name = name.map_err(|_| wrong())?;
    // The scheme is `http` because tonic would otherwise ask for TLS of its own around ours.
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|_| wrong())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let (network, server): (_, Arc<str>) = (network.clone(), server.into());
    let connector = TlsConnector::from(config);
    Ok(endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let (network, server) = (network.clone(), server.clone());
        let (name, connector) = (name.clone(), connector.clone());
        async move {
            let socket = connect_to_any(&network, network.resolve(&server).await?).await?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, socket).await?))
        }
    })))
}

/// Connects to the first of `addresses` that answers. Each gets a head start of [`HEAD_START`] before the next is tried
/// beside it (RFC 8305 §5): a host that is dead and says nothing must not keep us from the others.
pub(crate) async fn connect_to_any(network: &Network, addresses: Vec<SocketAddr>) -> io::Result<Socket> {
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        let network = network.clone();
        attempts.spawn(async move { network.connect(address).await });
        match tokio::time::timeout(HEAD_START, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(panicked))) => last = io::Error::other(panicked),
            Ok(None) | Err(_) => {}
        }
    }
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(panicked) => last = io::Error::other(panicked),
        }
    }
    Err(last)
}

/// How long an address is tried before the next one is tried too.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 16;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `host:port`.
    #[error("{address:?} is not an address of the form host:port")]
    Address {
        /// What was given.
        address: String,
    },
    /// The connection failed.
    #[error("cannot connect to {target}")]
    Connect {
        /// Where to.
        target: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

fn local_endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT)
}

fn unix_connector(
    network: &Network,
    path: PathBuf,
) -> impl tower_service::Service<
    http::Uri,
    Response = TokioIo<Socket>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<Socket>>> + Send,
> + Send
+ 'static {
    let network = network.clone();
    service_fn(move |_| {
        let (network, path) = (network.clone(), path.clone());
        async move { network.connect_unix(&path).await.map(TokioIo::new) }
    })
}

#[cfg(test)]
mod tests;
