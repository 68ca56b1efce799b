//! The stock spire-controller-manager drives our server unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use base64::Engine as _;
use serde_json::{Value, json};
use vouchsafe_testkit::free_port;
use vouchsafe_testkit::kubernetes::{Created, Kubernetes, PodObject, programs};

use crate::process::{Process, eventually};
use crate::world::{Server, ServerSettings, World};

/// The cluster of these tests: the controller manager looks at all namespaces, and its kinds are its own.
fn cluster() -> &'static Kubernetes {
    static CLUSTER: OnceLock<Kubernetes> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Kubernetes::start();
        let config = programs().join("spire-controller-manager.config");
        let apply = |path: &str| {
            let path = config.join(path);
            cluster.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()])
        };
        apply("crd/bases");
        cluster.wait_for_definitions();
        apply("rbac/role.yaml");
        cluster.namespace_named(SPIRE);
        cluster.service_account(SPIRE, "controller-manager");
        cluster.apply(BINDINGS);
        cluster
    })
}

/// What it may do besides what its own role says: lead.
const BINDINGS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: controller-manager}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: manager-role}
subjects: [{kind: ServiceAccount, name: controller-manager, namespace: spire-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: leader, namespace: spire-system}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list, watch, create, update, patch, delete]}
- {apiGroups: ["", events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: leader, namespace: spire-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: leader}
subjects: [{kind: ServiceAccount, name: controller-manager, namespace: spire-system}]
"#;

/// A class of objects, the namespace and node of its Pods, and the controller manager that looks at them.
struct Scene {
    class: String,
    namespace: String,
    node: Created,
    folder: PathBuf,
    server: Server,
    manager: Option<Process>,
}

impl Scene {
    /// A server, whose audit log says who wrote what. No controller manager runs yet.
    fn new(world: &World) -> Self {
        let server = "audit_log_enabled = true".to_owned();
        let server = world.server("server", &ServerSettings { server, ..ServerSettings::default() });
        let cluster = cluster();
        let namespace = cluster.namespace("shop");
        cluster.service_account(&namespace, "web");
        let node = cluster.node(&cluster.unique("node"), "10.0.0.1", &[]);
        let folder = world.path().to_owned();
        Self { class: cluster.unique("class"), namespace, node, folder, server, manager: None }
    }

    /// The controller manager's file.
    fn settings(&self) -> PathBuf {
        let (class, server) = (&self.class, &self.server);
        let text = format!(
            "apiVersion: spire.spiffe.io/v1alpha1\nkind: ControllerManagerConfig\n\
             metrics: {{bindAddress: '127.0.0.1:{}'}}\nhealth: {{healthProbeBindAddress: '127.0.0.1:{}'}}\n\
             leaderElection: {{leaderElect: true, resourceName: {class}, resourceNamespace: spire-system}}\n\
             clusterName: c1\nclusterDomain: cluster.local\ntrustDomain: {}\nclassName: {class}\nlogLevel: debug\n\
             validatingWebhookConfigurationName: {class}\nspireServerSocketPath: {}\ngcInterval: {GC_NANOS}\n",
            free_port(),
            free_port(),
            server.trust_domain,
            server.socket.display(),
        );
        let file = self.folder.join("manager.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Starts it without its webhook.
    fn start_manager(&mut self) {
        let mut command = Command::new(programs().join("spire-controller-manager"));
        let kubeconfig = cluster().kubeconfig_of_service_account(SPIRE, "controller-manager");
        command.arg(format!("--config={}", self.settings().display()));
        command.env("ENABLE_WEBHOOKS", "false").env("KUBECONFIG", kubeconfig);
        self.manager = Some(Process::start(command, &self.folder.join("manager.log")));
    }

    fn pod(&self, name: &str, address: &str) -> Created {
        let pod = PodObject::new(&self.namespace, name).service_account("web").node(&self.node.name);
        cluster().pod(&pod.ip(address).label("app", "web").container("main", "web:1", "containerd://1"))
    }

    /// A ClusterSPIFFEID for all Pods of the namespace, with further lines of its `spec`.
    fn apply_spiffe_id(&self, lines: &[&str]) {
        let Self { class, namespace, .. } = self;
        cluster().apply(&format!(
            r#"
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterSPIFFEID
metadata: {{name: {class}}}
spec:
  className: {class}
  spiffeIDTemplate: "spiffe://{{{{ .TrustDomain }}}}/ns/{{{{ .PodMeta.Namespace }}}}/sa/{{{{ .PodSpec.ServiceAccountName }}}}"
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}
  podSelector: {{matchLabels: {{app: web}}}}
  {}
"#,
            lines.join("\n  ")
        ));
    }

    fn spiffe_id(&self) -> Value {
        cluster().get(&format!("{KINDS}/clusterspiffeids/{}", self.class)).unwrap()
    }

    /// All entries of the server, by SPIFFE ID's path and first selector.
    fn entries(&self) -> BTreeMap<(String, String), Value> {
        let shown = self.server.json(&["entry", "show"]);
        let entries = shown["entries"].as_array().cloned().unwrap_or_default();
        let key = |entry: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&entry["spiffe_id"]["path"]), text(&entry["selectors"][0]["value"]))
        };
        entries.into_iter().map(|entry| (key(&entry), entry)).collect()
    }

    fn key_of(&self, pod: &Created) -> (String, String) {
        (format!("/ns/{}/sa/web", self.namespace), format!("pod-uid:{}", pod.uid))
    }

    /// Lines of the audit log for calls of one of `methods`.
    fn calls(&self, methods: &[&str]) -> usize {
        let log = self.server.log();
        let named = |line: &str| methods.iter().any(|method| line.contains(&format!("method={method} ")));
        log.lines().filter(|line| line.contains("type=audit") && named(line)).count()
    }

    /// Waits until the controller manager has looked `rounds` more times.
    fn wait_for_rounds(&self, rounds: usize) {
        let before = self.calls(&["ListFederationRelationships"]);
        let more = || (self.calls(&["ListFederationRelationships"]) >= before + rounds).then_some(());
        eventually("the controller manager looks again", more);
    }

    /// Nothing changes while nothing changes.
    fn assert_it_is_left_alone(&self) {
        // What the last change brought may still be under way.
        self.wait_for_rounds(3);
        let state = || (self.entries(), self.server.json(&["federation", "list"]));
        let (writes, before) = (self.calls(WRITES), state());
        assert!(writes > 0);
        self.wait_for_rounds(5);
        assert_eq!(self.calls(WRITES), writes, "calls that write");
        assert!(state() == before, "something changed without a call");
    }

    /// A Service of the Pods, an entry that belongs to no Pod, and another trust domain.
    fn apply_service_static_entry_and_federation(&self) {
        let (class, namespace) = (&self.class, &self.namespace);
        let bundle = self.server.cli(&["bundle", "show", "-format", "spiffe"]).ok();
        let bundle = serde_json::to_string(&bundle).unwrap();
        cluster().apply(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterStaticEntry
metadata: {{name: {class}}}
spec: {{className: {class}, spiffeID: "spiffe://domain.test/vm", parentID: "spiffe://domain.test/spire/agent/x509pop/1", selectors: ["unix:uid:1000"]}}
---
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterFederatedTrustDomain
metadata: {{name: {class}}}
spec:
  className: {class}
  trustDomain: other.test
  bundleEndpointURL: "https://127.0.0.1:1/bundle"
  bundleEndpointProfile: {{type: https_web}}
  trustDomainBundle: {bundle}
"#
        ));
    }
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn pods_static_entries_and_federation_are_registered_kept_and_removed() {
    let (world, cluster) = (World::new(), cluster());
    let mut scene = Scene::new(&world);
    let (class, namespace) = (scene.class.clone(), scene.namespace.clone());
    let pod = scene.pod("web-1", "10.1.0.1");
    scene.apply_service_static_entry_and_federation();
    let more = ["ttl: 30m", "jwtTtl: 4m", "autoPopulateDNSNames: true", "federatesWith: [other.test]"];
    let lines = |hint| [&more[..], &["dnsNameTemplates: ['{{ .PodMeta.Name }}.test']", hint]].concat();
    scene.apply_spiffe_id(&lines("hint: first"));
    scene.start_manager();

    let (pod_key, vm_key) = (scene.key_of(&pod), ("/vm".to_owned(), "uid:1000".to_owned()));
    let service = format!("web.{namespace}.svc");
    let names = ["web", &format!("web.{namespace}"), &service, &format!("{service}.cluster.local")];
    let has_names = |entry: &Value, own: &str| {
        let held = entry["dns_names"].as_array().cloned().unwrap_or_default();
        names.iter().chain([&own]).all(|name| held.contains(&json!(name)))
    };
    let settled = eventually("both entries are there, with the names of the Service", || {
        let entries = scene.entries();
        let complete = has_names(entries.get(&pod_key)?, "web-1.test") && entries.contains_key(&vm_key);
        complete.then_some(entries)
    });
    let entry = &settled[&pod_key];
    assert_eq!(settled.len(), 2, "{settled:?}");
    assert_eq!(entry["parent_id"]["path"], format!("/spire/agent/k8s_psat/c1/{}", scene.node.uid), "{entry}");
    assert_eq!(entry["federates_with"], json!(["other.test"]), "{entry}");
    assert_eq!((&entry["x509_svid_ttl"], &entry["jwt_svid_ttl"]), (&json!(1800), &json!(240)), "{entry}");
    assert_eq!(entry["hint"], "first", "{entry}");
    let status = |name: &str| scene.spiffe_id()["status"]["stats"][name].as_u64();
    eventually("the status says so", || {
        (status("entriesToSet")? == 1 && status("podsSelected")? == 1).then_some(())
    });
    assert_eq!(status("entryFailures"), Some(0));
    // It tries which fields the server knows, once, with an entry that it removes again.
    let log = std::fs::read_to_string(world.path().join("manager.log")).unwrap();
    assert!(!log.contains("unsupported fields"), "{log}");
    scene.assert_it_is_left_alone();

    scene.apply_spiffe_id(&lines("hint: second"));
    let changed = eventually("the hint changes", || {
        scene.entries().remove(&pod_key).filter(|entry| entry["hint"] == "second")
    });
    assert_eq!(changed["id"], entry["id"], "an update, not another entry");

    // While it is away.
    scene.manager.take().unwrap().kill();
    cluster.delete_pod(&pod);
    let second = scene.pod("web-2", "10.1.0.2");
    scene.start_manager();
    let second_key = scene.key_of(&second);
    // The names come when the Service has the Pod's address, which may be later.
    eventually("the other Pod's entry is there instead", || {
        let entries = scene.entries();
        let complete = has_names(entries.get(&second_key)?, "web-2.test");
        (complete && !entries.contains_key(&pod_key)).then_some(())
    });
    assert_eq!(scene.entries()[&vm_key], settled[&vm_key], "nothing has happened to this one");
    scene.assert_it_is_left_alone();

    cluster.delete_pod(&second);
    eventually("the entry goes with its Pod", || (scene.entries().len() == 1).then_some(()));
    for kind in ["clusterspiffeids", "clusterstaticentries", "clusterfederatedtrustdomains"] {
        cluster.delete(&format!("{KINDS}/{kind}/{class}"));
    }
    eventually("nothing is left", || {
        let federation = scene.server.json(&["federation", "list"]);
        let none = federation["federation_relationships"].as_array().is_none_or(Vec::is_empty);
        (none && scene.entries().is_empty()).then_some(())
    });
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn hundreds_of_pods_have_an_entry_each_also_while_they_come_and_go() {
    let (world, cluster) = (World::new(), cluster());
    let mut scene = Scene::new(&world);
    scene.apply_spiffe_id(&[]);
    // More than it asks for on one page.
    let pods: Vec<_> = (0..PODS)
        .map(|n| scene.pod(&format!("web-{n}"), &format!("10.2.{}.{}", n / 250, n % 250 + 1)))
        .collect();
    scene.start_manager();
    let keys = |pods: &[Created]| pods.iter().map(|pod| scene.key_of(pod)).collect::<BTreeSet<_>>();
    let are = |wanted: &BTreeSet<_>| {
        (scene.entries().into_keys().collect::<BTreeSet<_>>() == *wanted).then_some(())
    };
    let all = keys(&pods);
    eventually("each Pod has an entry", || are(&all));
    scene.assert_it_is_left_alone();
    let (gone, kept) = pods.split_at(PODS / 2);
    gone.iter().for_each(|pod| cluster.delete_pod(pod));
    let kept = keys(kept);
    eventually("only those that are left", || are(&kept));
    scene.assert_it_is_left_alone();
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn its_webhook_gets_a_certificate_that_the_api_server_accepts() {
    let (world, cluster) = (World::new(), cluster());
    let mut scene = Scene::new(&world);
    let class = scene.class.clone();
    let _turn = turn_on_port();
    cluster.apply(&webhook(&class));
    let folder = cluster.service_account_folder(SPIRE, "controller-manager");
    let mut command = Command::new("unshare");
    command.args(if nix::unistd::geteuid().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    command.args(["sh", "-c", IN_A_POD, "sh"]).arg(folder).arg(programs().join("spire-controller-manager"));
    command.arg(format!("--config={}", scene.settings().display()));
    command
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", cluster.port().to_string());
    scene.manager = Some(Process::start(command, &world.path().join("manager.log")));

    let spiffe_id = |name: &str, template: &str| {
        cluster.try_apply(&format!(
            "{{apiVersion: spire.spiffe.io/v1alpha1, kind: ClusterSPIFFEID, metadata: {{name: {class}-{name}, labels: {{class: {class}}}}}, \
             spec: {{className: {class}, spiffeIDTemplate: '{template}'}}}}"
        ))
    };
    eventually("a good object is admitted", || spiffe_id("good", "spiffe://domain.test/x").ok());
    // The API server may not have read the webhook's configuration yet, or may have waited for it for too long.
    eventually("a bad object is refused by the webhook", || {
        let refusal = spiffe_id("bad", "spiffe://domain.test/{{").err()?;
        (refusal.contains("denied the request") && refusal.contains("vclusterspiffeid.kb.io")).then_some(())
    });
    assert!(scene.calls(&["MintX509SVID"]) > 0);
    let path = format!("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{class}");
    let configuration = cluster.get(&path).unwrap();
    let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap();
    let bundle = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap();
    let lines = |pem: &[u8]| String::from_utf8_lossy(pem).split_whitespace().collect::<String>();
    assert_eq!(lines(&bundle), lines(&scene.server.bundle_pem()));
    cluster.delete(&path);
}

/// The webhook's port cannot be chosen: whoever wants it waits for their turn.
fn turn_on_port() -> File {
    let turn = File::create("/tmp/vouchsafe-port-9443").unwrap();
    turn.lock().unwrap();
    eventually("port 9443 is free", || TcpListener::bind(("0.0.0.0", 9443)).ok());
    turn
}

/// The API server finds the webhook by a Service, whose addresses must not be of the loopback interface.
fn webhook(class: &str) -> String {
    // Nothing is sent: this only asks which address of ours would be used.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.200:9").expect("an address that is not of the loopback interface");
    let address = socket.local_addr().unwrap().ip();
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: {class}, namespace: {SPIRE}}}
spec: {{ports: [{{name: w, port: 9443, targetPort: 9443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {class}, namespace: {SPIRE}, labels: {{kubernetes.io/service-name: {class}}}}}
addressType: IPv4
ports: [{{name: w, port: 9443}}]
endpoints: [{{addresses: ["{address}"], conditions: {{ready: true}}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {class}}}
webhooks:
- name: vclusterspiffeid.kb.io
  admissionReviewVersions: [v1]
  clientConfig: {{service: {{name: {class}, namespace: {SPIRE}, path: /validate-spire-spiffe-io-v1alpha1-clusterspiffeid, port: 9443}}}}
  failurePolicy: Fail
  objectSelector: {{matchLabels: {{class: {class}}}}}
  rules: [{{apiGroups: [spire.spiffe.io], apiVersions: [v1alpha1], operations: [CREATE, UPDATE], resources: [clusterspiffeids]}}]
  sideEffects: None
"#
    )
}

/// With its webhook it insists on what a Pod finds below `/var/run`. Nobody else sees this.
const IN_A_POD: &str = r#"set -e
account=$1; shift
mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$account"/* /run/secrets/kubernetes.io/serviceaccount/
exec "$@""#;
const SPIRE: &str = "spire-system";
const KINDS: &str = "/apis/spire.spiffe.io/v1alpha1";
const WRITES: &[&str] = &[
    "BatchCreateEntry",
    "BatchUpdateEntry",
    "BatchDeleteEntry",
    "BatchCreateFederationRelationship",
    "BatchUpdateFederationRelationship",
    "BatchDeleteFederationRelationship",
    "BatchSetFederatedBundle",
    "BatchDeleteFederatedBundle",
];
const GC_NANOS: u64 = 500_000_000;
const PODS: usize = 260;
