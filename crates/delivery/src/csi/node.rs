//! The services of CSI that a node driver has, and which requests are refused.

use std::fmt;
use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use vouchsafe_proto::csi::v1 as csi;
use vouchsafe_proto::csi::v1::identity_server::Identity;
use vouchsafe_proto::csi::v1::node_server;
use vouchsafe_proto::csi::v1::node_service_capability::rpc::Type as Capability;
use vouchsafe_proto::csi::v1::volume_capability::AccessType;
use vouchsafe_proto::csi::v1::volume_capability::access_mode::Mode;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::chain::Chain;
use vouchsafe_runtime::class::Class;

use super::mounts::Mounts;
use super::volumes::{Condition, Done, VolumeError, Volumes};

/// The service `csi.v1.Identity`.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// The driver's name.
    pub name: String,
    /// Its version.
    pub version: &'static str,
}

#[tonic::async_trait]
impl Identity for Plugin {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        let (name, vendor_version) = (self.name.clone(), self.version.to_owned());
        Ok(Response::new(csi::GetPluginInfoResponse { name, vendor_version }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {}))
    }

    /// Ready as soon as it answers: an agent that is away is told when a volume is published, and is no reason to restart.
    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}

/// The service `csi.v1.Node`.
pub struct Node<M> {
    node_id: String,
    volumes: Arc<Volumes<M>>,
}

impl<M: Mounts> Node<M> {
    /// For the node `node_id`.
    #[must_use]
    pub fn new(node_id: String, volumes: Arc<Volumes<M>>) -> Self {
        Self { node_id, volumes }
    }

    /// Does `work` where it holds up nobody.
    async fn on_volumes<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volumes<M>) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, Status> {
        let volumes = Arc::clone(&self.volumes);
        let done = blocking::run(move || work(&volumes)).await;
        let done = done.map_err(|_| Status::internal("the driver failed while it looked at the volume"))?;
        done.map_err(|error| Status::new(code(&error), Chain(&error).to_string()))
    }
}

impl<M> fmt::Debug for Node<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl<M: Mounts> node_server::Node for Node<M> {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let path = request.target_path.clone();
        let published = match check_publish(&request) {
            Ok(()) => self.on_volumes(move |volumes| volumes.publish(&path)).await,
            Err(reason) => Err(Status::invalid_argument(reason)),
        };
        let of_pod =
            |key: &str| request.volume_context.get(key).map_or("", |value| bounded(value)).to_owned();
        let (namespace, pod) =
            (of_pod("csi.storage.k8s.io/pod.namespace"), of_pod("csi.storage.k8s.io/pod.name"));
        let (volume_id, target_path) = (bounded(&request.volume_id), bounded(&request.target_path));
        match &published {
            Ok(Done::Changed) => tracing::info!(volume_id, target_path, namespace, pod, "Volume published"),
            Ok(Done::Already) => {
                tracing::debug!(volume_id, target_path, namespace, pod, "Volume was published already")
            }
            Err(status) => tracing::error!(
                volume_id,
                target_path,
                namespace,
                pod,
                error = status.message(),
                "Failed to publish volume"
            ),
        }
        published.map(|_| Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let path = request.target_path.clone();
        let ended = match check_names(&request.volume_id, &request.target_path, "target path") {
            Ok(()) => self.on_volumes(move |volumes| volumes.unpublish(&path)).await,
            Err(reason) => Err(Status::invalid_argument(reason)),
        };
        let (volume_id, target_path) = (bounded(&request.volume_id), bounded(&request.target_path));
        match &ended {
            Ok(Done::Changed) => tracing::info!(volume_id, target_path, "Volume unpublished"),
            Ok(Done::Already) => tracing::debug!(volume_id, target_path, "Volume was not there"),
            Err(status) => {
                tracing::error!(
                    volume_id,
                    target_path,
                    error = status.message(),
                    "Failed to unpublish volume"
                );
            }
        }
        ended.map(|_| Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let csi::NodeGetVolumeStatsRequest { volume_id, volume_path } = request.into_inner();
        check_names(&volume_id, &volume_path, "volume path").map_err(Status::invalid_argument)?;
        let path = volume_path.clone();
        let condition = self.on_volumes(move |volumes| volumes.condition(&path)).await?;
        let condition =
            condition.ok_or_else(|| Status::not_found("there is no volume at the volume path"))?;
        let condition = match condition {
            Condition::Good => csi::VolumeCondition { abnormal: false, message: "mounted".to_owned() },
            Condition::Abnormal(message) => {
                tracing::warn!(volume_id, volume_path, reason = message, "Volume is abnormal");
                csi::VolumeCondition { abnormal: true, message }
            }
        };
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { volume_condition: Some(condition) }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: Capability| csi::NodeServiceCapability {
            r#type: Some(csi::node_service_capability::Type::Rpc(csi::node_service_capability::Rpc {
                r#type: kind.into(),
            })),
        };
        let capabilities =
            vec![capability(Capability::VolumeCondition), capability(Capability::GetVolumeStats)];
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let node_id = self.node_id.clone();
        Ok(Response::new(csi::NodeGetInfoResponse { node_id, max_volumes_per_node: 0 }))
    }
}

/// What is wrong with a request to publish, if anything.
fn check_publish(request: &csi::NodePublishVolumeRequest) -> Result<(), &'static str> {
    check_names(&request.volume_id, &request.target_path, "target path")?;
    let capability = request.volume_capability.as_ref().ok_or("the request has no volume capability")?;
    match capability.access_type.as_ref().ok_or("the volume capability has no access type")? {
        AccessType::Block(_) => {
            return Err("the volume is a directory: its access type must be mount, not block");
        }
        AccessType::Mount(mount) if !mount.fs_type.is_empty() || !mount.mount_flags.is_empty() => {
            return Err("the volume takes neither a file system type nor mount flags");
        }
        AccessType::Mount(_) => {}
    }
    let mode = capability.access_mode.as_ref().ok_or("the volume capability has no access mode")?.mode;
    if mode == i32::from(Mode::SingleNodeReaderOnly) {
        return Err("the access mode SINGLE_NODE_READER_ONLY is not for ephemeral volumes");
    }
    if !request.readonly {
        return Err("set readOnly: true in the Pod's csi volume: nobody may put another socket there");
    }
    if request.volume_context.get(EPHEMERAL).map(String::as_str) != Some("true") {
        return Err("only ephemeral volumes are served: declare the volume in the Pod, under csi");
    }
    Ok(())
}

fn check_names(volume_id: &str, path: &str, kind: &str) -> Result<(), &'static str> {
    match (volume_id.is_empty(), path.is_empty()) {
        (true, _) => Err("the request has no volume id"),
        (false, true) if kind == "volume path" => Err("the request has no volume path"),
        (false, true) => Err("the request has no target path"),
        _ if volume_id.len() > MAX_VOLUME_ID => Err("the volume id is too long"),
        _ => Ok(()),
    }
}

fn code(error: &VolumeError) -> Code {
    match error.class() {
        Class::Caller | Class::Peer => Code::InvalidArgument,
        Class::Transient => Code::FailedPrecondition,
        Class::Permanent | Class::Bug => Code::Internal,
    }
}

/// The beginning of what a peer sent, for a log.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_LOGGED);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What the kubelet says in a volume's context about volumes that are declared in a Pod.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// Longest volume id; CSI allows 128 bytes.
const MAX_VOLUME_ID: usize = 128;
/// Longest value in a log line.
const MAX_LOGGED: usize = 512;
