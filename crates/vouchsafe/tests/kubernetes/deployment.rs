//! `deploy/kubernetes`: every overlay is taken by a real API server, the Pods fit the Pod security standard of their
//! namespace, each service account may do what it must and no more, and what the files configure works.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use vouchsafe_testkit::free_port;
use vouchsafe_testkit::kubernetes::{Kubernetes, PodObject, TokenSettings};

use crate::process::{Outcome, Process, eventually, run};
use crate::programs::Programs;

const OVERLAYS: [&str; 5] = ["server", "agent", "registrar", "csi", "all"];
const SYSTEM: &str = "vouchsafe";
const NODE: &str = "vouchsafe-node";
const SERVER: &str = "vouchsafe:vouchsafe-server";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes")
}

/// The cluster of these tests: their namespaces have names of their own, and everything is applied for real.
fn cluster() -> &'static Kubernetes {
    static CLUSTER: OnceLock<Kubernetes> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Kubernetes::start();
        for part in ["namespaces/system", "namespaces/node"] {
            apply(&cluster, part, &[]);
        }
        apply(&cluster, "crds", &[]);
        cluster.wait_for_definitions();
        apply(&cluster, "overlays/all", &[]);
        cluster.wait_until_allowed(SERVER, "create", ("authentication.k8s.io", "tokenreviews", ""), "");
        cluster.wait_until_allowed(SERVER, "patch", ("", "configmaps", "vouchsafe-bundle"), NODE);
        cluster.wait_until_allowed(SERVER, "list", ("spire.spiffe.io", "clusterspiffeids", ""), "");
        cluster
    })
}

