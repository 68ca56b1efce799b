//! The CSI node driver: gives Pods the directory of the Workload API's socket as an ephemeral volume.
//!
//! It takes the place of spiffe-csi-driver and of the node-driver-registrar beside it. What it does otherwise:
//!
//! * a volume that is published twice is mounted once; one that lacks its mount, or shows a directory that is not the
//!   Workload API's any more, gets a new mount at the next publishing;
//! * the mount is read-only, without devices, programs and set-user-ID;
//! * unpublishing what is not there succeeds;
//! * statistics of a volume that does not exist are refused, and one that shows a directory of the past is abnormal.
//!
//! * [`node`]         the services, and which requests are refused
//! * [`volumes`]      what is done for a request, decided on what is found
//! * [`target`]       a path from the kubelet, walked without following links
//! * [`mounts`]       the kernel's mounts, behind a trait
//! * [`registration`] tells the kubelet about the driver

pub mod mounts;
pub mod node;
pub mod registration;
pub mod target;
pub mod volumes;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use vouchsafe_proto::csi::v1::identity_server::IdentityServer;
use vouchsafe_proto::csi::v1::node_server::NodeServer;
use vouchsafe_proto::kubelet::pluginregistration::registration_server::RegistrationServer;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::readiness::Token;
use vouchsafe_transport::grpc::{self, Options};
use vouchsafe_transport::unix::{self, UnixListener};

use self::mounts::Mounts;
use self::node::{Node, Plugin};
use self::registration::Registrar;
use self::volumes::Volumes;

/// What a driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the Kubernetes node.
    pub node_id: String,
    /// The name of the driver, as in the `CSIDriver` object and in the Pods.
    pub plugin_name: String,
    /// The version that it says it has.
    pub version: &'static str,
    /// The directory that Pods get, with the Workload API's socket in it.
    pub workload_api_dir: PathBuf,
    /// The kubelet's directory `pods`. If it is given, nothing is mounted or unmounted but volumes of Pods below it.
    pub pods_dir: Option<PathBuf>,
    /// Where the kubelet calls us.
    pub socket: PathBuf,
    /// How we tell the kubelet that we are here. `None`: somebody else does, as with the stock driver.
    pub registration: Option<RegistrationSettings>,
}

/// How the kubelet is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationSettings {
    /// The kubelet's directory of registration sockets, as we see it.
    pub folder: PathBuf,
    /// [`Settings::socket`] as the kubelet sees it.
    pub endpoint: PathBuf,
}

/// A driver with its sockets bound.
#[derive(Debug)]
pub struct Driver {
    csi: UnixListener,
    registration: Option<UnixListener>,
    routes: Routes,
    registrar: Option<Registrar>,
}

impl Driver {
    /// Binds the sockets. `registered` is marked once the kubelet has taken us.
    ///
    /// # Errors
    ///
    /// A socket that cannot be bound, by name.
    pub fn bind(
        settings: &Settings,
        mounts: impl Mounts,
        registered: Option<Token>,
    ) -> Result<Self, unix::Error> {
        let csi = UnixListener::bind(&settings.socket, SOCKET_MODE, FOLDER_MODE)?.from_anywhere();
        let (registration, registrar) = match &settings.registration {
            Some(place) => {
                let socket = place.folder.join(format!("{}-reg.sock", settings.plugin_name));
                let listener = UnixListener::bind(&socket, SOCKET_MODE, FOLDER_MODE)?.from_anywhere();
                (
                    Some(listener),
                    Some(Registrar::new(settings.plugin_name.clone(), place.endpoint.clone(), registered)),
                )
            }
            None => (None, None),
        };
        let plugin = Plugin { name: settings.plugin_name.clone(), version: settings.version };
        let volumes = Volumes::new(settings.workload_api_dir.clone(), mounts);
        let volumes = Arc::new(volumes.within(settings.pods_dir.clone()));
        let node = NodeServer::new(Node::new(settings.node_id.clone(), volumes));
        let routes = Routes::new(IdentityServer::new(plugin).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(node.max_decoding_message_size(MAX_REQUEST_BYTES));
        Ok(Self { csi, registration, routes, registrar })
    }

    /// Serves until `cancel`, then drains.
    pub async fn serve(self, cancel: CancellationToken, entropy: Entropy) {
        let csi = grpc::serve(self.csi, self.routes, cancel.clone(), options(), entropy.fork("csi"));
        let registration = async {
            if let (Some(listener), Some(registrar)) = (self.registration, self.registrar) {
                let server = RegistrationServer::new(registrar).max_decoding_message_size(MAX_REQUEST_BYTES);
                grpc::serve(listener, Routes::new(server), cancel, options(), entropy.fork("registration"))
                    .await;
            }
        };
        tokio::join!(csi, registration);
    }
}

/// The kubelet is one process with a connection per call.
fn options() -> Options {
    Options { max_connections: 64, max_connections_per_peer: 64, ..Options::unix() }
}

/// Only root may connect: whoever may can have directories mounted.
const SOCKET_MODE: u32 = 0o600;
/// Of a directory that is missing.
const FOLDER_MODE: u32 = 0o750;
/// Largest request that is read: the volume's context has tokens of the Pod's service account where those are asked for.
const MAX_REQUEST_BYTES: usize = 256 * 1024;
