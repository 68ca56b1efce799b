//! Building an agent from its settings and starting its tasks.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceBuilder;
use tracing::info;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_lastgood::Persister;
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_transport::grpc;
use vouchsafe_transport::rpc_metrics::RpcMetrics;
use vouchsafe_transport::unix::{self, UnixListener};

use crate::admin::debug::Debug;
use crate::admin::{self, Admin};
use crate::apis::{Apis, OTHER_METHODS};
use crate::attest::docker::DockerAttestor;
use crate::attest::image_signatures::{ImageSignatures, ImageSignaturesError};
use crate::attest::k8s::K8sAttestor;
use crate::attest::unix::UnixAttestor;
use crate::attest::{Attestors, WorkloadAttestor};
use crate::bundles::Bundles;
use crate::callers::CallerListener;
use crate::config::{Config, Deps};
use crate::data_dir::{DataDir, DataDirError};
use crate::denials::Denials;
use crate::explain::service::Explainer;
use crate::explain::{Notes, service as explaining};
use crate::holdings::Holdings;
use crate::identities::Identities;
use crate::identity_set::IdentitySets;
use crate::issue::IssueLoop;
use crate::jwt_cache::JwtCache;
use crate::jwt_issue::JwtIssuer;
use crate::limits::CallerLimits;
use crate::metrics::{Metrics, Repair};
use crate::node::attestor::NodeAttestor;
use crate::node::{Node, NodeError};
use crate::refusals::Refusals;
use crate::renewals::Renewals;
use crate::rotation::Policy;
use crate::server_client::ServerClient;
use crate::servers::watcher::Watcher;
use crate::state::confirmed::{Confirmed, Mark};
use crate::state::{self, StateLoop};
use crate::status::{AgentStatus, Phase, Serving, StatusBoard};
use crate::sync_loop::{SyncLoop, SyncSoon};
use crate::trust::{self, Trust};
use crate::workload_api::request::{Api, Connections};

/// A node agent.
#[derive(Debug)]
pub struct Agent;

/// A started agent.
#[derive(Debug)]
pub struct Running {
    /// Where workloads connect.
    pub socket_path: PathBuf,
    /// What the agent says about itself.
    pub status: watch::Receiver<AgentStatus>,
    /// The agent's SVID.
    pub own: SvidCell,
    /// What the agent serves from, the bundles that it holds among it.
    pub identities: Arc<Identities>,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(DataDirError),
    /// The agent's own SVID.
    #[error(transparent)]
    Node(NodeError),
    /// The Workload API's socket.
    #[error(transparent)]
    Socket(unix::Error),
    /// Verification of images' signatures.
    #[error(transparent)]
    ImageSignatures(ImageSignaturesError),
}

