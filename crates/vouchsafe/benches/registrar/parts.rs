//! The memory of a server, an agent, a CSI driver and a file writer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;
use vouchsafe_proto::csi::v1 as csi;
use vouchsafe_proto::csi::v1::node_client::NodeClient;
use vouchsafe_proto::csi::v1::volume_capability::access_mode::Mode;
use vouchsafe_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use vouchsafe_transport::connect::uds_channel;

use crate::Peer;
use crate::client::{entry, this_user};
use crate::process::{Process, Resident};
use crate::world::{NODE, World, eventually};

/// Resident memory.
pub(crate) struct Parts {
    pub(crate) server: Resident,
    pub(crate) agent: Resident,
    pub(crate) helper: Resident,
    pub(crate) csi_idle: Resident,
    /// With [`VOLUMES`] mounted.
    pub(crate) csi: Resident,
}

pub(crate) async fn measure(peer: &Peer) -> Parts {
    let mut world = World::server(&peer.side).await.with_agent("").await;
    world.admin().await.create(vec![entry(NODE, "web", this_user())]).await;
    let agent_folder = world.workload_socket().parent().unwrap().to_owned();
    let folder = tempfile::Builder::new().prefix("vb").tempdir_in("/tmp").unwrap();
    let socket = folder.path().join("csi.sock");
    let mut command = peer.csi_driver();
    command.args(["-node-id", "node-1", "-workload-api-socket-dir"]).arg(agent_folder);
    command.arg("-csi-socket-path").arg(&socket);
    let mut driver = Process::start(command, &folder.path().join("csi.log"));
    eventually("the driver's socket (this needs root)", async || {
        driver.must_run();
        socket.exists().then_some(())
    })
    .await;
    let helper = start_helper(peer, &world).await;
    sleep(SETTLE).await;
    let csi_idle = driver.resident();
    let mut node = NodeClient::new(uds_channel(&socket).await.unwrap());
    for number in 0..VOLUMES {
        let target = folder.path().join(format!("volume-{number}"));
        node.node_publish_volume(publish_request(number, &target)).await.unwrap();
    }
    for number in 0..VOLUMES {
        let volume_path = folder.path().join(format!("volume-{number}")).display().to_string();
        let request = csi::NodeGetVolumeStatsRequest { volume_id: volume_id(number), volume_path };
        let stats = node.node_get_volume_stats(request).await.unwrap().into_inner();
        assert!(!stats.volume_condition.unwrap().abnormal, "volume {number}");
    }
    sleep(SETTLE).await;
    world.server.must_run();
    eprintln!("{}: {VOLUMES} volumes mounted", peer.name);
    Parts {
        server: world.server.resident(),
        agent: world.agent().resident(),
        helper: helper.resident(),
        csi_idle,
        csi: driver.resident(),
    }
}

/// Starts a file writer and waits until its files are there.
async fn start_helper(peer: &Peer, world: &World) -> Process {
    let files = world.path("files");
    fs::create_dir(&files).unwrap();
    let config = world.path("helper.conf");
    let text = format!(
        "agent_address = \"{}\"\ncert_dir = \"{}\"\ndaemon_mode = true\nsvid_file_name = \"svid.pem\"\n\
         svid_key_file_name = \"svid_key.pem\"\nsvid_bundle_file_name = \"svid_bundle.pem\"\n",
        world.workload_socket().display(),
        files.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = peer.helper();
    command.arg("-config").arg(config);
    let mut helper = Process::start(command, &world.path("helper.log"));
    eventually("the files", async || {
        helper.must_run();
        files.join("svid.pem").exists().then_some(())
    })
    .await;
    helper
}

/// What a kubelet sends.
fn publish_request(number: usize, target: &Path) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: volume_id(number),
        target_path: target.display().to_string(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        readonly: true,
        volume_context: [("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned())].into(),
    }
}

fn volume_id(number: usize) -> String {
    format!("csi-{number}")
}

/// As many as a node has Pods.
pub(crate) const VOLUMES: usize = 100;
const SETTLE: Duration = Duration::from_secs(12);
