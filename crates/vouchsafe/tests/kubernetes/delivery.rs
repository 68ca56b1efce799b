//! The CSI driver under the real kubelet, `csi-sanity`, and the file writer beside the stock one.
//!
//! `kubemark --morph=kubelet` is the kubelet's own code over a fake container runtime: it registers the driver, asks it for
//! volumes and ends them. Kubelet, driver and what stands for a container share a mount namespace of their own, which ends
//! with its last process: whatever happens, no mount is left on the machine, and nothing is removed through one.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tonic::transport::Channel;
use vouchsafe_proto::csi::v1 as csi;
use vouchsafe_proto::csi::v1::node_client::NodeClient;
use vouchsafe_proto::csi::v1::volume_capability::access_mode::Mode;
use vouchsafe_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use vouchsafe_testkit::free_port;
use vouchsafe_testkit::kubernetes::{Kubernetes, programs};
use vouchsafe_transport::connect::uds_channel;

use crate::process::{Process, eventually, run};
use crate::programs::Programs;
use crate::world::{AgentSettings, ServerSettings, World};

/// The cluster of these tests: the driver's name is one for all.
fn cluster() -> &'static Kubernetes {
    static CLUSTER: OnceLock<Kubernetes> = OnceLock::new();
    CLUSTER.get_or_init(Kubernetes::start)
}

/// A mount namespace that lives as long as the value.
struct Namespace {
    _holder: Process,
    pid: String,
}

impl Namespace {
    fn new(folder: &Path) -> Self {
        let mut command = Command::new("unshare");
        let script =
            format!("echo $$ > {0}/ns.new && mv {0}/ns.new {0}/ns && exec sleep infinity", folder.display());
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let holder = Process::start(command, &folder.join("ns.log"));
        let pid =
            eventually("a mount namespace (this needs root)", || fs::read_to_string(folder.join("ns")).ok());
        Self { _holder: holder, pid: pid.trim().to_owned() }
    }

    /// A command in it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.pid, "--"]).arg(program);
        command
    }

    /// How many mounts there are at `path`.
    fn mounts_at(&self, path: &Path) -> usize {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        mounts.lines().filter(|line| line.split(' ').nth(4) == path.to_str()).count()
    }

    /// Flags of the mount at `path`.
    fn flags_at(&self, path: &Path) -> String {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        let mut found = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        found.find(|fields| Some(fields[4]) == path.to_str()).unwrap()[5].to_owned()
    }
}

/// A kubelet of the node `name`.
struct Kubelet {
    _process: Process,
    root: PathBuf,
}

impl Kubelet {
    fn start(namespace: &Namespace, name: &str, folder: &Path) -> Self {
        let mut command = namespace.command(programs().join("kubemark"));
        command.args(["--morph=kubelet", "--use-host-image-service=false"]).args([
            format!("--name={name}"),
            format!("--kubeconfig={}", cluster().admin().display()),
            format!("--kubelet-port={}", free_port()),
            format!("--kubelet-read-only-port={}", free_port()),
            format!("--cert-dir={}", folder.join("kubelet-certs").display()),
        ]);
        let process = Process::start(command, &folder.join("kubelet.log"));
        let root = eventually("the kubelet's folder", || {
            let log = process.log();
            let at = log.find("/tmp/hollow-kubelet.")?;
            let end = log[at..].find(|c: char| c.is_whitespace() || c == '"')?;
            let root = PathBuf::from(&log[at..at + end]);
            root.join("plugins_registry").is_dir().then_some(root)
        });
        Self { _process: process, root }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Outside of the namespace nothing is mounted in it: these are plain files. To be sure, it is asked for once more.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if !mounts.contains(self.root.to_str().unwrap_or("/")) {
            drop(fs::remove_dir_all(&self.root));
        }
    }
}

fn driver(namespace: &Namespace, folder: &Path, agent_folder: &Path, flags: &[&str]) -> Process {
    let mut command = namespace.command(Programs::ours());
    command.args(["csi", "run", "-node-id", "node-1", "-workload-api-socket-dir"]).arg(agent_folder);
    command.arg("-csi-socket-path").arg(folder.join("csi.sock")).args(flags);
    let process = Process::start(command, &folder.join("csi.log"));
    listens("the driver", &folder.join("csi.sock"));
    process
}