impl Agent {
    /// Starts an agent in `supervisor`. Returns when its socket listens; the rest happens in the background:
    /// attestation if there is no SVID yet, synchronization, issuing. Until the entries are known, workloads are told
    /// that the agent is unavailable.
    ///
    /// # Errors
    ///
    /// [`StartError`]: what an operator must put right. A server that is away is not an error.
    pub async fn start(
        config: Config,
        deps: Deps,
        supervisor: &mut Supervisor,
    ) -> Result<Running, StartError> {
        info!(data_dir = %config.data_dir.display(), version = config.version, "Starting agent");
        let parts = Parts::build(&config, &deps)?;
        let nothing = config.disable_workload_api && config.disable_sds_api;
        let bind = || UnixListener::bind_on(&deps.network, &config.socket_path, SOCKET_MODE, SOCKET_DIR_MODE);
        let listener = (!nothing).then(bind).transpose().map_err(StartError::Socket)?;
        let admin = admin::bind(&config.admin, &deps.network).map_err(StartError::Socket)?;
        let restored = parts.node.restore().await.map_err(StartError::Node)?;
        let state = state::file(&config.data_dir, config.key_manager.as_ref());
        let mark = Mark::open(&config.data_dir, config.key_manager.as_ref());
        let mut position = 0;
        if let (Some(_), Some(file)) = (&restored, &state)
            && let Some((saved, confirmed)) =
                state::restore((file, mark.as_ref()), &parts.identities, parts.jwt.cache())
        {
            position = saved;
            parts.serve_restored(confirmed);
            parts.metrics.repaired(Repair::Reload);
        }
        parts.adopt_held_bundle(&config).map_err(StartError::DataDir)?;
        let socket_path = config.socket_path.clone();
        let node = Arc::clone(&parts.node);
        supervisor.start("agent-node", |cancel| node.run(restored, cancel));
        if let Some(file) = state {
            let (persister, saver) = Persister::new(file);
            let (identities, jwt, status) =
                (Arc::clone(&parts.identities), parts.jwt.clone(), parts.status.clone());
            let data_dir = Arc::clone(&parts.data_dir);
            let state = StateLoop { identities, jwt, saver, mark, position, status, data_dir };
            supervisor.start("agent-state", |cancel| state.run(persister, cancel));
        }
        let watcher = Watcher { client: Arc::clone(&parts.client), trust: Arc::clone(&parts.trust) };
        supervisor.start("agent-servers", |cancel| watcher.run(cancel));
        let status = parts.status.watch();
        let token = deps.readiness.token("agent");
        let sync = parts.sync_loop(&config, &deps, token);
        supervisor.start("agent-sync", |cancel| sync.run(cancel));
        parts.start_issuing(&config, &deps, supervisor);
        let (jwt, metrics, board) = (parts.jwt.clone(), parts.metrics.clone(), parts.status.clone());
        supervisor.start("agent-jwt", |cancel| jwt.run(metrics, board, cancel));
        let identities = Arc::clone(&parts.identities);
        let (metrics, own) = (parts.metrics.clone(), parts.cell.clone());
        let running = Running {
            socket_path,
            status: status.clone(),
            own: own.clone(),
            identities: Arc::clone(&identities),
        };
        let known = (Arc::clone(&parts.client), parts.notes.clone(), parts.denials.clone());
        let signatures = config.image_signatures.as_ref();
        let signatures = signatures.map(|config| ImageSignatures::start(config, &deps.clock, supervisor));
        let signatures = signatures.transpose().map_err(StartError::ImageSignatures)?;
        let (api, health) = parts.api(&config, &deps, signatures);
        let api = Arc::new(api);
        let explain = explainer(&config, &api, status.clone(), known);
        let apis = Apis::new(&api, &explain, &config, &metrics);
        if let Some(listener) = admin {
            let debug = Debug::new(own, Arc::clone(&identities), status.clone(), &metrics);
            let (admin, deps) =
                (Admin::new((Arc::clone(&api), explain), &config.admin, debug, &deps), deps.clone());
            supervisor.start("agent-admin-api", |cancel| admin.serve(listener, deps, cancel));
        }
        supervisor.start("agent-workload-api", |cancel| {
            serve((listener, apis), api, health, identities, deps, cancel)
        });
        Ok(running)
    }
}

/// Answers `vouchsafe explain` from what these know.
fn explainer(
    config: &Config,
    api: &Arc<Api>,
    status: watch::Receiver<AgentStatus>,
    (client, notes, denials): (Arc<ServerClient>, Notes, Denials),
) -> Arc<Explainer> {
    let servers = std::iter::once(&config.server_address).chain(&config.server_addresses);
    let server = servers.map(String::as_str).collect::<Vec<_>>().join(", ");
    let svid_limit = config.x509_svid_cache_max_size;
    let api = Arc::clone(api);
    Arc::new(Explainer::new(explaining::Parts { api, notes, status, denials, client, server, svid_limit }))
}

/// The agent's parts, bottom up.
struct Parts {
    node: Arc<Node>,
    client: Arc<ServerClient>,
    trust: Arc<Trust>,
    cell: SvidCell,
    roots: RootsCell,
    identities: Arc<Identities>,
    data_dir: Arc<DataDir>,
    jwt: JwtIssuer,
    denials: Denials,
    notes: Notes,
    status: StatusBoard,
    metrics: Metrics,
    soon: SyncSoon,
    renewals: Arc<Renewals>,
}

