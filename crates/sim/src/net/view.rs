//! What a process sees of the network: names, listening, connecting.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;
use vouchsafe_transport::net::{Answer, Arrival, Fabric, Place, Stream};

use super::connection::{Connection, End};
use super::{Host, Net};

/// The network as one process sees it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) net: Net,
    pub(super) host: Host,
    /// `None` for those who never end.
    pub(super) process: Option<u64>,
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
        let connection = Arc::new(Connection::new(self.net.clone(), ends));
        let end = |side| End::new(connection.clone(), side);
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

/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;
/// All clients come from here: nobody looks at their port.
const CLIENT_PORT: u16 = 40_000;
