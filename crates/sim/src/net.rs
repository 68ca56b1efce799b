//! A network in memory, with delay, loss, partition and crash.
//!
//! Hosts have a name and an address each; a link joins each pair. A connection is two lanes of bytes: what is written
//! becomes readable after the link's delay, in order. A lost packet is what it is to TCP: its bytes, and all after them,
//! come later. While a link is cut nothing arrives, and nobody is told; what was sent arrives after it is healed. A process
//! that ends closes its connections, and whoever has one learns it when the link lets it.
//!
//! Whether a packet is lost depends on seed, link and time, and not on how many were sent before.

mod connection;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use vouchsafe_runtime::entropy::spread;
use vouchsafe_transport::net::{Arrival, Network, Place};

use connection::Connection;
use view::View;

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
    sent: (u64, u64),
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

    /// Packets that were sent so far by anybody, and a hash of who sent what when.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        self.lock().sent
    }

    fn count(&self, from: Host, arrives: Instant, bytes: &[u8]) {
        let at = arrives.duration_since(self.began).as_nanos();
        let mut state = self.lock();
        let (packets, mut hash) = state.sent;
        for word in [from as u64, at as u64, bytes.len() as u64] {
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        state.sent = (packets + 1, hash);
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

/// After how long TCP sends a lost packet again; twice as long each time.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// A packet that was lost so often arrives.
const MAX_RETRANSMISSIONS: u32 = 6;

#[cfg(test)]
mod tests;