impl Parts {
    fn build(config: &Config, deps: &Deps) -> Result<Self, StartError> {
        let data_dir = Arc::new(DataDir::open(&config.data_dir).map_err(StartError::DataDir)?);
        let metrics = Metrics::new(deps.registry.clone());
        metrics.started(&config.version, config.trust_domain.as_str());
        let (cell, roots) = (SvidCell::empty(), RootsCell::new(TrustRoots::new()));
        let identities = Arc::new(Identities::default());
        let client = ServerClient::new(
            (config.server_address.clone(), config.trust_domain.clone()),
            (cell.clone(), roots.clone()),
            deps.clock.clone(),
            deps.entropy.fork("agent"),
        );
        let client = client.with_key_exchange(config.key_exchange).with_network(deps.network.clone());
        let client = Arc::new(client.with_servers(&config.server_addresses).with_metrics(metrics.clone()));
        let trust = trust::Parts {
            roots: roots.clone(),
            identities: Arc::clone(&identities),
            data_dir: Arc::clone(&data_dir),
            client: Arc::clone(&client),
            clock: deps.clock.clone(),
            metrics: metrics.clone(),
        };
        let trust = Arc::new(Trust::new(config, trust));
        let (denials, status) = (Denials::default(), StatusBoard::default());
        let notes = Notes::default();
        let node = Arc::new(Node {
            key_manager: Arc::clone(&config.key_manager),
            data_dir: Arc::clone(&data_dir),
            cell: cell.clone(),
            client: Arc::clone(&client),
            trust: Arc::clone(&trust),
            identities: Arc::clone(&identities),
            trust_domain: config.trust_domain.clone(),
            attestor: config.join_token.clone().map(NodeAttestor::JoinToken).or(config.node_attestor.clone()),
            policy: Policy { availability_target: config.availability_target },
            version: config.version.clone(),
            clock: deps.clock.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
            denials: denials.clone(),
            notes: notes.clone(),
            refused: AtomicBool::new(false),
            budget: Node::new_budget(),
        });
        let cache = JwtCache::new(config.jwt_svid_cache_max_size);
        let jwt = JwtIssuer::with_renewal_deadline(
            cache,
            Arc::clone(&client),
            Arc::clone(&identities),
            (deps.clock.clone(), config.jwt_svid_cache_hit_timeout),
        );
        let soon = SyncSoon::new(config.sync_interval);
        Ok(Self {
            node,
            client,
            trust,
            cell,
            roots,
            identities,
            data_dir,
            jwt,
            denials,
            notes,
            status,
            metrics,
            soon,
            renewals: Arc::default(),
        })
    }

    fn serve_restored(&self, confirmed: Confirmed) {
        let snapshot = self.identities.load();
        if !snapshot.synchronized {
            return;
        }
        self.status.set(|status| {
            status.phase = Phase::Serving;
            (status.last_sync, status.bundles_confirmed) = (Some(confirmed.at), confirmed.bundles);
            (status.entries, status.x509_svids) = (snapshot.index.len(), snapshot.svids.len());
            status.jwt_svids = self.jwt.cache().len();
        });
    }

    /// Verifies servers by the bundle of the last run, if there was one. One that cannot be read is no reason to believe
    /// whoever answers.
    fn adopt_held_bundle(&self, config: &Config) -> Result<(), DataDirError> {
        if self.identities.load().bundles.is_none()
            && let Some(bundle) = self.data_dir.bundle(&config.trust_domain)?
        {
            self.identities.edit(|snapshot| {
                snapshot.bundles = Some(Arc::new(Bundles::of(bundle)));
                true
            });
        }
        if let Some(held) = &self.identities.load().bundles {
            self.roots.set(TrustRoots::of([&held.own.bundle]));
        }
        Ok(())
    }

    fn sync_loop(
        &self,
        config: &Config,
        deps: &Deps,
        ready: vouchsafe_runtime::readiness::Token,
    ) -> SyncLoop {
        if self.status.watch().borrow().phase == Phase::Serving {
            ready.mark();
            ready.degrade("serving from the state of the last run; the server has not answered yet");
        }
        SyncLoop {
            client: Arc::clone(&self.client),
            identities: Arc::clone(&self.identities),
            trust: Arc::clone(&self.trust),
            cell: self.cell.clone(),
            denials: self.denials.clone(),
            notes: self.notes.clone(),
            interval: config.sync_interval,
            clock: deps.clock.clone(),
            metrics: self.metrics.clone(),
            status: self.status.clone(),
            ready,
            soon: self.soon.clone(),
        }
    }

    fn issue_loop(&self, config: &Config, deps: &Deps) -> IssueLoop {
        IssueLoop {
            client: Arc::clone(&self.client),
            identities: Arc::clone(&self.identities),
            denials: self.denials.clone(),
            notes: self.notes.clone(),
            key_type: config.workload_key_type,
            limit: config.x509_svid_cache_max_size,
            policy: Policy { availability_target: config.availability_target },
            clock: deps.clock.clone(),
            metrics: self.metrics.clone(),
            status: self.status.clone(),
            renewals: Arc::clone(&self.renewals),
            trust: Arc::clone(&self.trust),
            unknown: Mutex::default(),
        }
    }

