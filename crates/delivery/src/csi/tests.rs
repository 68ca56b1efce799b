//! The driver over its socket, as the kubelet sees it. Mounting is a fake, because it takes root.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_proto::csi::v1 as csi;
use vouchsafe_proto::csi::v1::identity_client::IdentityClient;
use vouchsafe_proto::csi::v1::node_client::NodeClient;
use vouchsafe_proto::csi::v1::volume_capability::access_mode::Mode;
use vouchsafe_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use vouchsafe_proto::kubelet::pluginregistration::registration_client::RegistrationClient;
use vouchsafe_proto::kubelet::pluginregistration::{InfoRequest, RegistrationStatus};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_transport::connect::uds_channel;

use super::mounts::{Mounted, Mounts};
use super::target::{Directory, Target};
use super::volumes::{Condition, Done, VolumeError, Volumes};
use super::{Driver, RegistrationSettings, Settings};

/// Keeps a list of mounts and makes none.
#[derive(Clone, Default)]
struct FakeMounts(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What is mounted on each path, topmost last, by inode.
    stacks: BTreeMap<PathBuf, Vec<(u64, bool)>>,
    fail: bool,
}

impl FakeMounts {
    fn depth(&self, path: &Path) -> usize {
        self.0.lock().unwrap().stacks.get(path).map_or(0, Vec::len)
    }

    fn push(&self, path: &Path, read_only: bool) {
        self.0.lock().unwrap().stacks.entry(path.to_owned()).or_default().push((0, read_only));
    }
}

impl Mounts for FakeMounts {
    fn mounted(&self, target: &Target, _: &Directory) -> io::Result<Option<Mounted>> {
        let state = self.0.lock().unwrap();
        let top = state.stacks.get(target.path()).and_then(|stack| stack.last());
        Ok(top.map(|(_, read_only)| Mounted { read_only: *read_only }))
    }

    fn bind(&self, source: &Directory, target: &Target) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.fail {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let inode = fs::metadata(source.pinned())?.ino();
        state.stacks.entry(target.path().to_owned()).or_default().push((inode, true));
        Ok(())
    }

    fn unmount(&self, target: &Target) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let stack = state.stacks.get_mut(target.path()).ok_or(io::ErrorKind::InvalidInput)?;
        stack.pop().map(drop).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// A driver on a socket.
struct World {
    folder: TempDir,
    mounts: FakeMounts,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    readiness: Readiness,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("agent")).unwrap();
        fs::create_dir_all(path.join("pods")).unwrap();
        let mounts = FakeMounts::default();
        let readiness = Readiness::new(Clock::derived(SystemTime::UNIX_EPOCH));
        let settings = Settings {
            node_id: "node-1".to_owned(),
            plugin_name: "csi.spiffe.io".to_owned(),
            version: "1.2.3",
            workload_api_dir: path.join("agent"),
            pods_dir: None,
            socket: path.join("csi.sock"),
            registration: Some(RegistrationSettings {
                folder: path.join("registry"),
                endpoint: "/var/lib/kubelet/plugins/csi.spiffe.io/csi.sock".into(),
            }),
        };
        let token = readiness.token("registration");
        let driver = Driver::bind(&settings, mounts.clone(), Some(token)).unwrap();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.serve(cancel.clone(), Entropy::from_seed(1)));
        Self { folder, mounts, cancel, tasks, readiness }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    async fn channel(&self, socket: &str) -> Channel {
        uds_channel(&self.path(socket)).await.unwrap()
    }

    async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel("csi.sock").await)
    }

    fn request(&self) -> csi::NodePublishVolumeRequest {
        let access_type = AccessType::Mount(MountVolume::default());
        let context = [("csi.storage.k8s.io/ephemeral", "true"), ("csi.storage.k8s.io/pod.name", "web")];
        csi::NodePublishVolumeRequest {
            volume_id: "csi-1".to_owned(),
            target_path: self.path("pods/mount").display().to_string(),
            volume_capability: Some(csi::VolumeCapability {
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
                access_type: Some(access_type),
            }),
            readonly: true,
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<(), Status> {
        self.node().await.node_publish_volume(request).await.map(drop)
    }

    async fn unpublish(&self, volume_id: &str, target_path: &str) -> Result<(), Status> {
        let (volume_id, target_path) = (volume_id.to_owned(), target_path.to_owned());
        let request = csi::NodeUnpublishVolumeRequest { volume_id, target_path };
        self.node().await.node_unpublish_volume(request).await.map(drop)
    }

    async fn stats(&self, volume_id: &str, volume_path: &str) -> Result<csi::VolumeCondition, Status> {
        let (volume_id, volume_path) = (volume_id.to_owned(), volume_path.to_owned());
        let request = csi::NodeGetVolumeStatsRequest { volume_id, volume_path };
        let answer = self.node().await.node_get_volume_stats(request).await?;
        Ok(answer.into_inner().volume_condition.unwrap())
    }

    async fn end(mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
        assert!(!self.path("csi.sock").exists());
    }
}

#[tokio::test]
async fn the_driver_says_who_it_is_and_what_it_can() {
    let world = World::start();
    let mut identity = IdentityClient::new(world.channel("csi.sock").await);
    let info = identity.get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.name.as_str(), info.vendor_version.as_str()), ("csi.spiffe.io", "1.2.3"));
    let probe = identity.probe(csi::ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(true));
    identity.get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {}).await.unwrap();
    let mut node = world.node().await;
    let info = node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 0));
    let can = node.node_get_capabilities(csi::NodeGetCapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(can.capabilities.len(), 2);
    world.end().await;
}

