//! What stands before PostgreSQL or before a server, and fails on command.
//!
//! Faults can be set at any time and hold for connections that are open as well as for new ones. What comes from the
//! client is looked at as PostgreSQL's messages, so that an exchange of several messages (parse, bind, execute, sync)
//! is *one* call, which is held back once; a link that is not PostgreSQL's is delayed by the chunk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::error::{Doing, Error};
use framing::Framer;

mod framing;

/// A running proxy. Its connections end with it.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    faults: watch::Sender<Faults>,
    calls: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

/// What is wrong with the link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Faults {
    pub(crate) link: Link,
    /// Each call waits so long before it goes on.
    pub(crate) per_call: Duration,
    /// Each chunk of bytes waits so long, in both directions.
    pub(crate) per_chunk: Duration,
    /// Who is behind it. When that changes, connections are cut.
    upstream: SocketAddr,
}

/// Whether bytes pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Link {
    Up,
    /// Connections are accepted and stay open, and nothing passes: a network that loses everything.
    Silent,
    /// Connections are cut, and new ones refused: a machine that is up without the service.
    Refused,
}

/// What passes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    Postgres,
    Bytes,
}

impl Proxy {
    /// Listens at `address`, whose port may be 0, before `upstream`.
    pub(crate) async fn start(
        address: SocketAddr,
        upstream: SocketAddr,
        protocol: Protocol,
    ) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.doing(format!("listen at {address}"))?;
        let address = listener.local_addr().doing("listen")?;
        let none = Duration::ZERO;
        let (faults, seen) =
            watch::channel(Faults { link: Link::Up, per_call: none, per_chunk: none, upstream });
        let calls = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, address, seen, Passing { protocol, calls: calls.clone() }));
        Ok(Self { port: address.port(), faults, calls, _tasks: tasks })
    }

    /// A proxy before a PostgreSQL of this machine.
    pub(crate) async fn before_postgres(port: u16) -> Result<Self, Error> {
        Self::start(loopback(0), loopback(port), Protocol::Postgres).await
    }

    pub(crate) fn set_link(&self, link: Link) {
        self.faults.send_modify(|faults| faults.link = link);
    }

    pub(crate) fn set_per_call(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.per_call = delay);
    }

    pub(crate) fn set_per_chunk(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.per_chunk = delay);
    }

    /// Leads to another one from now on.
    pub(crate) fn lead_to(&self, port: u16) {
        self.faults.send_modify(|faults| faults.upstream.set_port(port));
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// `127.0.0.1` and a port.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[derive(Clone)]
struct Passing {
    protocol: Protocol,
    calls: Arc<AtomicU64>,
}

/// Accepts connections while the link is not refused. There is no bound on them: whoever connects is ours.
async fn accept(
    first: TcpListener,
    address: SocketAddr,
    mut faults: watch::Receiver<Faults>,
    passing: Passing,
) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let now = *faults.borrow_and_update();
        if now.link == Link::Refused {
            listener = None;
            connections.shutdown().await;
            if faults.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            // The port is free: we had it. If somebody was faster, clients see what they saw before.
            listener = TcpListener::bind(address).await.ok();
        }
        let Some(accepting) = &listener else {
            sleep(REBIND).await;
            continue;
        };
        tokio::select! {
            accepted = accepting.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(connection(client, now.upstream, faults.clone(), passing.clone()));
            },
            changed = faults.changed() => {
                if changed.is_err() {
                    return;
                }
                if faults.borrow().upstream != now.upstream {
                    connections.shutdown().await;
                }
            }
            // Only reaps.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    client: TcpStream,
    upstream: SocketAddr,
    mut faults: watch::Receiver<Faults>,
    passing: Passing,
) {
    if until_up(&mut faults).await.is_none() {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    for stream in [&client, &server] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let framer = (passing.protocol == Protocol::Postgres).then(Framer::default);
    let requests = Pump { faults: faults.clone(), framer, calls: passing.calls.clone() };
    let answers = Pump { faults, framer: None, calls: passing.calls };
    // When one direction ends, so does the connection.
    tokio::select! {
        _ = requests.run(from_client, to_server) => {}
        _ = answers.run(from_server, to_client) => {}
    }
}

/// One direction of a connection.
struct Pump {
    faults: watch::Receiver<Faults>,
    framer: Option<Framer>,
    calls: Arc<AtomicU64>,
}

impl Pump {
    /// Until an end closes; `None` says so.
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Option<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from.read(&mut chunk).await.ok().filter(|&read| read > 0)?;
            let pieces = match &mut self.framer {
                Some(framer) => framer.split(&chunk[..read]),
                None => vec![framing::Piece { bytes: chunk[..read].to_vec(), ends_call: false }],
            };
            for piece in pieces {
                let faults = *self.faults.borrow();
                if piece.ends_call {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                    sleep_for(faults.per_call).await;
                }
                sleep_for(faults.per_chunk).await;
                until_up(&mut self.faults).await?;
                to.write_all(&piece.bytes).await.ok()?;
            }
        }
    }
}

async fn sleep_for(delay: Duration) {
    if delay > Duration::ZERO {
        sleep(delay).await;
    }
}

/// Waits while the link is silent; `None` when the proxy is gone.
async fn until_up(faults: &mut watch::Receiver<Faults>) -> Option<()> {
    faults.wait_for(|faults| faults.link != Link::Silent).await.ok().map(|_| ())
}

const CHUNK: usize = 16 * 1024;
const REBIND: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
