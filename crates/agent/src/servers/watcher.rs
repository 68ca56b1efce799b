//! Keeps what is known of the servers current.
//!
//! A server that is not in use is asked for the bundle about every two minutes, or every minute while it fails, over a
//! connection of its own that ends with the answer. The one in use is asked only if nothing comparable was asked for a
//! while. Each has its own moments, which differ between agents.
//!
//! A probe's answer is not wasted: a bundle that is newer than the one held is taken. So an agent learns the new
//! authorities of one server from the others, which it must before it can go there; a server that shows an authority that
//! we do not know has the others asked at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::member::Server;
use super::resolve::{RESOLVE_EVERY, RESOLVE_GAP};
use crate::server_client::{ServerClient, shown};
use crate::trust::Trust;

/// The task.
#[derive(Debug)]
pub struct Watcher {
    /// Speaks with the servers.
    pub client: Arc<ServerClient>,
    /// Takes newer bundles.
    pub trust: Arc<Trust>,
}

impl Watcher {
    /// Probes and resolves until `cancel`.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Infallible> {
        let work = async {
            tokio::join!(self.probe(), self.settle_doubts(), self.resolve());
        };
        cancel.run_until_cancelled(work).await;
        Ok(())
    }

    async fn probe(&self) {
        let mut known = self.client.own().watch();
        while self.client.own().load().is_none() {
            if known.changed().await.is_err() {
                return;
            }
        }
        let pool = self.client.pool();
        loop {
            pool.close_idle();
            let servers = pool.servers();
            let now = Instant::now();
            let in_use = *pool.changed().borrow();
            let mut probes = JoinSet::new();
            for server in servers.iter().filter(|server| server.next_probe() <= now).take(MAX_PROBES) {
                let (client, server) = (Arc::clone(&self.client), Arc::clone(server));
                let used = in_use == Some(server.address());
                probes.spawn(async move {
                    let every = match (used, server.is_failing()) {
                        (true, _) => PROBE_IN_USE,
                        (false, true) => PROBE_FAILING,
                        (false, false) => PROBE_OTHER,
                    };
                    server.probe_at(Instant::now() + every.mul_f64(0.75 + 0.5 * client.jitter()));
                    let outcome = client.probe(&server, used).await;
                    (server, outcome)
                });
            }
            while let Some(probed) = probes.join_next().await {
                match probed {
                    Ok((_, Ok(bundle))) => {
                        self.trust.offer(bundle);
                    }
                    Ok((server, Err(status))) => {
                        debug!(
                            server = server.name(),
                            error = shown(&status),
                            "server does not answer a probe"
                        );
                    }
                    Err(error) => warn!(%error, "a probe ended badly"),
                }
            }
            // What the probes say may be a reason to move, even if nobody calls.
            pool.pick(&[]);
            let next = pool.servers().iter().map(|server| server.next_probe()).min();
            let soon = Instant::now() + MIN_PAUSE;
            sleep_until(next.unwrap_or(soon).clamp(soon, soon + MAX_PAUSE)).await;
        }
    }

    /// Asks those that we know for the authorities of the one that we do not know.
    async fn settle_doubts(&self) {
        let pool = self.client.pool();
        loop {
            pool.doubt.notified().await;
            if self.trust.held().is_some() {
                let servers = pool.servers();
                let (unknown, others): (Vec<_>, Vec<_>) =
                    servers.into_iter().partition(|server| server.is_unknown() == Some(true));
                if self.ask(&others).await {
                    unknown.iter().for_each(|server| server.forgive());
                }
            }
            sleep_until(Instant::now() + DOUBT_GAP).await;
        }
    }

    /// Whether one of them has a newer bundle than we.
    async fn ask(&self, servers: &[Arc<Server>]) -> bool {
        for server in servers {
            match self.client.probe(server, false).await {
                Ok(bundle) => {
                    if self.trust.offer(bundle) {
                        info!(server = server.name(), "a server showed an authority that another one knew");
                        return true;
                    }
                }
                Err(status) => {
                    debug!(server = server.name(), error = shown(&status), "server does not answer a probe");
                }
            }
        }
        false
    }

    async fn resolve(&self) {
        let pool = self.client.pool();
        if !pool.has_names() {
            return;
        }
        loop {
            let last = Instant::now();
            let regular = last + RESOLVE_EVERY.mul_f64(0.75 + 0.5 * self.client.jitter());
            tokio::select! {
                () = sleep_until(regular) => {}
                () = pool.lost.notified() => sleep_until(last + RESOLVE_GAP).await,
            }
            for problem in pool.resolve().await {
                warn!(problem, "cannot resolve the servers' name; keeping the addresses that are known");
            }
        }
    }
}

/// Time between two probes of the server in use, if nothing else was asked that can be compared.
pub const PROBE_IN_USE: Duration = Duration::from_secs(40);
/// Of another one.
pub const PROBE_OTHER: Duration = Duration::from_secs(120);
/// Of another one that failed last. A quarter more or less.
pub const PROBE_FAILING: Duration = Duration::from_secs(80);

/// Servers that are probed at one time.
const MAX_PROBES: usize = 4;

const MIN_PAUSE: Duration = Duration::from_millis(500);
/// Servers that are new on the list are found within this time.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Shortest time between two rounds of asking for an authority.
const DOUBT_GAP: Duration = Duration::from_secs(5);
