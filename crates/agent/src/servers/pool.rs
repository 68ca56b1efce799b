//! The servers together: who is in use, who is next, whether anybody is there at all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Status;
use tracing::{info, warn};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::spread;
use vouchsafe_transport::net::Network;

use super::choice::{Candidate, Current, choose, first, rank};
use super::member::{Ended, Server, Stats, is_unreachable};
use super::resolve::{Listed, Seed, merge};
use super::score::{Kind, scores};
use super::silence::Silence;
use crate::metrics::{Metrics, Repair, status_name};

/// What a pool is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Each `host:port`.
    pub addresses: Vec<String>,
    /// Whose place among the servers counts; before there is an SVID, `instance` does.
    pub own: SvidCell,
    /// Any text that differs between agents.
    pub instance: String,
    /// Time.
    pub clock: Clock,
    /// The network.
    pub network: Network,
    /// Where servers are counted.
    pub metrics: Option<Metrics>,
}

/// See [`super`].
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    seeds: Vec<Seed>,
    /// An address that is none.
    wrong: Option<String>,
    members: Mutex<Members>,
    in_use: watch::Sender<Option<SocketAddr>>,
    life: watch::Sender<u64>,
    /// A server showed an authority that we do not know.
    pub(super) doubt: Notify,
    /// A server could not be reached: it may have moved.
    pub(super) lost: Notify,
}

#[derive(Debug, Default)]
struct Members {
    listed: Vec<Listed>,
    servers: Vec<Arc<Server>>,
    current: Option<Current>,
    silence: Silence,
}

impl Pool {
    /// Those of the addresses that are no names are there at once.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let seeds: Vec<_> = settings.addresses.iter().filter_map(|text| Seed::parse(text)).collect();
        let wrong = settings.addresses.iter().find(|text| Seed::parse(text).is_none()).cloned();
        let pool = Self {
            seeds,
            wrong,
            members: Mutex::default(),
            in_use: watch::Sender::new(None),
            life: watch::Sender::new(0),
            doubt: Notify::new(),
            lost: Notify::new(),
            settings,
        };
        let fixed = pool.seeds.iter().enumerate().filter(|(_, seed)| !seed.is_name());
        let fixed = fixed.filter_map(|(at, seed)| Some((at, vec![seed.authority.parse().ok()?]))).collect();
        pool.update(fixed);
        pool
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes sure that there is a server to call.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an address that is none; `Unavailable` when no name can be resolved.
    pub(crate) async fn prepare(&self) -> Result<(), Status> {
        if let Some(wrong) = &self.wrong {
            let text = format!("{wrong:?} is not an address of the form host:port");
            return Err(Status::invalid_argument(text));
        }
        if !self.members().servers.is_empty() {
            return Ok(());
        }
        let problems = self.resolve().await;
        match self.members().servers.is_empty() {
            true => Err(Status::unavailable(problems.join("; "))),
            false => Ok(()),
        }
    }

    /// Whether a name must be resolved now and then.
    pub(super) fn has_names(&self) -> bool {
        self.seeds.iter().any(Seed::is_name)
    }

