//! Starts the server: reads the model, takes up the authorities, binds, serves.

mod wiring;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_ca::upstream::DiskError;
use vouchsafe_identity::config::{ClientAuth, ConfigError, server_config_with};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::metrics::{Registry as Metrics, sanitize};
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_store::{Error as StoreError, Store};
use vouchsafe_transport::grpc::{self, Options};
use vouchsafe_transport::net::Network;
use vouchsafe_transport::proxy::Balancers;
use vouchsafe_transport::tls::{self, TlsListener};
use vouchsafe_transport::unix::{self, UnixListener};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::acceptance::Acceptance;
use crate::agents::Agents;
use crate::api::{Api, Parts};
use crate::authorities::{Authorities, AuthorityError, JwtPublisher};
use crate::authorize::RENEWAL_GRACE;
use crate::circuit::Circuit;
use crate::config::Config;
use crate::confirmed::Confirmed;
use crate::federation::EndpointError;
use crate::first_state::{self, Sources};
use crate::health;
use crate::history::Doubt;
use crate::issuer::Issuer;
use crate::journal::JournalError;
use crate::model::ReadModel;
use crate::saved::{self, Saving};
use crate::upstream;
use wiring::{
    authority_shared, clients, open_agents, start_bundle_endpoint, start_chores, start_federation,
    start_feed, start_publishers, start_revisions,
};

