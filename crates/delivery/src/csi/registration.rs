//! Tells the kubelet about the driver.
//!
//! The kubelet connects to every socket in its registration directory, asks who is there, then talks to the driver itself,
//! and reports what came of it. It looks again when a socket appears and when it starts. Upstream this is the work of a
//! program of its own, node-driver-registrar.

use std::path::PathBuf;

use tonic::{Request, Response, Status};
use vouchsafe_proto::kubelet::pluginregistration::registration_server::Registration;
use vouchsafe_proto::kubelet::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use vouchsafe_runtime::readiness::Token;

/// The service `pluginregistration.Registration`.
#[derive(Debug)]
pub struct Registrar {
    name: String,
    endpoint: PathBuf,
    registered: Option<Token>,
}

impl Registrar {
    /// For the driver `name` at `endpoint`.
    #[must_use]
    pub fn new(name: String, endpoint: PathBuf, registered: Option<Token>) -> Self {
        Self { name, endpoint, registered }
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.name.clone(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!(name = self.name, "The kubelet registered the driver");
            if let Some(registered) = &self.registered {
                registered.mark();
            }
        } else {
            tracing::error!(name = self.name, error, "The kubelet did not register the driver");
            if let Some(registered) = &self.registered {
                registered.degrade(&format!("the kubelet did not register the driver: {error}"));
            }
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
