//! The parts that run: they wait for a change, ask the pure part what to do, do it, and tell it what came of it.

mod entries;
mod federations;
mod followed;
mod meters;
mod pauses;
mod reports;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use vouchsafe_cluster::{Cluster, Leadership, LeaseState, Name, OpenError, Selection, Source};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::supervisor::Supervisor;

use self::entries::Entries;
use self::federations::Relationships;
use self::followed::Followed;
use self::reports::Reports;
use crate::ledger::Terms;
use crate::objects::ClusterFederatedTrustDomain;
use crate::server::{Server, ServerError};

/// All that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the objects are.
    pub source: Source,
    /// The server's administrative socket.
    pub server_socket: PathBuf,
    /// Largest answer of the server that is read.
    pub max_answer_bytes: usize,
    /// What never changes.
    pub terms: Terms,
    /// Which kinds are followed.
    pub reconcile: Reconcile,
    /// How often everything is compared with what the server has.
    pub gc_interval: Duration,
    /// Which Pods and endpoints are followed. All when empty.
    pub selections: Vec<Selection>,
    /// The lease to hold while working, and who holds it.
    pub lease: Option<(Name, String)>,
}

/// Which kinds are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reconcile {
    /// `ClusterSPIFFEID`
    pub spiffe_ids: bool,
    /// `ClusterStaticEntry`
    pub static_entries: bool,
    /// `ClusterFederatedTrustDomain`
    pub federated_trust_domains: bool,
}

/// What the registrar uses of its process.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is what its type says")]
pub struct Deps {
    pub clock: Clock,
    pub entropy: Entropy,
    pub registry: Registry,
    pub readiness: Readiness,
}

/// Opens the cluster and starts the tasks; contacts nobody before they run.
///
/// # Errors
///
/// [`OpenError`]: there is no way to the cluster.
pub fn start(config: Config, deps: &Deps, tasks: &mut Supervisor) -> Result<(), OpenError> {
    let cluster = Cluster::open(
        &config.source,
        vouchsafe_cluster::Deps {
            clock: deps.clock.clone(),
            entropy: deps.entropy.fork("cluster"),
            metrics: deps.registry.clone(),
        },
    )?;
    let (events, writer) = cluster.events("vouchsafe-registrar");
    tasks.start("events", |stop| writer.run(stop));
    let leadership = config.lease.clone().map(|(name, holder)| {
        let (leadership, keeper) = cluster.lease(name, holder);
        tasks.start("lease", |stop| keeper.run(stop));
        leadership
    });
    let shared = Shared {
        server: Server::new(&config.server_socket, config.max_answer_bytes),
        reports: Reports::new(cluster.clone(), events, deps.clock.clone()),
        leading: Leading::new(leadership),
        deps: deps.clone(),
        config: Arc::new(config),
    };
    let reconcile = shared.config.reconcile;
    if reconcile.spiffe_ids || reconcile.static_entries {
        let followed = Followed::start(&cluster, &shared.config, tasks);
        let entries = Entries::new(shared.clone(), followed);
        tasks.start("entries", |stop| async move {
            stop.run_until_cancelled(entries.run()).await;
            Ok::<_, Infallible>(())
        });
    }
    if reconcile.federated_trust_domains {
        let (objects, follower) = cluster.watch::<ClusterFederatedTrustDomain>(Selection::all());
        tasks.start("watch federated trust domains", |stop| follower.run(stop));
        let relationships = Relationships::new(shared, objects);
        tasks.start("federation relationships", |stop| async move {
            stop.run_until_cancelled(relationships.run()).await;
            Ok::<_, Infallible>(())
        });
    }
    Ok(())
}

/// What both loops use.
#[derive(Clone, Debug)]
struct Shared {
    config: Arc<Config>,
    deps: Deps,
    server: Server,
    reports: Reports,
    leading: Leading,
}

/// Whether this process is the one that works. Each clone sees each change once.
#[derive(Clone, Debug)]
struct Leading {
    leadership: Option<Leadership>,
    changes: Option<watch::Receiver<LeaseState>>,
}

impl Leading {
    fn new(leadership: Option<Leadership>) -> Self {
        let changes = leadership.as_ref().map(Leadership::changed);
        Self { leadership, changes }
    }

    fn is_held(&self) -> bool {
        self.leadership.as_ref().is_none_or(Leadership::is_held)
    }

    /// Whether there are others that might work instead.
    fn is_elected(&self) -> bool {
        self.leadership.is_some()
    }

    /// Stops work that another one does meanwhile.
    fn check(&self) -> Result<(), Halt> {
        if self.is_held() { Ok(()) } else { Err(Halt::NotLeading) }
    }

    /// Resolves when that may have changed.
    async fn changed(&mut self) {
        let ended = match &mut self.changes {
            None => true,
            Some(changes) => changes.changed().await.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}

/// Why work was not brought to its end.
#[derive(Debug)]
enum Halt {
    /// The server did not answer, or not as it should.
    Server(ServerError),
    /// Another one is to work.
    NotLeading,
}

impl From<ServerError> for Halt {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

/// How long to wait after the server failed to answer.
fn retry_delay(failures: u32, entropy: &mut Entropy) -> Duration {
    match Backoff::new(FIRST_RETRY, LAST_RETRY) {
        Ok(backoff) => backoff.delay(failures, entropy.fraction()),
        Err(_) => LAST_RETRY,
    }
}

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(10);
