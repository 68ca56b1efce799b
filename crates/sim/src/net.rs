//! A network in memory, with delay, loss, partition and crash.
//!
//! Hosts have a name and an address each; a link joins each pair. A connection is two lanes of bytes: what is written
//! becomes readable after the link's delay, in order. A lost packet is what it is to TCP: its bytes, and all after them,
//! come later. While a link is cut nothing arrives, and nobody is told; what was sent arrives after it is healed. A process
//! that ends closes its connections, and whoever has one learns it when the link lets it.
//!
//! Whether a packet is lost depends on seed, link and time, and not on how many were sent before.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use vouchsafe_runtime::entropy::spread;
use vouchsafe_transport::net::{Answer, Arrival, Fabric, Network, Place, Stream};

/// A host, by its place in the list that [`Net::new`] got.
pub type Host = usize;

/// The whole network. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Net {
    seed: u64,
    began: Instant,
    state: Arc<Mutex<State>>,
    /// Changes when a link does, so that connection attempts look again.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    hosts: Vec<HostState>,
    links: HashMap<(Host, Host), Link>,
    names: BTreeMap<String, Vec<Host>>,
    bound: HashMap<(Host, Place), mpsc::Sender<Arrival>>,
    connections: Vec<Weak<Connection>>,
    attempts: u64,
}

#[derive(Debug)]
struct HostState {
    address: IpAddr,
    /// Raised when its process ends; what an earlier one still does has no effect.
    process: u64,
}

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// From one end to the other.
    pub delay: Duration,
    /// Part of the packets that are lost.
    pub loss: f64,
    /// Whether nothing arrives.
    pub cut: bool,
    /// Since when something arrives again.
    healed: Option<Instant>,
}

impl Net {
    /// A network of as many hosts as there are `names`, each pair of them joined with `delay`.
    #[must_use]
    pub fn new(seed: u64, names: &[String], delay: Duration) -> Self {
        let mut state = State::default();
        for (host, name) in names.iter().enumerate() {
            let last = u8::try_from(host + 1).unwrap_or(u8::MAX);
            state.hosts.push(HostState { address: Ipv4Addr::new(10, 0, 0, last).into(), process: 0 });
            state.names.insert(name.clone(), vec![host]);
            for other in 0..host {
                state.links.insert((other, host), Link { delay, loss: 0.0, cut: false, healed: None });
            }
        }
        let (state, changed) = (Arc::new(Mutex::new(state)), watch::Sender::new(()));
        Self { seed, began: Instant::now(), state, changed }
    }

    /// Gives `hosts` one more name, as DNS does with several addresses.
    pub fn alias(&self, name: &str, hosts: &[Host]) {
        self.lock().names.insert(name.to_owned(), hosts.to_vec());
    }

    /// The address of `host`.
    #[must_use]
    pub fn address(&self, host: Host) -> IpAddr {
        self.lock().hosts[host].address
    }

    /// The network as the process that runs on `host` now sees it. It ends with [`Net::kill`].
    #[must_use]
    pub fn process(&self, host: Host) -> Network {
        let process = Some(self.lock().hosts[host].process);
        Network::of(Arc::new(View { net: self.clone(), host, process }))
    }

    /// The network as others on `host` see it, who live as long as the simulation.
    #[must_use]
    pub fn bystander(&self, host: Host) -> Network {
        Network::of(Arc::new(View { net: self.clone(), host, process: None }))
    }

