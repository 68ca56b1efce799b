//! Three servers, each behind a proxy.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;

/// The servers, and the proxies before them, at the same places.
pub(super) struct Fleet {
    pub(super) servers: Vec<Server>,
    pub(super) proxies: Vec<Proxy>,
    /// The proxies': `127.0.1.<n>`, all with the same port.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Fleet {
    pub(super) async fn start(scene: &Scene<'_>, settings: &ServerSettings) -> Result<Self, Error> {
        let mut fleet = Self { servers: Vec::new(), proxies: Vec::new(), addresses: Vec::new() };
        let port = free_port()?;
        for number in 0..SERVERS {
            let server =
                Server::start(&scene.place, scene.side, &format!("server{number}"), settings).await?;
            let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
            let address = SocketAddr::from(([127, 0, 1, last], port));
            fleet.proxies.push(Proxy::start(address, loopback(server.port), Protocol::Bytes).await?);
            fleet.addresses.push(address);
            fleet.servers.push(server);
        }
        // Each server has its own authority, and the agent begins with the bundle of the first.
        sleep(BUNDLE_SPREADS).await;
        Ok(fleet)
    }

    /// An agent that knows all of them: ours by a list, SPIRE's by a name with three addresses.
    pub(super) async fn agent(&self, scene: &Scene<'_>) -> Result<Agent, Error> {
        let bundle = scene.place.path().join("bundle.pem");
        std::fs::write(&bundle, self.servers[0].bundle().await?).doing("write the bundle")?;
        let mut settings = AgentSettings {
            servers: self.addresses.iter().map(SocketAddr::to_string).collect(),
            lines: String::new(),
            under: Vec::new(),
        };
        if scene.side.who == Who::Spire && geteuid().is_root() {
            let hosts = scene.place.path().join("hosts");
            let line = |address: &SocketAddr| format!("{} {NAME}\n", address.ip());
            let lines: String = self.addresses.iter().map(line).collect();
            std::fs::write(&hosts, format!("127.0.0.1 localhost\n{lines}")).doing("write a hosts file")?;
            settings.servers = vec![format!("{NAME}:{}", self.addresses[0].port())];
            // Only this process sees it.
            let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
            settings.under =
                ["/usr/bin/unshare", "-m", "/bin/sh", "-c", &mount, "sh"].map(str::to_owned).to_vec();
        }
        Agent::start(&scene.place, scene.side, ("node", &self.servers[0]), &bundle, &settings).await
    }

    pub(super) fn kill(&mut self, number: usize) {
        self.servers[number].process.kill();
        self.proxies[number].set_link(Link::Refused);
    }

    pub(super) fn kill_all(&mut self) {
        (0..SERVERS).for_each(|number| self.kill(number));
    }

    pub(super) async fn start_all(&mut self) -> Result<(), Error> {
        for server in &mut self.servers {
            server.start_again()?;
        }
        for (server, proxy) in self.servers.iter_mut().zip(&self.proxies) {
            server.until_ready(READY).await?;
            proxy.set_per_chunk(Duration::ZERO);
            proxy.set_link(Link::Up);
        }
        Ok(())
    }
}

/// Stands for all addresses.
const NAME: &str = "spire-servers.test";
/// SPIRE's servers look at the shared bundle every so often.
const BUNDLE_SPREADS: Duration = Duration::from_secs(2);
