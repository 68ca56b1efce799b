//! What a listener and a connection are to [`crate::grpc::serve`].

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
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
    /// A process on this machine, and its user.
    Process(i32, u32),
    /// A user of this machine: all of its processes, because a process makes others at will.
    User(u32),
    /// An address on the network. One IPv6 customer has 2⁶⁴ of them and counts as one ([`PeerKey::address`]).
    Address(IpAddr),
    /// Somebody who proved a SPIFFE ID, by a number that stands for it: a fleet behind one address is not one peer.
    Identity(u64),
}

impl PeerKey {
    /// By the address of a peer: of IPv6, the network part.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        })
    }

    /// The user that a process belongs to.
    #[must_use]
    pub fn user(self) -> Option<Self> {
        match self {
            Self::Process(_, user) => Some(Self::User(user)),
            Self::User(_) | Self::Address(_) | Self::Identity(_) => None,
        }
    }
}

/// Plain TCP, for pages that anybody may read.
impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Connection for TcpStream {
    fn peer_key(&self) -> PeerKey {
        // Without an address the peer is gone already.
        PeerKey::address(self.peer_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one_and_those_of_ipv4_do_not() {
        let key = |text: &str| PeerKey::address(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:3:4:5:6"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("::ffff:10.0.0.1"), key("::ffff:10.0.0.2"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }
}