    /// Ends the process on `host`: its connections close, and it has no effect on the network from now on.
    pub fn kill(&self, host: Host) {
        let mut state = self.lock();
        state.hosts[host].process += 1;
        state.bound.retain(|(at, _), _| *at != host);
        for connection in state.connections.iter().filter_map(Weak::upgrade) {
            connection.kill(host);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Changes the link between two hosts.
    pub fn change(&self, one: Host, other: Host, change: impl FnOnce(&mut Link)) {
        let mut state = self.lock();
        let Some(link) = state.links.get_mut(&ordered(one, other)) else { return };
        let was_cut = link.cut;
        change(link);
        if was_cut && !link.cut {
            link.healed = Some(Instant::now());
        }
        for connection in state.connections.iter().filter_map(Weak::upgrade) {
            connection.wake();
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Breaks the connections between two hosts, as a firewall that forgets them does.
    pub fn reset(&self, one: Host, other: Host) {
        for connection in self.lock().connections.iter().filter_map(Weak::upgrade) {
            if connection.joins(one, other) {
                connection.break_off();
            }
        }
    }

    /// Whether somebody on `from` would reach the process on `to`.
    #[must_use]
    pub fn reachable(&self, from: Host, to: Host) -> bool {
        let state = self.lock();
        let listens = state.bound.iter().any(|((host, _), sender)| *host == to && !sender.is_closed());
        listens && !state.link(from, to).cut
    }

    /// Connections that were tried so far, between different hosts.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.lock().attempts
    }

    /// Connections that are open, and bytes that are under way.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        let open: Vec<_> = state.connections.iter().filter_map(Weak::upgrade).collect();
        let bytes = open.iter().map(|connection| connection.bytes()).sum();
        (open.len(), bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, one: Host, other: Host) -> Link {
        self.lock().link(one, other)
    }

    /// How much later than its delay a packet arrives that is sent now.
    fn retransmission(&self, ends: (Host, Host), loss: f64) -> Duration {
        if loss == 0.0 {
            return Duration::ZERO;
        }
        let at = self.began.elapsed().as_millis();
        let mut late = Duration::ZERO;
        for attempt in 0..MAX_RETRANSMISSIONS {
            let key = format!("{}/{}-{}/{at}/{attempt}", self.seed, ends.0, ends.1);
            if spread(key.as_bytes()) >= loss {
                break;
            }
            late += RETRANSMIT * 2_u32.pow(attempt);
        }
        late
    }
}

impl State {
    fn link(&self, one: Host, other: Host) -> Link {
        let near = Link { delay: Duration::ZERO, loss: 0.0, cut: false, healed: None };
        self.links.get(&ordered(one, other)).copied().unwrap_or(near)
    }
}

fn ordered(one: Host, other: Host) -> (Host, Host) {
    (one.min(other), one.max(other))
}

/// The network as one process sees it.
#[derive(Clone, Debug)]
struct View {
    net: Net,
    host: Host,
    /// `None` for those who never end.
    process: Option<u64>,
}

impl View {
    fn is_alive(&self) -> bool {
        self.process.is_none_or(|process| self.net.lock().hosts[self.host].process == process)
    }

    async fn establish(&self, to: Place) -> io::Result<Box<dyn Stream>> {
        let mut changed = self.net.changed.subscribe();
        let other = match &to {
            Place::Path(_) => self.host,
            Place::Address(address) => {
                let state = self.net.lock();
                let found = state.hosts.iter().position(|host| host.address == address.ip());
                found.ok_or(io::ErrorKind::HostUnreachable)?
            }
        };
        if other != self.host {
            self.net.lock().attempts += 1;
        }
        loop {
            while !self.is_alive() || self.net.link(self.host, other).cut {
                // The sender lives in `self`.
                drop(changed.changed().await);
            }
            let link = self.net.link(self.host, other);
            if !link.delay.is_zero() {
                let late = self.net.retransmission((self.host, other), link.loss);
                sleep(link.delay * 2 + late).await;
            }
            if self.is_alive() && !self.net.link(self.host, other).cut {
                return self.meet(other, to);
            }
        }
    }

    fn meet(&self, other: Host, to: Place) -> io::Result<Box<dyn Stream>> {
        let mut state = self.net.lock();
        let from = SocketAddr::new(state.hosts[self.host].address, CLIENT_PORT);
        let Some(listener) = state.bound.get(&(other, to)).cloned() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let listens = state.hosts[other].process;
        let ends = [(self.host, self.process), (other, Some(listens))];
        let connection = Arc::new(Connection { net: self.net.clone(), ends, lanes: Mutex::default() });
        let end = |side| End { connection: connection.clone(), side, sleep: None };
        let arrival = Arrival { stream: Box::new(end(1)), from };
        if state.connections.len() > 64 {
            state.connections.retain(|connection| connection.strong_count() > 0);
        }
        state.connections.push(Arc::downgrade(&connection));
        drop(state);
        listener.try_send(arrival).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(end(0)))
    }
}

impl Fabric for View {
    fn resolve<'a>(&'a self, server: &'a str) -> Answer<'a, Vec<SocketAddr>> {
        Box::pin(async move {
            if let Ok(address) = server.parse() {
                return Ok(vec![address]);
            }
            let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name is not known");
            let (name, port) = server.rsplit_once(':').ok_or_else(unknown)?;
            let port = port.parse().map_err(|_| unknown())?;
            let state = self.net.lock();
            if let Ok(address) = name.parse::<IpAddr>() {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            let hosts = state.names.get(name).ok_or_else(unknown)?;
            Ok(hosts.iter().map(|host| SocketAddr::new(state.hosts[*host].address, port)).collect())
        })
    }

    fn connect(&self, to: Place) -> Answer<'_, Box<dyn Stream>> {
        Box::pin(self.establish(to))
    }

    fn bind(&self, at: Place) -> io::Result<mpsc::Receiver<Arrival>> {
        if !self.is_alive() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let (sender, arrivals) = mpsc::channel(BACKLOG);
        let mut state = self.net.lock();
        let held = state.bound.entry((self.host, at)).or_insert_with(|| sender.clone());
        if !held.same_channel(&sender) {
            if !held.is_closed() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            *held = sender;
        }
        Ok(arrivals)
    }
}

/// Two ends and a lane from each to the other.
#[derive(Debug)]
struct Connection {
    net: Net,
    ends: [(Host, Option<u64>); 2],
    lanes: Mutex<[Lane; 2]>,
}

/// What one end has sent.
#[derive(Debug, Default)]
struct Lane {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The sender has closed it, which arrives then.
    closed: Option<Instant>,
    /// The sender's process has ended.
    dead: bool,
    /// A firewall broke it.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

impl Connection {
    fn lanes(&self) -> MutexGuard<'_, [Lane; 2]> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn joins(&self, one: Host, other: Host) -> bool {
        one != other && ordered(self.ends[0].0, self.ends[1].0) == ordered(one, other)
    }

    fn wake(&self) {
        self.lanes().iter_mut().for_each(Lane::wake);
    }

    fn break_off(&self) {
        for lane in self.lanes().iter_mut() {
            lane.broken = true;
            lane.wake();
        }
    }

    fn kill(&self, host: Host) {
        let mut lanes = self.lanes();
        for side in [0, 1] {
            let (at, process) = self.ends[side];
            if at == host && process.is_some() {
                lanes[side].dead = true;
            }
        }
        lanes.iter_mut().for_each(Lane::wake);
    }

    fn bytes(&self) -> usize {
        self.lanes().iter().map(|lane| lane.bytes).sum()
    }

    /// When something that is sent on `link` now arrives, after what is under way.
    fn arrival(&self, link: Link, lane: &Lane) -> Instant {
        let late = self.net.retransmission((self.ends[0].0, self.ends[1].0), link.loss);
        let at = Instant::now() + link.delay + late;
        lane.under_way.back().map_or(at, |(last, _)| at.max(*last))
    }
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    connection: Arc<Connection>,
    side: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl End {
    fn link(&self) -> Link {
        let [(one, _), (other, _)] = self.connection.ends;
        self.connection.net.link(one, other)
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let link = this.link();
        let healed = link.healed.map(|healed| healed + link.delay);
        let due = |at: Instant| healed.map_or(at, |healed| at.max(healed));
        let mut lanes = this.connection.lanes();
        let own_end_is_dead = lanes[this.side].dead;
        let lane = &mut lanes[1 - this.side];
        if own_end_is_dead || lane.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        lane.reader = Some(cx.waker().clone());
        if link.cut {
            return Poll::Pending;
        }
        let next = lane.under_way.front().map(|(at, _)| *at).or(lane.closed).map(due);
        match next {
            None if lane.dead => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => return Poll::Pending,
            Some(at) if at <= Instant::now() => {}
            Some(at) => {
                drop(lanes);
                let sleep = this.sleep.insert(Box::pin(sleep_until(at)));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let now = Instant::now();
        while let Some((at, bytes)) = lane.under_way.front_mut()
            && due(*at) <= now
            && buf.remaining() > 0
        {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..count]);
            bytes.advance(count);
            lane.bytes -= count;
            if bytes.is_empty() {
                lane.under_way.pop_front();
            }
        }
        if let Some(writer) = lane.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let link = self.link();
        let mut lanes = self.connection.lanes();
        let (gone, broken) = (lanes[1 - self.side].dead && !link.cut, lanes[self.side].broken);
        let closed = lanes[1 - self.side].closed.is_some() && !link.cut;
        let lane = &mut lanes[self.side];
        if lane.dead || broken || gone || closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if lane.bytes >= WINDOW {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.len().min(WINDOW);
        let at = self.connection.arrival(link, lane);
        lane.under_way.push_back((at, Bytes::copy_from_slice(&buf[..count])));
        lane.bytes += count;
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = self.link();
        let mut lanes = self.connection.lanes();
        let lane = &mut lanes[self.side];
        if lane.closed.is_none() {
            lane.closed = Some(self.connection.arrival(link, lane));
        }
        lane.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let link = self.link();
        let mut lanes = self.connection.lanes();
        let lane = &mut lanes[self.side];
        if lane.closed.is_none() {
            lane.closed = Some(self.connection.arrival(link, lane));
        }
        lanes.iter_mut().for_each(Lane::wake);
    }
}

/// Bytes that one end may have under way.
const WINDOW: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;
/// All clients come from here: nobody looks at their port.
const CLIENT_PORT: u16 = 40_000;
/// After how long TCP sends a lost packet again; twice as long each time.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// A packet that was lost so often arrives.
const MAX_RETRANSMISSIONS: u32 = 6;

#[cfg(test)]
mod tests;
