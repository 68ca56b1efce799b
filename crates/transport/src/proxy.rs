//! The PROXY protocol: where a client really comes from, told by a load balancer in front of us.
//!
//! A header is read from the networks that an operator trusts, and used. Anybody else who sends one is cut off: it would
//! let a client choose the address that it is limited by. A connection from a trusted network without a header is one
//! of the balancer's own, or of somebody on its machine, and counts by its socket's address.
//!
//! Versions 1 and 2 (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). The first byte tells a header from TLS,
//! which begins with 0x16, so nothing is ever read that belongs to the handshake. A header is at most [`MAX_HEADER`] bytes
//! and has to arrive within the time of the handshake.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::net::Socket;

/// Addresses that begin alike (CIDR).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether `address` belongs to it. An IPv4 address in IPv6 form counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                prefix(u128::from(network.to_bits()) << 96, self.bits)
                    == prefix(u128::from(address.to_bits()) << 96, self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                prefix(network.to_bits(), self.bits) == prefix(address.to_bits(), self.bits)
            }
            _ => false,
        }
    }
}

fn prefix(address: u128, bits: u8) -> u128 {
    if bits == 0 { 0 } else { address >> (128 - u32::from(bits)) }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads `10.0.0.0/8` or `2001:db8::/32`.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let plain = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|digit| digit.is_ascii_digit());
        let bits = bits.parse().ok().filter(|bits| plain && *bits <= most).ok_or_else(wrong)?;
        Ok(Self { address, bits })
    }
}

/// A text that names no network.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct NetworkError(String);

/// Whose headers are believed.
#[derive(Clone, Debug, Default)]
pub struct Balancers {
    networks: Vec<Network>,
}

impl Balancers {
    /// Believes the headers of these networks.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> Self {
        Self { networks }
    }

    /// Whether the headers of `address` are believed.
    pub(crate) fn include(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The address that the client of `socket`, accepted from `peer`, is known by.
    ///
    /// # Errors
    ///
    /// [`ProxyError`]; the connection is of no use then.
    pub(crate) async fn client_of(
        &self,
        socket: &mut Socket,
        peer: SocketAddr,
    ) -> Result<SocketAddr, ProxyError> {
        let Socket::Tcp(tcp) = socket else { return Ok(peer) };
        let mut first = [0];
        if tcp.peek(&mut first).await.map_err(ProxyError::Io)? == 0 || !begins_header(first[0]) {
            return Ok(peer);
        }
        if !self.include(peer.ip()) {
            return Err(ProxyError::Untrusted);
        }
        Ok(read_header(tcp).await?.unwrap_or(peer))
    }
}

/// Longest header that is read.
pub const MAX_HEADER: usize = 2048;

/// Longest header of version 1, its line feed included.
const MAX_V1: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// No TLS record begins like this.
fn begins_header(first: u8) -> bool {
    first == b'P' || first == SIGNATURE[0]
}

/// Reads one header and not a byte more. `None`: it names no address.
///
/// # Errors
///
/// [`ProxyError`].
pub async fn read_header(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![from.read_u8().await.map_err(ProxyError::Io)?];
    if header[0] == b'P' {
        while !header.ends_with(b"\n") {
            if header.len() == MAX_V1 {
                return Err(ProxyError::Malformed);
            }
            header.push(from.read_u8().await.map_err(ProxyError::Io)?);
        }
        return version_1(&header);
    }
    header.resize(V2_FIXED, 0);
    from.read_exact(&mut header[1..]).await.map_err(ProxyError::Io)?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if header[..12] != SIGNATURE || V2_FIXED + rest > MAX_HEADER {
        return Err(ProxyError::Malformed);
    }
    header.resize(V2_FIXED + rest, 0);
    from.read_exact(&mut header[V2_FIXED..]).await.map_err(ProxyError::Io)?;
    version_2(&header)
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 40000 8081\r\n`
fn version_1(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let line = header.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(ProxyError::Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let address = |source: &str, destination: &str, source_port: &str, destination_port: &str, v4: bool| {
        let source: IpAddr = source.parse().ok()?;
        let destination: IpAddr = destination.parse().ok()?;
        port(destination_port)?;
        (source.is_ipv4() == v4 && destination.is_ipv4() == v4)
            .then_some(SocketAddr::new(source, port(source_port)?))
    };
    match *words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", source, destination, from, to] => {
            address(source, destination, from, to, true).map(Some).ok_or(ProxyError::Malformed)
        }
        ["PROXY", "TCP6", source, destination, from, to] => {
            address(source, destination, from, to, false).map(Some).ok_or(ProxyError::Malformed)
        }
        _ => Err(ProxyError::Malformed),
    }
}

fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// A complete header of version 2. What follows the addresses (TLVs) is not read.
fn version_2(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let body = &header[V2_FIXED..];
    match (header[12], header[13] >> 4) {
        (LOCAL, _) => Ok(None),
        (PROXY, 1) => {
            let [a, b, c, d, _, _, _, _, high, low, _, _, ..] = *body else {
                return Err(ProxyError::Malformed);
            };
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)))
        }
        (PROXY, 2) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(ProxyError::Malformed)?;
            let [high, low, _, _, ..] = *rest.get(16..).unwrap_or_default() else {
                return Err(ProxyError::Malformed);
            };
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new(Ipv6Addr::from(*source).into(), port)))
        }
        // Unspecified, or a Unix socket: there is no address to take.
        (PROXY, 0 | 3) => Ok(None),
        _ => Err(ProxyError::Malformed),
    }
}

/// Why a connection is cut off before its handshake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The connection ended, or its peer is gone.
    #[error("cannot read the PROXY header")]
    Io(#[source] io::Error),
    /// Neither version, or longer than [`MAX_HEADER`].
    #[error("the PROXY header is malformed")]
    Malformed,
    /// Somebody who is no balancer of ours.
    #[error("a PROXY header from an address that is not trusted; see proxy_protocol_trusted_cidrs")]
    Untrusted,
}

#[cfg(test)]
mod tests;
