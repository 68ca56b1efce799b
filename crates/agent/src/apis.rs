//! What is served on the socket that every process may open.

use std::sync::Arc;

use tonic::service::Routes;
use vouchsafe_proto::vouchsafe::agent::v1::explain_server::ExplainServer;

use crate::config::Config;
use crate::explain::service::{EXPLAIN, Explainer};
use crate::metrics::Metrics;
use crate::sds::{self, SecretDiscovery};
use crate::workload_api::WorkloadApi;
use crate::workload_api::request::{Api, Connections};

/// The APIs that are not turned off.
#[derive(Debug)]
pub struct Apis {
    workload: Option<WorkloadApi>,
    sds: Option<SecretDiscovery>,
    explain: Arc<Explainer>,
}

impl Apis {
    /// As `config` says, over `api`.
    #[must_use]
    pub fn new(api: &Arc<Api>, explain: &Arc<Explainer>, config: &Config, metrics: &Metrics) -> Self {
        let sds = || {
            let connections = Connections::new(metrics.sds_api_connections());
            SecretDiscovery::new(Arc::clone(api), config.sds.clone(), connections)
        };
        Self {
            workload: (!config.disable_workload_api).then(|| WorkloadApi::new(Arc::clone(api))),
            sds: (!config.disable_sds_api).then(sds),
            explain: Arc::clone(explain),
        }
    }

    /// Adds them to what is served.
    #[must_use]
    pub fn add_to(&self, mut routes: Routes) -> Routes {
        if let Some(workload) = &self.workload {
            routes = routes.add_service(workload.clone());
        }
        if let Some(sds) = &self.sds {
            routes = routes.add_service(sds.clone());
        }
        routes.add_service(ExplainServer::from_arc(Arc::clone(&self.explain)))
    }

    /// What they are called in the log.
    #[must_use]
    pub fn names(&self) -> &'static str {
        match (&self.workload, &self.sds) {
            (Some(_), Some(_)) => "Workload and SDS APIs",
            (None, Some(_)) => "SDS API",
            (Some(_), None) => "Workload API",
            (None, None) => "no APIs",
        }
    }

    /// Their methods, counted from the first call.
    pub fn methods(&self) -> impl Iterator<Item = &'static str> {
        let workload = self.workload.iter().flat_map(|_| WORKLOAD_METHODS);
        let sds = self.sds.iter().flat_map(|_| [sds::STREAM_SECRETS, sds::FETCH_SECRETS]);
        workload.chain(sds)
    }
}

/// What is served beside them.
pub const OTHER_METHODS: [&str; 2] = [EXPLAIN, "/grpc.health.v1.Health/Check"];

const WORKLOAD_METHODS: [&str; 5] = [
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
];