    /// Starts issuing, and shows what is held for as long as that runs.
    fn start_issuing(&self, config: &Config, deps: &Deps, supervisor: &mut Supervisor) {
        let (issue, shown) = (self.issue_loop(config, deps), self.show_holdings(config, deps));
        supervisor.start("agent-issue", |cancel| async move {
            let outcome = issue.run(cancel).await;
            drop(shown);
            outcome
        });
    }

    /// Shows what is held to whoever scrapes, for as long as the caller keeps what it gets.
    fn show_holdings(&self, config: &Config, deps: &Deps) -> Arc<Holdings> {
        let holdings = Holdings {
            identities: Arc::clone(&self.identities),
            jwt: self.jwt.clone(),
            renewals: Arc::clone(&self.renewals),
            limit: config.x509_svid_cache_max_size,
            status: self.status.watch(),
            clock: deps.clock.clone(),
        };
        deps.registry.show_degraded(&deps.readiness);
        holdings.show(&deps.registry)
    }

    fn api(self, config: &Config, deps: &Deps, signatures: Option<ImageSignatures>) -> (Api, Serving) {
        let unix =
            config.unix.clone().map(|unix| Arc::new(UnixAttestor::new(unix)) as Arc<dyn WorkloadAttestor>);
        let docker = config.docker.clone().map(|docker| Arc::new(DockerAttestor::new(docker)) as Arc<_>);
        let k8s = config.k8s.clone();
        let k8s = k8s.map(|k8s| K8sAttestor::new(k8s, signatures, &deps.clock, &self.metrics));
        let k8s = k8s.map(|k8s| Arc::new(k8s) as Arc<_>);
        let attestors = unix.into_iter().chain(docker).chain(k8s).collect();
        let serving = self.status.serving();
        let api = Api {
            identities: self.identities,
            sets: IdentitySets::default(),
            attestors: Attestors::new(attestors, &self.metrics),
            jwt: self.jwt,
            clock: deps.clock.clone(),
            serving: serving.clone(),
            trust_domain: config.trust_domain.clone(),
            allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
            allowed_foreign_jwt_claims: config.allowed_foreign_jwt_claims.clone(),
            log_selectors: config.log_selectors.clone(),
            connections: Connections::new(self.metrics.workload_api_connections()),
            soon: self.soon,
            limits: CallerLimits::new(&config.limits, &self.metrics),
            refusals: Refusals::default(),
        };
        (api, serving)
    }
}

/// Serves the Workload API and health until `cancel`.
async fn serve(
    (listener, apis): (Option<UnixListener>, Apis),
    api: Arc<Api>,
    mut serving: Serving,
    identities: Arc<Identities>,
    deps: Deps,
    cancel: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let routes = apis.add_to(Routes::new(health_service)).prepare();
    let counted = RpcMetrics::new(deps.registry.clone());
    counted.announce_timed("vouchsafe_workload_api_seconds", apis.methods());
    counted.announce(OTHER_METHODS);
    let service = ServiceBuilder::new().layer(counted).service(routes);
    let address = listener.as_ref().map(|listener| listener.path().display().to_string());
    let ready = async {
        serving.ready().await;
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        if let Some(address) = address {
            info!(network = "unix", address, api_names = apis.names(), "Starting agent APIs");
        }
        std::future::pending::<()>().await;
    };
    // Streams end as soon as the agent stops; what is left is drained by the server.
    let close = async {
        cancel.cancelled().await;
        identities.close();
        std::future::pending::<()>().await;
    };
    let tidy = async {
        loop {
            tokio::time::sleep(TIDY_INTERVAL).await;
            api.sets.forget_unused();
        }
    };
    let entropy = deps.entropy.fork("workload-api");
    let served = async {
        if let Some(listener) = listener {
            let options = grpc::Options::unix();
            return grpc::serve(CallerListener(listener), service, cancel.clone(), options, entropy).await;
        }
        cancel.cancelled().await;
        identities.close();
        grpc::Drained::default()
    };
    tokio::select! {
        drained = served => info!(open = drained.open, cut = drained.cut, "Stopping agent APIs"),
        () = ready => {}
        () = close => {}
        () = tidy => {}
    }
    Ok(())
}

/// Answers that were encoded for callers who are gone are kept for so long.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

/// Every process on the machine may connect: what it gets depends on what it is.
const SOCKET_MODE: u32 = 0o777;

const SOCKET_DIR_MODE: u32 = 0o755;
