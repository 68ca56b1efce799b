//! Reaches one cluster and keeps the bundle in its objects, whatever becomes of either.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::task::JoinSet;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::error;
use vouchsafe_cluster::{Cluster, Deps, Leadership, Name};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_types::trust_domain::TrustDomain;

use super::board::Standing;
use super::delays::Delays;
use super::eyes::Eyes;
use super::object::Access;
use super::round::{Parts, Round};
use crate::config::publication::Publication;
use crate::confirmed::Confirmed;
use crate::model::ReadModel;
use crate::status::Chain;

/// What a publisher is built on.
pub(crate) struct Setup {
    pub(crate) publication: Publication,
    pub(crate) trust_domain: TrustDomain,
    /// What tells this server from others.
    pub(crate) server_key: String,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) confirmed: Arc<Confirmed>,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) metrics: Registry,
    pub(crate) standing: Standing,
}

/// Keeps the bundle in the objects of one cluster.
pub(crate) struct Publisher {
    setup: Setup,
    delays: Delays,
}

impl Publisher {
    pub(crate) fn new(setup: Setup) -> Self {
        Self { setup, delays: Delays::new() }
    }

    /// Runs until `cancel`. Never fails: what cannot be written now may be later.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let opened = cancel.run_until_cancelled(self.open()).await;
        let Some(cluster) = opened else { return };
        let stop = cancel.child_token();
        let mut tasks = JoinSet::new();
        let (eyes, mut changes) = Eyes::open(&cluster, &self.setup.publication, &mut tasks, &stop);
        let (events, writer) = cluster.events("vouchsafe-server");
        tasks.spawn(writer.run(stop.clone()));
        let leadership = self.lease(&cluster, &mut tasks, &stop);
        changes.push(WatchStream::from_changes(leadership.changed()).map(drop).boxed());
        let mut round = Round::new(
            self.setup,
            self.delays,
            Parts { eyes, leadership, access: Access::new(cluster), events },
        );
        round.run(&mut changes, &cancel).await;
        stop.cancel();
        while tasks.join_next().await.is_some() {}
    }

    /// The cluster, as soon as its configuration can be read.
    async fn open(&mut self) -> Cluster {
        let Setup { publication, clock, entropy, metrics, standing, .. } = &mut self.setup;
        let mut attempt = 0;
        loop {
            let deps =
                Deps { clock: clock.clone(), entropy: entropy.fork("cluster"), metrics: metrics.clone() };
            match Cluster::open(&publication.source, deps) {
                Ok(cluster) => return cluster,
                Err(cause) => {
                    let (cluster, why) = (&publication.cluster, Chain(&cause).to_string());
                    if attempt == 0 {
                        error!(
                            cluster,
                            error = why,
                            "Cannot reach the cluster for the trust bundle; trying again"
                        );
                    }
                    standing.tell(
                        publication,
                        Some(format!("the trust bundle is not in cluster {cluster}: {why}")),
                    );
                }
            }
            tokio::time::sleep(self.delays.rare.delay(attempt, entropy.fraction())).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Takes part in the election of the server that writes.
    fn lease(
        &self,
        cluster: &Cluster,
        tasks: &mut JoinSet<Result<(), Infallible>>,
        stop: &CancellationToken,
    ) -> Leadership {
        let publication = &self.setup.publication;
        let namespace = publication.config_maps.first().map_or("default", |key| &key.namespace);
        let name = lease_name(publication.plugin, &self.setup.trust_domain);
        let (leadership, keeper) = cluster.lease(Name::new(namespace, name), self.setup.server_key.clone());
        tasks.spawn(keeper.run(stop.clone()));
        leadership
    }
}

/// A Lease's name has no underscore, which a trust domain's may have.
fn lease_name(plugin: &str, trust_domain: &TrustDomain) -> String {
    let mut name = format!("vouchsafe-{plugin}-{trust_domain}").replace('_', "-");
    name.truncate(MAX_LEASE_NAME);
    name.trim_end_matches(['.', '-']).to_owned()
}

/// Longest name of a Lease.
const MAX_LEASE_NAME: usize = 253;
