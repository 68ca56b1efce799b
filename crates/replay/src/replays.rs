//! The replays. Each is one narrative: set up, break, watch, measure.

use std::time::Duration;

use crate::error::{Doing, Error};
use crate::measure::Measured;
use crate::place::Place;
use crate::postgres::Cluster;
use crate::programs::Side;
use crate::progress::Progress;
use crate::proxy::Proxy;
use crate::stack::{Agent, AgentSettings, Server};

mod agent_restart;
mod bundle_conflict;
mod connection_loss;
mod slow_store;
mod stale_replica;
mod store_outage;

#[cfg(test)]
pub(crate) use connection_loss::alerts;

/// Which.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Replay {
    SlowStore,
    StoreOutage,
    AgentRestart,
    StaleReplica,
    ConnectionLoss,
    BundleConflict,
}

/// Where one runs, and on whose programs.
pub(crate) struct Scene<'a> {
    pub(crate) side: &'a Side,
    pub(crate) quick: bool,
    pub(crate) place: Place,
    pub(crate) progress: Progress,
}

impl Replay {
    pub(crate) const ALL: [Self; 6] = [
        Self::SlowStore,
        Self::StoreOutage,
        Self::AgentRestart,
        Self::StaleReplica,
        Self::ConnectionLoss,
        Self::BundleConflict,
    ];

    /// Whether its figures depend on how busy the machine is. Those of the others are about what happens, not how fast.
    pub(crate) fn needs_the_machine(self) -> bool {
        matches!(self, Self::SlowStore | Self::StoreOutage | Self::BundleConflict)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SlowStore => "slow-store",
            Self::StoreOutage => "store-outage",
            Self::AgentRestart => "agent-restart",
            Self::StaleReplica => "stale-replica",
            Self::ConnectionLoss => "connection-loss",
            Self::BundleConflict => "bundle-conflict",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|replay| replay.name() == name)
    }

    pub(crate) async fn run(self, scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
        match self {
            Self::SlowStore => slow_store::run(scene).await,
            Self::StoreOutage => store_outage::run(scene).await,
            Self::AgentRestart => agent_restart::run(scene).await,
            Self::StaleReplica => stale_replica::run(scene).await,
            Self::ConnectionLoss => connection_loss::run(scene).await,
            Self::BundleConflict => bundle_conflict::run(scene).await,
        }
    }
}

impl Scene<'_> {
    /// One of two, by the length of the run.
    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    fn step(&self, what: impl AsRef<str>) {
        self.progress.step(what);
    }

    /// A database, with a proxy before it.
    async fn database(&self) -> Result<(Cluster, Proxy), Error> {
        self.step("starting PostgreSQL and the proxy before it");
        let cluster = Cluster::primary().await?;
        let proxy = Proxy::before_postgres(cluster.port()).await?;
        Ok((cluster, proxy))
    }

    /// An agent of `server`, named `name`, with these `lines` in its file. Does not wait.
    async fn agent(&self, name: &str, server: &Server, lines: &str) -> Result<Agent, Error> {
        let bundle = self.place.path().join("bundle.pem");
        if !bundle.exists() {
            std::fs::write(&bundle, server.bundle().await?).doing("write the bundle")?;
        }
        let settings = AgentSettings {
            servers: vec![format!("127.0.0.1:{}", server.port)],
            lines: lines.to_owned(),
            under: Vec::new(),
        };
        Agent::start(&self.place, self.side, (name, server), &bundle, &settings).await
    }
}

/// Until workloads are served when nothing is wrong.
const READY: Duration = Duration::from_secs(120);