/// `kubectl apply -k`, which says everything twice: what it did, and what the API server warns of.
#[track_caller]
fn apply(cluster: &Kubernetes, part: &str, flags: &[&str]) {
    let path = folder().join(part);
    let arguments = ["apply", "--server-side", "--warnings-as-errors", "-k", path.to_str().unwrap()];
    cluster.kubectl(&[&arguments, flags].concat());
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn every_overlay_is_taken_by_the_api_server_without_a_warning() {
    let cluster = cluster();
    for overlay in OVERLAYS {
        let part = format!("overlays/{overlay}");
        apply(cluster, &part, &["--dry-run=server"]);
        apply(cluster, &part, &[]);
    }
}

/// The Pod that a controller would make, and what the API server says to it.
fn tried(cluster: &Kubernetes, kind: &str, (namespace, name): (&str, &str), into: &str) -> (u16, String) {
    let owner = cluster.get(&format!("/apis/apps/v1/namespaces/{namespace}/{kind}/{name}")).unwrap();
    let mut pod = owner["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(cluster.unique("tried"));
    if kind == "statefulsets" {
        let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-x"}});
        pod["spec"]["volumes"].as_array_mut().unwrap().push(claim);
    }
    if into != namespace {
        pod["spec"].as_object_mut().unwrap().remove("serviceAccountName");
        pod["spec"].as_object_mut().unwrap().remove("serviceAccount");
    }
    let answer = cluster.request("POST", &format!("/api/v1/namespaces/{into}/pods?dryRun=All"), Some(&pod));
    (answer.status, answer.body.to_string())
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn server_and_registrar_are_restricted_and_only_what_runs_on_nodes_is_not() {
    let cluster = cluster();
    let server = tried(cluster, "statefulsets", (SYSTEM, "vouchsafe-server"), SYSTEM);
    assert_eq!(server.0, 201, "{}", server.1);
    for name in ["vouchsafe-agent", "vouchsafe-csi"] {
        let here = tried(cluster, "daemonsets", (NODE, name), NODE);
        assert_eq!(here.0, 201, "{}", here.1);
        let there = tried(cluster, "daemonsets", (NODE, name), SYSTEM);
        assert!(there.0 == 403 && there.1.contains("violates PodSecurity"), "{there:?}");
    }
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn each_service_account_may_do_what_it_must_and_no_more() {
    // Without the registrar, whose rights are the server's too where it runs beside it.
    let cluster = &Kubernetes::start();
    for part in ["namespaces/node", "overlays/server", "overlays/agent", "overlays/csi"] {
        apply(cluster, part, &[]);
    }
    let (server, agent, csi) = (SERVER, "vouchsafe-node:vouchsafe-agent", "vouchsafe-node:vouchsafe-csi");
    let secrets = ("", "secrets", "");
    for (account, verb, what, namespace) in [
        (server, "create", ("authentication.k8s.io", "tokenreviews", ""), ""),
        (server, "get", ("", "pods", "x"), "anywhere"),
        (server, "get", ("", "nodes", "x"), ""),
        (server, "patch", ("", "configmaps", "vouchsafe-bundle"), NODE),
        (server, "create", ("", "configmaps", "vouchsafe-bundle"), NODE),
        (server, "update", ("coordination.k8s.io", "leases", "x"), NODE),
        (agent, "get", ("", "nodes/pods", "x"), ""),
    ] {
        cluster.wait_until_allowed(account, verb, what, namespace);
    }
    for (account, verb, what, namespace) in [
        (server, "get", secrets, SYSTEM),
        (server, "list", secrets, ""),
        (server, "create", ("", "pods/exec", "x"), SYSTEM),
        (server, "create", ("", "pods", ""), NODE),
        (server, "delete", ("", "configmaps", "vouchsafe-bundle"), NODE),
        (server, "patch", ("", "configmaps", "other"), NODE),
        (server, "patch", ("", "configmaps", "vouchsafe-server"), SYSTEM),
        (server, "create", ("", "configmaps", ""), "default"),
        (server, "patch", ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "x"), ""),
        (server, "patch", ("apiregistration.k8s.io", "apiservices", "x"), ""),
        (server, "create", ("", "serviceaccounts/token", "x"), NODE),
        (server, "update", ("coordination.k8s.io", "leases", "x"), "kube-system"),
        (server, "impersonate", ("", "users", "admin"), ""),
        (agent, "get", ("", "nodes/proxy", "x"), ""),
        (agent, "list", ("", "pods", ""), ""),
        (agent, "list", secrets, ""),
        (agent, "create", ("authentication.k8s.io", "tokenreviews", ""), ""),
        (csi, "get", ("", "pods", "x"), NODE),
        (csi, "list", secrets, ""),
    ] {
        assert!(
            !cluster.allows(account, verb, what, namespace),
            "{account} may {verb} {what:?} in {namespace:?}"
        );
    }
}

/// The files of the ConfigMap that begins so (kustomize adds a hash of what is in it).
fn config_map(cluster: &Kubernetes, namespace: &str, beginning: &str, key: &str) -> String {
    let list = cluster.get(&format!("/api/v1/namespaces/{namespace}/configmaps")).unwrap();
    let maps = list["items"].as_array().unwrap().iter();
    let mut found = maps.filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with(beginning));
    found.find_map(|map| map["data"][key].as_str()).unwrap().to_owned()
}

fn vouchsafe(arguments: &[&str]) -> Outcome {
    run(Command::new(Programs::ours()).args(arguments))
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn the_files_of_the_config_maps_are_valid() {
    let cluster = cluster();
    let place = vouchsafe_testkit::folder("vd");
    for (namespace, map, file, part) in [
        (SYSTEM, "vouchsafe-server-", "server.conf", "server"),
        (NODE, "vouchsafe-agent-", "agent.conf", "agent"),
        (SYSTEM, "vouchsafe-registrar-", "registrar.yaml", "registrar"),
    ] {
        let path = place.path().join(file);
        std::fs::write(&path, config_map(cluster, namespace, map, file)).unwrap();
        vouchsafe(&[part, "validate", "-config", path.to_str().unwrap()]).ok();
    }
}

/// Puts `changes` into a file of a ConfigMap: what differs between a Pod and a process beside the API server.
#[track_caller]
fn adapted(text: &str, changes: &[(&str, String)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in\n{text}");
        text.replace(from, to)
    })
}

fn started(part: &str, folder: &Path, text: &str) -> Process {
    let file = folder.join(format!("{part}.conf"));
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(Programs::ours());
    command.args([part, "run", "-config", file.to_str().unwrap()]).env("MY_NODE_NAME", "127.0.0.1");
    Process::start(command, &folder.join(format!("{part}.log")))
}

/// What a Pod of this service account would see, as a kubeconfig: its token is all that the server has.
fn server_conf(cluster: &Kubernetes, folder: &Path, ports: [u16; 3]) -> String {
    let kubeconfig = cluster.kubeconfig_of_service_account(SYSTEM, "vouchsafe-server");
    let kubeconfig = kubeconfig.display();
    let [grpc, metrics, health] = ports.map(|port| port.to_string());
    let text = config_map(cluster, SYSTEM, "vouchsafe-server-", "server.conf");
    adapted(
        &text,
        &[
            ("/var/lib/vouchsafe", format!("{}/server", folder.display())),
            ("/run/vouchsafe/private", format!("{}/private", folder.display())),
            ("0.0.0.0", "127.0.0.1".to_owned()),
            ("\"8081\"", format!("\"{grpc}\"")),
            ("9988", metrics),
            ("\"8080\"", format!("\"{health}\"")),
            (
                "service_account_allow_list",
                format!("kube_config_file = \"{kubeconfig}\"\nservice_account_allow_list"),
            ),
            ("config_map =", format!("kube_config_file_path = \"{kubeconfig}\"\nconfig_map =")),
        ],
    )
}

fn agent_conf(cluster: &Kubernetes, folder: &Path, server_port: u16) -> String {
    let text = config_map(cluster, NODE, "vouchsafe-agent-", "agent.conf");
    let here = |name: &str| format!("{}/{name}", folder.display());
    adapted(
        &text,
        &[
            ("vouchsafe-server.vouchsafe", "127.0.0.1".to_owned()),
            ("\"8081\"", format!("\"{server_port}\"")),
            ("/var/lib/vouchsafe/agent", here("agent")),
            ("/run/spire/agent-sockets", here("sockets")),
            ("/run/vouchsafe/bundle", here("bundle")),
            ("0.0.0.0", "127.0.0.1".to_owned()),
            ("9988", free_port().to_string()),
            ("\"8080\"", format!("\"{}\"", free_port())),
            ("cluster = \"main\"", format!("cluster = \"main\"\ntoken_path = \"{}\"", here("token"))),
        ],
    )
}

/// What the kubelet does for a probe.
fn probed(port: u16, path: &str) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(())
}

/// A server with the server's file and service account, and the bundle that it puts into the cluster.
struct Site {
    folder: tempfile::TempDir,
    ports: [u16; 3],
    server: Process,
}

impl Site {
    fn start(cluster: &Kubernetes) -> Self {
        let folder = vouchsafe_testkit::folder("vd");
        for name in ["server", "agent", "bundle"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let ports = [free_port(), free_port(), free_port()];
        let server = started("server", folder.path(), &server_conf(cluster, folder.path(), ports));
        let map = format!("/api/v1/namespaces/{NODE}/configmaps/vouchsafe-bundle");
        let bundle = eventually("the bundle is in the cluster", || {
            cluster.get(&map).and_then(|map| map["data"]["bundle.crt"].as_str().map(str::to_owned))
        });
        assert!(bundle.starts_with("-----BEGIN CERTIFICATE-----"), "{bundle}");
        std::fs::write(folder.path().join("bundle/bundle.crt"), bundle).unwrap();
        Self { folder, ports, server }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn admin_socket(&self) -> PathBuf {
        self.path().join("private/api.sock")
    }

    fn cli(&self, arguments: &[&str]) -> Outcome {
        let socket = self.admin_socket();
        vouchsafe(&[&["server"], arguments, &["-socketPath", socket.to_str().unwrap()]].concat())
    }

    /// Starts the agent of a Pod on a new node, with the token that the manifest asks for. Returns its SPIFFE ID.
    fn agent(&self, cluster: &Kubernetes) -> (Process, String) {
        let node = cluster.node(&cluster.unique("node"), "10.7.7.8", &[]);
        let manifest = format!("/apis/apps/v1/namespaces/{NODE}/daemonsets/vouchsafe-agent");
        let manifest = cluster.get(&manifest).unwrap();
        let volumes = manifest["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let token =
            volumes.iter().find_map(|each| each["projected"]["sources"][0].get("serviceAccountToken"));
        let token: &Value = token.unwrap();
        let pod = PodObject::new(NODE, "vouchsafe-agent-x").service_account("vouchsafe-agent");
        let pod = cluster.pod(&pod.node(&node.name));
        let settings = TokenSettings { audiences: &[token["audience"].as_str().unwrap()], pod: Some(&pod) };
        std::fs::write(self.path().join("token"), cluster.token(NODE, "vouchsafe-agent", settings)).unwrap();
        let agent = started("agent", self.path(), &agent_conf(cluster, self.path(), self.ports[0]));
        (agent, format!("spiffe://example.org/spire/agent/k8s_psat/main/{}", node.uid))
    }

    /// Starts the registrar with its file and the service account of the Pod.
    fn registrar(&self, cluster: &Kubernetes) -> Process {
        let text = config_map(cluster, SYSTEM, "vouchsafe-registrar-", "registrar.yaml");
        let changes = [
            ("/run/vouchsafe/private/api.sock", self.admin_socket().display().to_string()),
            ("0.0.0.0:8082", format!("127.0.0.1:{}", free_port())),
            ("0.0.0.0:8083", format!("127.0.0.1:{}", free_port())),
        ];
        let file = self.path().join("registrar.yaml");
        std::fs::write(&file, adapted(&text, &changes)).unwrap();
        let kubeconfig = cluster.kubeconfig_of_service_account(SYSTEM, "vouchsafe-server");
        let mut command = Command::new(Programs::ours());
        command.args(["registrar", "run", "-config"]).arg(file).arg("-kubeconfig").arg(kubeconfig);
        Process::start(command, &self.path().join("registrar.log"))
    }
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn with_their_service_account_alone_server_and_registrar_do_all_their_jobs() {
    let cluster = cluster();
    let site = Site::start(cluster);
    let (agent, id) = site.agent(cluster);
    let selector = format!("unix:uid:{}", nix::unistd::geteuid());
    let web = "spiffe://example.org/web";
    site.cli(&["entry", "create", "-spiffeID", web, "-parentID", &id, "-selector", &selector]).ok();
    let socket = site.path().join("sockets/spire-agent.sock");
    let fetch = ["agent", "api", "fetch", "x509", "-timeout", "25s", "-socketPath", socket.to_str().unwrap()];
    eventually("a workload has its SVID", || {
        let fetched = vouchsafe(&fetch);
        (fetched.code == 0 && fetched.stdout.contains(web)).then_some(())
    });
    eventually("the probe of the manifest says ready", || probed(site.ports[2], "/ready"));

    let registrar = site.registrar(cluster);
    let shop = cluster.namespace("shop");
    let node = cluster.node(&cluster.unique("node"), "10.7.7.9", &[]);
    let pod =
        cluster.pod(&PodObject::new(&shop, "till").label("app", "till").node(&node.name).ip("10.9.9.9"));
    cluster.apply(
        r#"
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterSPIFFEID
metadata: {name: till}
spec:
  spiffeIDTemplate: "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/till"
  podSelector: {matchLabels: {app: till}}
"#,
    );
    let till = format!("spiffe://example.org/ns/{shop}/till");
    eventually("the registrar made the entry of the Pod", || {
        let shown = site.cli(&["entry", "show", "-spiffeID", &till]);
        (shown.code == 0 && shown.stdout.contains(&format!("k8s:pod-uid:{}", pod.uid))).then_some(())
    });
    let status = "/apis/spire.spiffe.io/v1alpha1/clusterspiffeids/till";
    eventually("the registrar says so in the status", || {
        (cluster.get(status)?["status"]["stats"]["entriesToSet"] == 1).then_some(())
    });
    assert_eq!(
        site.cli(&["entry", "count", "-spiffeID", web]).stdout,
        "1 registration entry\n",
        "made by hand, so it stays"
    );
    for part in [&site.server, &agent, &registrar] {
        let log = part.log();
        let refused = log.lines().find(|line| line.to_lowercase().contains("forbidden"));
        assert_eq!(refused, None);
    }
}
