//! `csi run`.

use std::convert::Infallible;

use vouchsafe_delivery::csi::mounts::KernelMounts;
use vouchsafe_delivery::csi::{Driver, Settings};
use vouchsafe_transport::http::Pages;

use super::{Host, http, oidc};
use crate::config::LogConfig;

/// Everything that a CSI driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiConfig {
    /// The driver's own settings.
    pub settings: Settings,
    /// Port of `/live` and `/ready`.
    pub health_port: Option<u16>,
    /// Logs.
    pub log: LogConfig,
}

pub(super) async fn run(config: CsiConfig) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &[])?;
    let settings = config.settings;
    tracing::info!(
        version = settings.version,
        node_id = settings.node_id,
        workload_api_socket_dir = %settings.workload_api_dir.display(),
        csi_socket_path = %settings.socket.display(),
        "Starting the CSI driver"
    );
    let serves = host.readiness.token("csi");
    let registered = settings.registration.is_some().then(|| host.readiness.token("registration"));
    let driver = Driver::bind(&settings, KernelMounts, registered)?;
    serves.mark();
    if let Some(port) = config.health_port {
        let pages = Pages::new().with_health(host.readiness.clone(), "/live", "/ready");
        http::serve(&mut host, oidc::every_address().await, port, "health checks", pages).await?;
    }
    let entropy = host.entropy.fork("csi");
    host.tasks.start("csi", |cancel| async move {
        driver.serve(cancel, entropy).await;
        Ok::<_, Infallible>(())
    });
    host.run().await
}
