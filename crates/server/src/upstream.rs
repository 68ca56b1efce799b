//! The authority above this server, as the configuration names it.

mod nested;
mod workload;

use std::sync::Arc;

use tracing::warn;
use vouchsafe_ca::upstream::{Disk, UpstreamAuthority};
use vouchsafe_runtime::supervisor::Supervisor;

use crate::config::{Config, Upstream, UpstreamServer};
use crate::server::{Deps, StartError, infallible};
use nested::NestedServer;
use workload::WorkloadSvid;

/// Opens the upstream authority and starts what keeps it current.
///
/// # Errors
///
/// [`StartError::UpstreamFiles`]; another server is not contacted yet.
pub(crate) fn open(
    config: &Config,
    deps: &Deps,
    tasks: &mut Supervisor,
) -> Result<Option<Arc<dyn UpstreamAuthority>>, StartError> {
    match &config.upstream {
        Upstream::None => Ok(None),
        Upstream::Disk(files) => {
            let disk = Disk::open(files.clone(), config.trust_domain.clone());
            Ok(Some(Arc::new(disk.map_err(StartError::UpstreamFiles)?)))
        }
        Upstream::Spire(server) => Ok(Some(nested(server, config, deps, tasks))),
    }
}

fn nested(
    server: &UpstreamServer,
    config: &Config,
    deps: &Deps,
    tasks: &mut Supervisor,
) -> Arc<dyn UpstreamAuthority> {
    let source = WorkloadSvid::new(server.workload_api_socket.clone(), config.trust_domain.clone());
    let nested = Arc::new(NestedServer::new(server, source.clone(), deps.clock.clone()));
    let entropy = deps.entropy.fork("upstream SVID");
    tasks.start("upstream SVID", |cancel| infallible(source.run(entropy, cancel)));
    let (entropy, poll) = (deps.entropy.fork("upstream bundle"), nested.clone());
    tasks.start("upstream bundle", |cancel| infallible(poll.poll(entropy, cancel)));
    nested
}

/// Warns once for each time that something begins to fail, not at each attempt.
struct Trouble {
    what: &'static str,
    is_known: bool,
}

impl Trouble {
    fn new(what: &'static str) -> Self {
        Self { what, is_known: false }
    }

    fn failed(&mut self, error: &dyn std::error::Error) {
        let error = crate::status::Chain(error).to_string();
        match std::mem::replace(&mut self.is_known, true) {
            false => warn!(error, "{}", self.what),
            true => tracing::debug!(error, "{}", self.what),
        }
    }

    fn ended(&mut self) {
        self.is_known = false;
    }
}
