//! The admin API, on a socket of its own: off unless configured, for processes that the operator lets open it.
//!
//! | service | methods | for |
//! |---|---|---|
//! | `spire.agent.debug.v1.Debug` | `GetInfo` | whoever may open the socket |
//! | `spire.api.agent.logger.v1.Logger` | `GetLogger`, `SetLogLevel`, `ResetLogLevel` | whoever may open the socket |
//! | `vouchsafe.agent.v1.Explain` | `Explain` | as on the Workload API's socket ([`crate::explain`]) |
//! | `spire.api.agent.delegatedidentity.v1.DelegatedIdentity` | `SubscribeToX509SVIDs`, `SubscribeToX509Bundles`, `FetchJWTSVIDs`, `SubscribeToJWTBundles` | delegates: processes whose own identity the operator named |
//!
//! * [`debug`]      what the agent is doing
//! * [`logger`]     the level of the log
//! * [`delegate`]   who is a delegate, and whom it asks for
//! * [`delegated`]  what a delegate gets
//!
//! What is served comes from the same snapshot, identity sets and attestors as on the Workload API's socket.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceBuilder;
use tracing::info;
use vouchsafe_proto::spire::agent::debug::v1::debug_server::DebugServer;
use vouchsafe_proto::spire::api::agent::logger::v1::logger_server::LoggerServer;
use vouchsafe_proto::vouchsafe::agent::v1::explain_server::ExplainServer;
use vouchsafe_transport::grpc;
use vouchsafe_transport::net::Network;
use vouchsafe_transport::rpc_metrics::RpcMetrics;
use vouchsafe_transport::unix::{self, UnixListener};

use crate::callers::CallerListener;
use crate::config::Deps;
use crate::explain::service::{EXPLAIN, Explainer};
use crate::metrics::Metrics;
use crate::workload_api::request::Api;
use debug::Debug;
use delegate::Delegates;
use delegated::DelegatedIdentity;
use logger::Logger;

pub mod debug;
pub mod delegate;
pub mod delegated;
pub mod logger;
pub mod open_rpc;

/// Settings of the admin API.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AdminConfig {
    /// The admin socket. `None`: there is none.
    pub socket_path: Option<PathBuf>,
    /// SPIFFE IDs whose holders may ask for the identities of other processes.
    pub authorized_delegates: HashSet<String>,
}

/// The services of the admin socket.
#[derive(Debug)]
pub struct Admin {
    debug: Debug,
    logger: Logger,
    delegated: DelegatedIdentity,
    explain: Arc<Explainer>,
}

impl Admin {
    /// Over the agent's state.
    #[must_use]
    pub fn new(
        (api, explain): (Arc<Api>, Arc<Explainer>),
        config: &AdminConfig,
        debug: Debug,
        deps: &Deps,
    ) -> Self {
        let metrics = Metrics::new(deps.registry.clone());
        let delegates = Delegates::new(api, config.authorized_delegates.clone());
        Self {
            debug,
            logger: Logger::new(deps.log_level.clone(), &metrics),
            delegated: DelegatedIdentity::new(delegates, &metrics),
            explain,
        }
    }

    /// Serves until `cancel`.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn serve(
        self,
        listener: UnixListener,
        deps: Deps,
        cancel: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let routes = Routes::new(DebugServer::new(self.debug))
            .add_service(LoggerServer::new(self.logger))
            .add_service(self.delegated)
            .add_service(ExplainServer::from_arc(self.explain))
            .prepare();
        let counted = RpcMetrics::new(deps.registry.clone());
        counted.announce(METHODS);
        let service = ServiceBuilder::new().layer(counted).service(routes);
        info!(network = "unix", address = %listener.path().display(), "Starting Admin APIs");
        let entropy = deps.entropy.fork("admin-api");
        let drained =
            grpc::serve(CallerListener(listener), service, cancel, grpc::Options::unix(), entropy).await;
        info!(open = drained.open, cut = drained.cut, "Admin APIs have stopped");
        Ok(())
    }
}

/// Listens on the admin socket, if there is to be one.
///
/// # Errors
///
/// The path cannot be listened on.
pub fn bind(config: &AdminConfig, network: &Network) -> Result<Option<UnixListener>, unix::Error> {
    let bind = |path| UnixListener::bind_on(network, path, SOCKET_MODE, SOCKET_DIR_MODE);
    config.socket_path.as_deref().map(bind).transpose()
}

/// Who may open the socket may ask, so it is for its owner and group only.
pub const SOCKET_MODE: u32 = 0o770;

/// Of the directory, where it is missing.
pub const SOCKET_DIR_MODE: u32 = 0o750;

/// Counted from their first call.
const METHODS: [&str; 9] = [
    "/spire.agent.debug.v1.Debug/GetInfo",
    "/spire.api.agent.logger.v1.Logger/GetLogger",
    "/spire.api.agent.logger.v1.Logger/SetLogLevel",
    "/spire.api.agent.logger.v1.Logger/ResetLogLevel",
    delegated::SUBSCRIBE_TO_X509_SVIDS,
    delegated::SUBSCRIBE_TO_X509_BUNDLES,
    delegated::FETCH_JWT_SVIDS,
    delegated::SUBSCRIBE_TO_JWT_BUNDLES,
    EXPLAIN,
];