/// Waits until somebody can connect to `socket`: it is there a moment before that.
fn listens(who: &str, socket: &Path) {
    eventually(&format!("{who} listens"), || UnixStream::connect(socket).ok());
}

/// What the kubelet sends, for another target.
fn publish_request(target: &Path) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        target_path: target.display().to_string(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        readonly: true,
        volume_context: [("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned())].into(),
    }
}

async fn condition(node: &mut NodeClient<Channel>, target: &Path) -> csi::VolumeCondition {
    let (volume_id, volume_path) = ("csi-1".to_owned(), target.display().to_string());
    let stats = node.node_get_volume_stats(csi::NodeGetVolumeStatsRequest { volume_id, volume_path }).await;
    stats.unwrap().into_inner().volume_condition.unwrap()
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_pod_reaches_its_agent_through_the_real_kubelet_also_after_the_agent_started_again() {
    let (world, cluster) = (World::new(), cluster());
    let server = world.server("server", &ServerSettings::default());
    let agent = world.agent("agent", &server, &AgentSettings::default());
    server.entry_for_this_user("web", &[]);
    agent.wait_for_svid("web");
    let agent_folder = agent.socket.parent().unwrap();
    let namespace = Namespace::new(world.path());
    let node = cluster.unique("node");
    let kubelet = Kubelet::start(&namespace, &node, world.path());
    let registry = kubelet.root.join("plugins_registry");
    let pods = kubelet.root.join("pods");
    let (registry, pods) = (registry.to_str().unwrap(), pods.to_str().unwrap());
    let flags = ["-kubelet-registration-dir", registry, "-kubelet-dir", pods];
    let driver = driver(&namespace, world.path(), agent_folder, &flags);
    cluster.apply(CSI_DRIVER);
    eventually("the kubelet registers the driver", || {
        let drivers =
            cluster.get(&format!("/apis/storage.k8s.io/v1/csinodes/{node}"))?["spec"]["drivers"].clone();
        (drivers[0]["name"] == "csi.spiffe.io" && drivers[0]["nodeID"] == "node-1").then_some(())
    });
    // The kubelet says so last.
    eventually("the driver is told", || {
        driver.log().contains("The kubelet registered the driver").then_some(())
    });

    let shop = cluster.namespace("shop");
    cluster.service_account(&shop, "web");
    cluster.apply(&pod(&shop, &node));
    let path = format!("/api/v1/namespaces/{shop}/pods/web");
    let running = eventually("the Pod runs", || {
        let pod = cluster.get(&path)?;
        (pod["status"]["phase"] == "Running").then_some(pod)
    });
    let uid = running["metadata"]["uid"].as_str().unwrap();
    let mount = kubelet.root.join("pods").join(uid).join("volumes/kubernetes.io~csi/identity/mount");
    assert_eq!(namespace.mounts_at(&mount), 1);
    let flags = namespace.flags_at(&mount);
    assert!(["ro", "nosuid", "nodev", "noexec"].iter().all(|flag| flags.contains(flag)), "{flags}");

    // What a container runtime does: the volume at a path in the container's own namespace.
    let inside = world.path().join("spiffe");
    fs::create_dir(&inside).unwrap();
    let script = format!(
        "mount --bind '{}' '{1}' && echo $$ > {2}.new && mv {2}.new {2} && exec sleep infinity",
        mount.display(),
        inside.display(),
        world.path().join("pod").display()
    );
    let mut container = namespace.command("unshare");
    container.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let _container = Process::start(container, &world.path().join("pod.log"));
    let pid = eventually("the container", || fs::read_to_string(world.path().join("pod")).ok());
    let fetch = || {
        let mut fetch = Command::new("nsenter");
        fetch.args(["--mount", "--target", pid.trim(), "--"]).arg(Programs::ours());
        fetch.args(["agent", "api", "fetch", "x509", "-timeout", "25s", "-socketPath"]);
        fetch.arg(inside.join("api.sock"));
        let fetched = run(&mut fetch);
        (fetched.code == 0 && fetched.stdout.contains(&server.id("web"))).then_some(())
    };
    eventually("the Pod gets its identity", fetch);
    let mut write = Command::new("nsenter");
    write.args(["--mount", "--target", pid.trim(), "--", "touch"]).arg(inside.join("planted"));
    assert!(run(&mut write).err().contains("Read-only file system"));

    // A crash leaves the socket behind; the next agent makes it anew. The container sees that.
    agent.kill();
    assert!(fetch().is_none());
    agent.start_again(&[]);
    eventually("the Pod gets its identity from the new agent", fetch);

    // The kubelet runs, so it ends the volume before the Pod is gone.
    cluster.delete(&path);
    eventually("the Pod is gone", || cluster.get(&path).is_none().then_some(()));
    eventually("the volume is gone", || (namespace.mounts_at(&mount) == 0 && !mount.exists()).then_some(()));
    assert!(agent.socket.exists(), "the agent's socket is not the volume's to remove");
    assert!(driver.log().contains("msg=\"Volume published\""), "{}", driver.log());
}

#[tokio::test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
async fn a_volume_is_mounted_once_and_says_when_it_shows_a_directory_of_the_past() {
    let folder = vouchsafe_testkit::folder("vd");
    let agent_folder = folder.path().join("agent");
    fs::create_dir(&agent_folder).unwrap();
    let namespace = Namespace::new(folder.path());
    let _driver = driver(&namespace, folder.path(), &agent_folder, &[]);
    let mut node = NodeClient::new(uds_channel(&folder.path().join("csi.sock")).await.unwrap());
    let target = folder.path().join("mount");
    for _ in 0..3 {
        node.node_publish_volume(publish_request(&target)).await.unwrap();
        assert_eq!(namespace.mounts_at(&target), 1);
    }
    assert!(!condition(&mut node, &target).await.abnormal);

    fs::remove_dir(&agent_folder).unwrap();
    assert!(condition(&mut node, &target).await.message.contains("is an agent running on this node?"));
    fs::create_dir(&agent_folder).unwrap();
    let stale = condition(&mut node, &target).await;
    assert!(stale.abnormal && stale.message.contains("restart the Pod"), "{stale:?}");
    node.node_publish_volume(publish_request(&target)).await.unwrap();
    assert_eq!(namespace.mounts_at(&target), 1);
    assert!(!condition(&mut node, &target).await.abnormal);

    // Somebody else unmounts it; another mounts something over it.
    assert_eq!(run(namespace.command("umount").arg(&target)).code, 0);
    assert!(condition(&mut node, &target).await.message.contains("nothing is mounted"));
    for _ in 0..2 {
        assert_eq!(run(namespace.command("mount").arg("--bind").arg("/usr").arg(&target)).code, 0);
    }
    fs::write(agent_folder.join("api.sock"), "").unwrap();
    for _ in 0..2 {
        let (volume_id, target_path) = ("csi-1".to_owned(), target.display().to_string());
        node.node_unpublish_volume(csi::NodeUnpublishVolumeRequest { volume_id, target_path }).await.unwrap();
    }
    assert!(!target.exists() && agent_folder.join("api.sock").exists());
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn csi_sanity_finds_what_it_finds_in_the_stock_driver_and_less() {
    // Both ask for a volume of a controller first, which a driver of ephemeral volumes does not have.
    const NEED_A_CONTROLLER: [&str; 2] = [
        "NodeUnpublishVolume [It] should remove target path",
        "NodeGetVolumeStats [It] should fail when volume does not exist on the specified path",
    ];
    let folder = vouchsafe_testkit::folder("vd");
    let agent_folder = folder.path().join("agent");
    fs::create_dir(&agent_folder).unwrap();
    let namespace = Namespace::new(folder.path());
    let ours = driver(&namespace, folder.path(), &agent_folder, &[]);
    let failures = sanity(&namespace, folder.path(), &folder.path().join("csi.sock"));
    assert_eq!(failures, NEED_A_CONTROLLER, "{}", ours.log());

    let mut stock = namespace.command(programs().join("spiffe-csi-driver"));
    let socket = folder.path().join("stock.sock");
    stock.args(["-node-id", "node-1", "-workload-api-socket-dir"]).arg(&agent_folder);
    let _stock = Process::start(
        {
            stock.arg("-csi-socket-path").arg(&socket);
            stock
        },
        &folder.path().join("stock.log"),
    );
    listens("the stock driver", &socket);
    let stock = sanity(&namespace, folder.path(), &socket);
    assert!(NEED_A_CONTROLLER.iter().all(|failure| stock.contains(&(*failure).to_owned())), "{stock:?}");
}

/// What failed of what csi-sanity asks of every driver's Identity and Node services.
fn sanity(namespace: &Namespace, folder: &Path, socket: &Path) -> Vec<String> {
    let mut command = namespace.command(programs().join("csi-sanity"));
    command.arg("-csi.endpoint").arg(format!("unix://{}", socket.display()));
    command.arg("-csi.mountdir").arg(folder.join("m")).arg("-csi.stagingdir").arg(folder.join("s"));
    command.args(["-ginkgo.focus=Identity Service|Node Service", "-ginkgo.no-color"]);
    let outcome = run(&mut command);
    assert!(outcome.stdout.contains("Passed"), "{outcome:?}");
    let failed = outcome.stdout.lines().filter_map(|line| line.trim().strip_prefix("[FAIL] Node Service "));
    failed.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn our_file_writer_and_the_stock_one_write_the_same() {
    let world = World::new();
    let server = world.server("server", &ServerSettings::default());
    let agent = world.agent("agent", &server, &AgentSettings::default());
    server.entry_for_this_user("web", &["-dns", "web.test"]);
    agent.wait_for_svid("web");
    let write = |program: &Path, name: &str, lines: &str| {
        let folder = world.path().join(name);
        fs::create_dir(&folder).unwrap();
        let file = world.path().join(format!("{name}.conf"));
        let text = format!(
            "agent_address = \"{}\"\ncert_dir = \"{}\"\ndaemon_mode = false\nsvid_file_name = \"svid.pem\"\n\
             svid_key_file_name = \"svid_key.pem\"\nsvid_bundle_file_name = \"svid_bundle.pem\"\n\
             jwt_svids = [{{ jwt_audience = \"a\", jwt_svid_file_name = \"jwt.token\" }}]\n\
             jwt_bundle_file_name = \"bundle.json\"\n{lines}\n",
            agent.socket.display(),
            folder.display()
        );
        fs::write(&file, text).unwrap();
        run(Command::new(program).arg("-config").arg(file)).ok();
        folder
    };
    let ours = world.path().join("spiffe-helper");
    std::os::unix::fs::symlink(Programs::ours(), &ours).unwrap();
    let stock = programs().join("spiffe-helper");
    for (number, lines) in
        ["", "add_intermediates_to_bundle = true\nomit_expired = true\ninclude_federated_domains = true"]
            .iter()
            .enumerate()
    {
        let (ours, stock) =
            (write(&ours, &format!("ours{number}"), lines), write(&stock, &format!("stock{number}"), lines));
        for file in ["svid.pem", "svid_key.pem", "svid_bundle.pem", "jwt.token"] {
            let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
            assert_eq!(read(&ours), read(&stock), "{file}");
        }
        assert_eq!(keys(&ours.join("bundle.json")), keys(&stock.join("bundle.json")));
    }
}

/// What verifiers read of the JWT bundles: per trust domain, per key, its parameters. Their order says nothing.
fn keys(file: &Path) -> Vec<(String, Vec<Value>)> {
    use base64::Engine as _;
    let bundles: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let of_one = |text: &Value| {
        let jwks = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap();
        let jwks: Value = serde_json::from_slice(&jwks).unwrap();
        let mut keys = jwks["keys"].as_array().unwrap().clone();
        // What a key is for is told by the file; not everybody repeats it.
        keys.iter_mut().for_each(|key| drop(key.as_object_mut().unwrap().remove("use")));
        keys.iter_mut().for_each(|key| key.as_object_mut().unwrap().sort_keys());
        keys.sort_by_key(|key| key["kid"].to_string());
        keys
    };
    bundles.as_object().unwrap().iter().map(|(name, text)| (name.clone(), of_one(text))).collect()
}

const CSI_DRIVER: &str = r"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: csi.spiffe.io}
spec: {attachRequired: false, podInfoOnMount: true, fsGroupPolicy: None, volumeLifecycleModes: [Ephemeral]}
";

fn pod(namespace: &str, node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: {namespace}}}
spec:
  serviceAccountName: web
  nodeName: {node}
  containers: [{{name: main, image: "web:1", volumeMounts: [{{name: identity, mountPath: /spiffe, readOnly: true}}]}}]
  volumes: [{{name: identity, csi: {{driver: csi.spiffe.io, readOnly: true}}}}]
"#
    )
}
