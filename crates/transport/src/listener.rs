//! What a listener and a connection are to [`crate::grpc::serve`].

use std::future::Future;
use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::server::Connected;

/// Hands out connections.
pub trait Listener: Send {
    /// The connections.
    type Io: Connection;

    /// The next connection. A peer's mistake (a failed handshake) is dealt with inside and is not an error.
    ///
    /// # Errors
    ///
    /// The operating system refused to accept, for example because the process is out of file descriptors. It makes
    /// sense to wait a little and ask again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection is never lost.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// A connection that knows who is at its other end.
pub trait Connection: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static {
    /// What connections are counted by, so that one peer cannot take them all.
    fn peer_key(&self) -> PeerKey;
}

/// What connections are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKey {
    /// A process on this machine.
    Process(i32),
    /// An address on the network.
    Address(IpAddr),
}