/// What the server is built on.
pub struct Deps {
    /// Time.
    pub clock: Clock,
    /// Randomness for delays.
    pub entropy: Entropy,
    /// Where it counts, under the prefix `spire_server`.
    pub metrics: Metrics,
    /// Where it says whether it can do its job.
    pub readiness: Readiness,
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where signing keys are kept.
    pub keys: Arc<dyn KeyManager>,
    /// How much is logged, which an operator may change.
    pub log_level: LogLevelControl,
    /// Where it listens, and reaches others.
    pub network: Network,
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

/// A started server.
pub struct Running {
    /// Where agents connect.
    pub tcp_address: SocketAddr,
    /// Where administrators connect.
    pub admin_socket: PathBuf,
    /// Where this server's bundle is served, if it is.
    pub bundle_endpoint: Option<SocketAddr>,
    /// What this server presents to its clients.
    pub own: SvidCell,
    /// The authorities of all bundles that it holds.
    pub roots: RootsCell,
    trust_domain: TrustDomain,
    model: Arc<ReadModel>,
    agents: Arc<Agents>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store cannot be read.
    #[error("cannot read the datastore")]
    Store(#[source] StoreError),
    /// There are no signing authorities.
    #[error("cannot set up the signing authorities")]
    Authorities(#[source] AuthorityError),
    /// The files of the upstream authority are not those of a CA.
    #[error("cannot use the upstream authority \"disk\"")]
    UpstreamFiles(#[source] DiskError),
    /// The journal of renewals is not this server's.
    #[error("cannot take up agent renewals of an earlier run")]
    Journal(#[source] JournalError),
    /// The admin socket cannot be bound.
    #[error("cannot listen on the admin socket")]
    AdminSocket(#[source] unix::Error),
    /// The TCP address cannot be bound.
    #[error("cannot listen for agents")]
    Tcp(#[source] tls::BindError),
    /// The TCP address is gone as soon as it was bound.
    #[error("cannot tell the address that agents connect to")]
    Address(#[source] std::io::Error),
    /// The bundle endpoint cannot be served.
    #[error("cannot serve the bundle endpoint")]
    BundleEndpoint(#[source] EndpointError),
    /// A mistake in this program.
    #[error("cannot configure TLS")]
    Tls(#[source] ConfigError),
}

impl Server {
    /// Starts the server; its tasks belong to `tasks`.
    ///
    /// # Errors
    ///
    /// [`StartError`] says which step failed. Nothing is left running.
    pub async fn start(config: Config, deps: Deps, tasks: &mut Supervisor) -> Result<Running, StartError> {
        let doubt = Arc::new(Doubt::default());
        let deps = Deps { store: Arc::new(Circuit::new(deps.store.clone(), doubt.clone())), ..deps };
        let file = saved::file(&config.data_dir, &*deps.keys);
        let (store, acceptance) = (&*deps.store, Acceptance::new(&config.data_dir));
        let sources = Sources { store, file: file.as_ref(), acceptance, doubt: &doubt, clock: &deps.clock };
        let first = first_state::find(sources).await.map_err(StartError::Store)?;
        let model = Arc::new(ReadModel::with_doubt(first.snapshot, doubt));
        let agents = Arc::new(open_agents(&config, &deps, &model)?);
        let issuer = Arc::new(Issuer::new(&config, deps.clock.clone(), &deps.metrics));
        let confirmed = Arc::new(Confirmed::new(first.confirmed_at));
        start_feed(&deps, (&model, &agents, &confirmed), first.stale, tasks);
        let (own, roots) = (SvidCell::empty(), RootsCell::default());
        let upstream = upstream::open(&config, &deps, tasks)?;
        let shared = Arc::new(authority_shared(&config, &deps, (&model, &issuer), upstream));
        let authorities =
            Authorities::load(shared.clone(), &first.journals, own.clone(), roots.clone()).await;
        let authorities = authorities.map_err(StartError::Authorities)?;
        let server_key = authorities.server_key().to_owned();
        if let Some(file) = file {
            let journal = shared.own_journal.clone();
            let (store, confirmed) = (deps.store.clone(), confirmed.clone());
            let saving = Saving { file, model: model.clone(), journal, confirmed, store };
            tasks.start("last good state", |cancel| infallible(saving.run(cancel)));
        }

        let auth = ClientAuth::Lenient(roots.clone(), clients(&config), RENEWAL_GRACE);
        let key_exchange = config.admission.key_exchange;
        let tls =
            server_config_with(key_exchange, &own, auth, deps.clock.clone()).map_err(StartError::Tls)?;
        let tcp =
            TlsListener::bind_on(&deps.network, config.tcp_address, Arc::new(tls), tls::Limits::default())
                .await;
        let tcp = tcp.map_err(StartError::Tcp)?;
        let tcp = tcp.with_balancers(Balancers::new(config.admission.balancers.clone()));
        let tcp_address = tcp.local_addr().map_err(StartError::Address)?;
        let admin = UnixListener::bind_on(&deps.network, &config.admin_socket, ADMIN_MODE, ADMIN_DIR_MODE);
        let admin = admin.map_err(StartError::AdminSocket)?;

        let bundle_endpoint = start_bundle_endpoint(&config, &deps, (&model, &own), tasks).await?;

        let (health, health_routes) = health::service(&deps.readiness);
        let parts = Parts {
            config: &config,
            deps: &deps,
            model: &model,
            agents: &agents,
            issuer: &issuer,
            authorities: authorities.control(),
            publisher: JwtPublisher::new(shared),
            own: &own,
            refresher: start_federation(&config, &deps, &model, tasks),
            revisions: start_revisions(&config, &deps, &model, tasks),
        };
        let routes = parts.api(health_routes);
        let (readiness, entropy) = (deps.readiness.token("server.ca"), deps.entropy.fork("authorities"));
        tasks.start("authorities", |cancel| infallible(authorities.run(readiness, entropy, cancel)));
        tasks.start("health", |cancel| infallible(health.run(cancel)));
        start_chores(&config, &deps, (&model, &agents, &server_key), tasks);
        start_publishers(&config, &deps, (&model, &confirmed, &server_key), tasks);
        let entropy = deps.entropy.fork("tcp");
        let tcp_routes = routes.clone();
        info!(address = %tcp_address, network = "tcp", "Starting Server APIs");
        tasks.start("agent API", |cancel| serve(tcp, tcp_routes, cancel, for_agents(), entropy));
        let entropy = deps.entropy.fork("admin");
        info!(address = %config.admin_socket.display(), network = "unix", "Starting Server APIs");
        tasks.start("admin API", |cancel| serve(admin, routes, cancel, Options::unix(), entropy));
        started(&config, &deps.metrics);
        let (trust_domain, admin_socket) = (config.trust_domain, config.admin_socket);
        Ok(Running { tcp_address, admin_socket, bundle_endpoint, own, roots, trust_domain, model, agents })
    }
}

impl Running {
    /// The trust bundle as it is now.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        let held = self.model.load().bundles.get(&self.trust_domain).cloned();
        held.map_or_else(|| Bundle::new(self.trust_domain.clone()), |bundle| Bundle::clone(&bundle))
    }

    /// How many entries and agents there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let snapshot = self.model.load();
        (snapshot.entries.len(), snapshot.agents.len() + self.agents.new_ids().len())
    }
}

async fn serve<L: vouchsafe_transport::listener::Listener>(
    listener: L,
    routes: Api,
    cancel: CancellationToken,
    options: Options,
    entropy: Entropy,
) -> Result<(), std::convert::Infallible> {
    let drained = grpc::serve(listener, routes, cancel, options, entropy).await;
    info!(open = drained.open, cut = drained.cut, "Server APIs have stopped");
    Ok(())
}

pub(crate) async fn infallible(task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    task.await;
    Ok(())
}

fn started(config: &Config, metrics: &Metrics) {
    let trust_domain = sanitize(config.trust_domain.as_str());
    let version = sanitize(config.version);
    metrics.gauge("started", &[("version", &version), ("trust_domain_id", &trust_domain)]).set(1.0);
}

/// How connections of agents are served.
fn for_agents() -> Options {
    let (age, most) = (Some(MAX_CONNECTION_AGE), MAX_CONNECTIONS);
    Options { max_connection_age: age, max_connections: most, ..Options::default() }
}

/// Connections live this long, so that agents spread over servers that are added.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(180);
/// Of agents and others on the network: one from each agent, a second one for a moment when the first gets too old.
const MAX_CONNECTIONS: usize = 16_384;
/// The group may administer.
const ADMIN_MODE: u32 = 0o770;
const ADMIN_DIR_MODE: u32 = 0o750;