    /// Asks for the addresses of all names. Returns what went wrong.
    pub(super) async fn resolve(&self) -> Vec<String> {
        let network = &self.settings.network;
        let asked = self.seeds.iter().map(|seed| seed.addresses(network));
        let (mut answers, mut problems) = (Vec::new(), Vec::new());
        for (at, answer) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
            match answer {
                Ok(addresses) => answers.push((at, addresses)),
                Err(problem) => problems.push(problem),
            }
        }
        self.update(answers);
        problems
    }

    fn update(&self, answers: Vec<(usize, Vec<SocketAddr>)>) {
        let now = Instant::now();
        let agent = self.agent();
        let mut members = self.members();
        members.listed = merge(&members.listed, &answers, |address| rank(&agent, address), now);
        let listed: Vec<_> = members.listed.iter().map(|listed| (listed.address, listed.seed)).collect();
        members.servers.retain(|server| {
            let stays = listed.iter().any(|(address, _)| *address == server.address());
            if !stays {
                info!(server = server.name(), "server is gone from the list");
                self.settings.metrics.iter().for_each(|metrics| metrics.forget_server(server.name()));
            }
            stays
        });
        for (address, seed) in listed {
            if members.servers.iter().any(|server| server.address() == address) {
                continue;
            }
            let Some(seed) = self.seeds.get(seed) else { continue };
            let place = spread(format!("{agent} {address}").as_bytes());
            let server = Server::new((address, seed.authority.clone()), self.settings.clock.clone(), place);
            info!(server = server.name(), authority = seed.authority, "server is on the list");
            members.servers.push(Arc::new(server));
        }
    }

    /// All servers.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.members().servers.clone()
    }

    /// The server to use, or the next to try after those of `tried`.
    pub(crate) fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<Server>> {
        let now = Instant::now();
        let agent = self.agent();
        let mut members = self.members();
        let untried = members.servers.iter().filter(|server| !tried.contains(&server.address()));
        let candidates: Vec<Candidate> = scored(untried, now)
            .map(|(server, score)| server.candidate(rank(&agent, server.address()), score))
            .collect();
        let chosen = match tried.is_empty() {
            true => choose(&candidates, members.current, now)?,
            false => first(&candidates)?.address,
        };
        if tried.is_empty() && members.current.is_none_or(|current| current.address != chosen) {
            self.moved(&mut members, (chosen, now), &candidates);
        }
        members.servers.iter().find(|server| server.address() == chosen).cloned()
    }

    fn moved(&self, members: &mut Members, (to, now): (SocketAddr, Instant), candidates: &[Candidate]) {
        let score = |address: SocketAddr| {
            candidates.iter().find(|candidate| candidate.address == address).map(|candidate| candidate.score)
        };
        match members.current.replace(Current { address: to, since: now }) {
            None => info!(server = %to, "server in use"),
            Some(Current { address: from, .. }) => {
                let (score_from, score_to) = (score(from), score(to));
                warn!(%from, %to, score_from, score_to, "moving to another server");
                self.settings.metrics.iter().for_each(|metrics| metrics.repaired(Repair::Takeover));
                // Calls that run there go on; the connection ends with the last of them.
                members.servers.iter().filter(|server| server.address() == from).for_each(|s| s.disconnect());
            }
        }
        self.in_use.send_replace(Some(to));
    }

    /// Whether there is a server that is not among `tried`.
    pub(crate) fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.members().servers.iter().any(|server| !tried.contains(&server.address()))
    }

    /// Takes note of how a call to `server` ended.
    pub(crate) fn observe(&self, server: &Server, failure: Option<&Status>, ended: Ended) {
        let was_failing = server.is_failing();
        server.observe(failure, ended);
        if let Some(metrics) = &self.settings.metrics {
            if was_failing && !server.is_failing() {
                metrics.repaired(Repair::Reconnect);
            }
            metrics.server_request(server.name(), status_name(ended.code), ended.elapsed);
        }
        if server.is_unknown() == Some(true) {
            self.doubt.notify_one();
        }
        if failure.is_some_and(is_unreachable) {
            self.lost.notify_one();
            let mut members = self.members();
            if members.servers.iter().all(|server| server.is_failing()) {
                members.silence.begin();
            }
            return;
        }
        if self.members().silence.end(Instant::now()) {
            self.life.send_modify(|count| *count += 1);
        }
    }

    /// What the server in use answered to a call of this kind is of no use, though it answers: another one may be better.
    pub fn blame(&self, kind: Kind) {
        let members = self.members();
        let current = members.current.map(|current| current.address);
        members.servers.iter().filter(|server| Some(server.address()) == current).for_each(|s| s.blame(kind));
    }

    /// Changes when a server answers after none did; how often at most is said in [`super::silence`].
    #[must_use]
    pub fn signs_of_life(&self) -> watch::Receiver<u64> {
        self.life.subscribe()
    }

    /// The server in use, as it changes.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.in_use.subscribe()
    }

    /// Whether whoever answers is signed by nobody that we know, and no server is that we do know.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        let known: Vec<_> = self.servers().iter().filter_map(|server| server.is_unknown()).collect();
        known.contains(&true) && !known.contains(&false)
    }

    #[cfg(test)]
    pub(crate) fn set_unknown(&self, unknown: bool) {
        self.update(vec![(0, vec![SocketAddr::from(([127, 0, 0, 1], 1))])]);
        self.servers().iter().for_each(|server| server.set_unknown(unknown));
    }

    /// Every connection is made anew at its next call.
    pub fn reconnect(&self) {
        self.servers().iter().for_each(|server| server.disconnect());
    }

    /// Ends connections that were needed for a moment.
    pub(super) fn close_idle(&self) {
        let members = self.members();
        let current = members.current.map(|current| current.address);
        let idle = members.servers.iter().filter(|server| Some(server.address()) != current);
        idle.filter(|server| server.last_used().elapsed() > IDLE).for_each(|server| server.disconnect());
    }

    /// What is known of each server.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Stats> {
        let now = Instant::now();
        let members = self.members();
        let current = members.current.map(|current| current.address);
        scored(members.servers.iter(), now)
            .map(|(server, score)| server.stats(Some(server.address()) == current, score))
            .collect()
    }

    /// Has the gauges of all servers brought up to date whenever somebody reads them.
    pub fn report(self: &Arc<Self>) {
        let Some(metrics) = self.settings.metrics.clone() else { return };
        let pool = Arc::downgrade(self);
        metrics.clone().before_render("servers", move || {
            let Some(pool) = pool.upgrade() else { return };
            for stats in pool.snapshot() {
                let since = stats.connected_since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
                let since = since.map_or(0.0, |since| since.as_secs_f64());
                metrics.server_gauges(&stats.server, stats.score, since, stats.in_use);
            }
        });
    }

    /// The servers' order is this agent's own.
    fn agent(&self) -> String {
        self.settings.own.load().map_or_else(|| self.settings.instance.clone(), |svid| svid.id.to_string())
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// These servers, each with its score among them.
fn scored<'a>(
    servers: impl Iterator<Item = &'a Arc<Server>>,
    now: Instant,
) -> impl Iterator<Item = (&'a Arc<Server>, f64)> {
    let servers: Vec<_> = servers.collect();
    let evidence: Vec<_> = servers.iter().map(|server| server.evidence()).collect();
    servers.into_iter().zip(scores(&evidence, now))
}

/// A connection to a server that is not in use is kept for so long.
const IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