#[tokio::test]
async fn a_volume_comes_and_goes_however_often_it_is_asked_for() {
    let world = World::start();
    let target = world.path("pods/mount");
    for _ in 0..2 {
        world.publish(world.request()).await.unwrap();
        assert_eq!((target.is_dir(), world.mounts.depth(&target)), (true, 1));
    }
    let shown = target.to_str().unwrap().to_owned();
    for _ in 0..2 {
        world.unpublish("csi-1", &shown).await.unwrap();
        assert_eq!((target.exists(), world.mounts.depth(&target)), (false, 0));
    }
    world.unpublish("csi-1", "/nonexistent-folder/a/b").await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_nothing_is_mounted() {
    type Change = fn(&mut csi::NodePublishVolumeRequest);
    fn capability(request: &mut csi::NodePublishVolumeRequest) -> &mut csi::VolumeCapability {
        request.volume_capability.as_mut().unwrap()
    }
    let world = World::start();
    let changes: [(&str, Change); 15] = [
        ("volume id", |request| request.volume_id.clear()),
        ("volume id is too long", |request| request.volume_id = "x".repeat(129)),
        ("target path", |request| request.target_path.clear()),
        ("no volume capability", |request| request.volume_capability = None),
        ("no access type", |request| capability(request).access_type = None),
        ("not block", |request| capability(request).access_type = Some(AccessType::Block(BlockVolume {}))),
        ("file system type", |request| {
            let fs_type = "ext4".to_owned();
            capability(request).access_type =
                Some(AccessType::Mount(MountVolume { fs_type, ..MountVolume::default() }));
        }),
        ("mount flags", |request| {
            let mount_flags = vec!["rw".to_owned()];
            capability(request).access_type =
                Some(AccessType::Mount(MountVolume { mount_flags, ..MountVolume::default() }));
        }),
        ("no access mode", |request| capability(request).access_mode = None),
        ("SINGLE_NODE_READER_ONLY", |request| {
            capability(request).access_mode = Some(AccessMode { mode: Mode::SingleNodeReaderOnly.into() });
        }),
        ("readOnly: true", |request| request.readonly = false),
        ("only ephemeral", |request| request.volume_context = HashMap::new().into_iter().collect()),
        ("not absolute", |request| request.target_path = "pods/mount".to_owned()),
        (".. in it", |request| request.target_path.push_str("/../../x")),
        ("there is no directory", |request| request.target_path = "/nonexistent-folder/a/b".to_owned()),
    ];
    for (expected, change) in changes {
        let mut request = world.request();
        change(&mut request);
        let status = world.publish(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{expected}: {status}");
        assert!(status.message().contains(expected), "{expected}: {status}");
    }
    assert!(world.mounts.0.lock().unwrap().stacks.is_empty());
    assert!(!world.path("pods/mount").exists());
    for (volume_id, path) in [("", "/a"), ("csi-1", "")] {
        assert_eq!(world.unpublish(volume_id, path).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(world.stats(volume_id, path).await.unwrap_err().code(), Code::InvalidArgument);
    }
    world.end().await;
}

#[tokio::test]
async fn statistics_tell_a_good_volume_from_an_abnormal_one_and_from_none() {
    let world = World::start();
    let target = world.path("pods/mount");
    let shown = target.to_str().unwrap().to_owned();
    assert_eq!(world.stats("csi-1", &shown).await.unwrap_err().code(), Code::NotFound);
    world.publish(world.request()).await.unwrap();
    // The fake mounts nothing, so the target is a directory of its own, as after the agent's was made anew.
    let stale = world.stats("csi-1", &shown).await.unwrap();
    assert!(stale.abnormal && stale.message.contains("not the Workload API's any more"), "{stale:?}");
    world.mounts.0.lock().unwrap().stacks.clear();
    let lost = world.stats("csi-1", &shown).await.unwrap();
    assert!(lost.abnormal && lost.message.contains("nothing is mounted"), "{lost:?}");
    world.end().await;
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_told_and_the_next_attempt_succeeds() {
    let world = World::start();
    fs::remove_dir(world.path("agent")).unwrap();
    let status = world.publish(world.request()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("is an agent running on this node?"), "{status}");
    fs::create_dir(world.path("agent")).unwrap();
    world.mounts.0.lock().unwrap().fail = true;
    assert_eq!(world.publish(world.request()).await.unwrap_err().code(), Code::Internal);
    world.mounts.0.lock().unwrap().fail = false;
    world.publish(world.request()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn the_kubelet_learns_of_the_driver_and_readiness_of_the_kubelets_answer() {
    let world = World::start();
    let mut kubelet = RegistrationClient::new(world.channel("registry/csi.spiffe.io-reg.sock").await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.spiffe.io"));
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi.spiffe.io/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let refused = RegistrationStatus { plugin_registered: false, error: "no CSINode".to_owned() };
    kubelet.notify_registration_status(refused).await.unwrap();
    assert!(!world.readiness.report().ready && world.readiness.report().live);
    let taken = RegistrationStatus { plugin_registered: true, error: String::new() };
    kubelet.notify_registration_status(taken).await.unwrap();
    assert!(world.readiness.report().ready);
    world.end().await;
}

#[test]
fn a_mount_that_is_not_the_right_one_is_replaced_and_stacks_of_the_stock_driver_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    fs::create_dir(path.join("agent")).unwrap();
    let target = path.join("mount");
    let shown = target.to_str().unwrap();
    fs::create_dir(&target).unwrap();
    let mounts = FakeMounts::default();
    let volumes = Volumes::new(path.join("agent"), mounts.clone());
    for read_only in [false, true, false] {
        mounts.push(&target, read_only);
    }
    assert_eq!(volumes.publish(shown).unwrap(), Done::Changed);
    assert_eq!(mounts.depth(&target), 1);
    mounts.push(&target, true);
    assert_eq!(volumes.unpublish(shown).unwrap(), Done::Changed);
    assert_eq!((mounts.depth(&target), target.exists()), (0, false));
}

#[test]
fn what_is_in_a_target_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    fs::create_dir_all(path.join("mount")).unwrap();
    fs::write(path.join("mount/api.sock"), "").unwrap();
    let volumes = Volumes::new(path.join("agent"), FakeMounts::default());
    let error = volumes.unpublish(path.join("mount").to_str().unwrap()).unwrap_err();
    assert!(matches!(error, VolumeError::Target(_)), "{error}");
    assert!(path.join("mount/api.sock").exists());
}

#[test]
fn a_volume_that_shows_the_right_directory_is_good() {
    // The same directory at both ends: what a mount makes of them.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("agent");
    fs::create_dir(&path).unwrap();
    let mounts = FakeMounts::default();
    mounts.push(&path, true);
    let volumes = Volumes::new(path.clone(), mounts);
    let shown = path.to_str().unwrap();
    assert_eq!(volumes.condition(shown).unwrap(), Some(Condition::Good));
    assert_eq!(volumes.publish(shown).unwrap(), Done::Already);
}

#[test]
fn with_the_kubelets_directory_nothing_but_volumes_of_its_pods_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let volume = path.join("pods/uid-1/volumes/kubernetes.io~csi/identity");
    fs::create_dir_all(&volume).unwrap();
    fs::create_dir(path.join("agent")).unwrap();
    fs::create_dir(path.join("precious")).unwrap();
    let mounts = FakeMounts::default();
    let volumes = Volumes::new(path.join("agent"), mounts.clone()).within(Some(path.join("pods")));
    let elsewhere = [
        path.join("precious"),
        path.join("pods"),
        path.join("pods/uid-1/volumes/kubernetes.io~csi/mount"),
        path.join("pods/uid-1/volumes/kubernetes.io~empty-dir/identity/mount"),
        volume.join("mount/deeper"),
        volume.join("other"),
        "/proc".into(),
    ];
    for target in elsewhere {
        mounts.push(&target, true);
        let shown = target.to_str().unwrap();
        for refused in [volumes.publish(shown).map(drop), volumes.unpublish(shown).map(drop)] {
            let error = refused.unwrap_err();
            assert!(error.to_string().contains("no volume of a Pod"), "{shown}: {error}");
        }
        assert_eq!(volumes.condition(shown).unwrap(), None);
        assert_eq!(mounts.depth(&target), 1, "{shown}");
    }
    let target = volume.join("mount");
    assert_eq!(volumes.publish(target.to_str().unwrap()).unwrap(), Done::Changed);
    assert_eq!(volumes.unpublish(target.to_str().unwrap()).unwrap(), Done::Changed);
}
