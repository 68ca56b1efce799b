//! `vouchsafe registrar` on a real API server: beside the stock spire-controller-manager, and with definitions of our own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use vouchsafe_testkit::free_port;
use vouchsafe_testkit::kubernetes::{Created, Kubernetes, PodObject, programs};

use crate::process::{Process, eventually, pause};
use crate::programs::Programs;
use crate::world::{Server, ServerSettings, World};

/// A cluster with these definitions of the three kinds, where the registrar may do what its role says.
fn start_cluster(definitions: &str) -> Kubernetes {
    let cluster = Kubernetes::start();
    cluster.kubectl(&["apply", "--server-side", "-f", definitions]);
    cluster.wait_for_definitions();
    cluster.namespace_named("vouchsafe");
    cluster.service_account("vouchsafe", "vouchsafe-server");
    cluster.kubectl(&["apply", "-f", &deployed("base/registrar/access.yaml")]);
    let kind = ("spire.spiffe.io", "clusterspiffeids", "");
    cluster.wait_until_allowed("vouchsafe:vouchsafe-server", "list", kind, "");
    cluster
}

fn deployed(path: &str) -> String {
    format!("{}/../../deploy/kubernetes/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// With our definitions.
fn ours() -> &'static Kubernetes {
    static CLUSTER: OnceLock<Kubernetes> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let definitions = tempfile::tempdir().unwrap();
        for kind in ["clusterspiffeids", "clusterstaticentries", "clusterfederatedtrustdomains"] {
            let from = deployed(&format!("crds/{kind}.yaml"));
            std::fs::copy(from, definitions.path().join(format!("{kind}.yaml"))).unwrap();
        }
        start_cluster(definitions.path().to_str().unwrap())
    })
}

/// A class of objects, a namespace and a node for its Pods, and a server.
struct Scene {
    cluster: &'static Kubernetes,
    class: String,
    namespace: String,
    node: Created,
    folder: PathBuf,
    account: PathBuf,
    server: Server,
    /// How often it compares what is with what should be, without being told.
    compares: Duration,
    running: Option<Process>,
}

impl Scene {
    fn new(world: &World, cluster: &'static Kubernetes) -> Self {
        let namespace = cluster.namespace("shop");
        cluster.service_account(&namespace, "web");
        let node = cluster.node(&cluster.unique("node"), "10.0.0.1", &[]);
        Self {
            cluster,
            class: cluster.unique("class"),
            namespace,
            node,
            folder: world.path().to_owned(),
            account: cluster.kubeconfig_of_service_account("vouchsafe", "vouchsafe-server"),
            server: world.server("server", &ServerSettings::default()),
            compares: OFTEN,
            running: None,
        }
    }

    fn settings(&self, server: &Server) -> PathBuf {
        let text = format!(
            "apiVersion: spire.spiffe.io/v1alpha1\nkind: ControllerManagerConfig\n\
             metrics: {{bindAddress: '127.0.0.1:{}'}}\nhealth: {{healthProbeBindAddress: '127.0.0.1:{}'}}\n\
             clusterName: c1\nclusterDomain: cluster.local\ntrustDomain: {}\nclassName: {}\n\
             spireServerSocketPath: {}\ngcInterval: {}\n",
            free_port(),
            free_port(),
            server.trust_domain,
            self.class,
            server.socket.display(),
            self.compares.as_nanos(),
        );
        let file = self.folder.join("registrar.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Starts ours as spire-controller-manager would be started.
    fn start(&mut self) {
        self.running = None;
        let link = self.folder.join("spire-controller-manager");
        std::os::unix::fs::symlink(Programs::ours(), &link).ok();
        let mut command = Command::new(link);
        command.arg(format!("--config={}", self.settings(&self.server).display()));
        command.env("KUBECONFIG", &self.account);
        self.running = Some(Process::start(command, &self.folder.join("registrar.log")));
    }

    /// Starts the stock one on another server.
    fn start_stock(&self, server: &Server) -> Process {
        let mut command = Command::new(programs().join("spire-controller-manager"));
        command.arg(format!("--config={}", self.settings(server).display()));
        command.env("ENABLE_WEBHOOKS", "false").env("KUBECONFIG", self.cluster.admin());
        Process::start(command, &self.folder.join("stock.log"))
    }

    fn pod(&self, name: &str, labels: &[(&str, &str)]) -> Created {
        let pod = PodObject::new(&self.namespace, name).service_account("web").node(&self.node.name);
        let pod = labels.iter().fold(pod.ip("10.1.0.1"), |pod, (name, value)| pod.label(name, value));
        self.cluster.pod(&pod.container("main", "web:1", "containerd://1"))
    }

    /// A ClusterSPIFFEID for the namespace with these lines in its `spec`.
    fn spiffe_id(&self, name: &str, lines: &str) {
        let Self { class, namespace, .. } = self;
        self.cluster.apply(&format!(
            "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterSPIFFEID\nmetadata: {{name: {class}-{name}}}\nspec:\n  \
             className: {class}\n  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n  {lines}\n"
        ));
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        self.cluster.get(&format!("{KINDS}/{kind}/{}-{name}", self.class)).unwrap()
    }

    fn condition(&self, kind: &str, name: &str) -> Option<Value> {
        self.object(kind, name)["status"]["conditions"].get(0).cloned()
    }

    fn remove_objects(&self) {
        for kind in ["clusterspiffeids", "clusterstaticentries", "clusterfederatedtrustdomains"] {
            let list = self.cluster.get(&format!("{KINDS}/{kind}")).unwrap();
            for item in list["items"].as_array().unwrap() {
                let name = item["metadata"]["name"].as_str().unwrap();
                if name.starts_with(&format!("{}-", self.class)) {
                    self.cluster.delete(&format!("{KINDS}/{kind}/{name}"));
                }
            }
        }
    }
}

/// All entries of a server by what makes them similar, without what each server gives them itself.
fn entries(server: &Server) -> BTreeMap<String, Value> {
    // Without the flag the command leaves out what is downstream.
    let shown = [server.json(&["entry", "show"]), server.json(&["entry", "show", "-downstream"])];
    let mut found = BTreeMap::new();
    for mut entry in shown.iter().filter_map(|shown| shown["entries"].as_array()).flatten().cloned() {
        for own in ["id", "revision_number", "created_at"] {
            entry.as_object_mut().unwrap().remove(own);
        }
        for list in ["selectors", "dns_names", "federates_with"] {
            entry[list].as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
        let key = format!("{} {} {}", entry["spiffe_id"], entry["parent_id"], entry["selectors"]);
        assert!(found.insert(key, entry).is_none());
    }
    found
}

fn has_path(server: &Server, path: &str) -> bool {
    entries(server).values().any(|entry| entry["spiffe_id"]["path"] == path)
}

/// Many objects at once: each feature, two that fight for the same entries, and a static entry twice.
fn declare_much(scene: &Scene) {
    let plain =
        "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/{{ .PodMeta.Name }}'";
    scene
        .spiffe_id("plain", &format!("{plain}\n  hint: plain\n  podSelector: {{matchLabels: {{app: web}}}}"));
    scene.spiffe_id("twin", &format!("{plain}\n  hint: twin\n  podSelector: {{matchLabels: {{app: web}}}}"));
    scene.spiffe_id(
        "much",
        "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/{{ .ClusterName }}/{{ index .PodMeta.Labels \"app\" }}/{{ .NodeMeta.Name }}'\n  \
         ttl: 1h30m\n  jwtTtl: 90s\n  admin: true\n  downstream: true\n  autoPopulateDNSNames: true\n  \
         dnsNameTemplates: ['{{ .PodMeta.Name }}.{{ .ClusterDomain }}', '{{ if .PodMeta.Labels.none }}x{{ else }}y{{ end }}', 'y']\n  \
         workloadSelectorTemplates: ['k8s:sa:{{ .PodSpec.ServiceAccountName }}', 'k8s:image:{{ (index .PodSpec.Containers 0).Image }}']\n  \
         podSelector: {matchExpressions: [{key: app, operator: In, values: [web, db]}]}",
    );
    scene.spiffe_id(
        "fallback",
        "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/fallback/{{ .PodMeta.Name }}'\n  fallback: true",
    );
    // Without the label that the template wants there is no path segment.
    scene.spiffe_id(
        "failing",
        "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/team/{{ .PodMeta.Labels.team }}'",
    );
    let Scene { cluster, class, namespace, .. } = scene;
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterStaticEntry
metadata: {{name: {class}-vm}}
spec: {{className: {class}, spiffeID: "spiffe://domain.test/vm", parentID: "spiffe://domain.test/spire/agent/x509pop/1", selectors: ["unix:uid:1000"], x509SVIDTTL: 2h, dnsNames: [vm]}}
---
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterFederatedTrustDomain
metadata: {{name: {class}-other}}
spec:
  className: {class}
  trustDomain: other.test
  bundleEndpointURL: "https://127.0.0.1:1/bundle"
  bundleEndpointProfile: {{type: https_web}}
"#
    ));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn the_same_objects_give_the_same_entries_and_counts_as_with_the_stock_controller_manager() {
    let cluster: &'static Kubernetes = Box::leak(Box::new(start_cluster(
        programs().join("spire-controller-manager.config/crd/bases").to_str().unwrap(),
    )));
    let world = World::new();
    let mut scene = Scene::new(&world, cluster);
    let other = world.server("stock", &ServerSettings::default());
    for (name, labels) in [
        ("web-1", &[("app", "web"), ("team", "a")][..]),
        ("web-2", &[("app", "web")]),
        ("db-1", &[("app", "db")]),
        ("none", &[]),
    ] {
        scene.pod(name, labels);
    }
    declare_much(&scene);
    let stock = scene.start_stock(&other);
    // web-1 and web-2 by plain and by much, web-1 by failing, db-1 by much, none by fallback, and the VM.
    let expected = eventually("the stock one has registered all", || {
        let found = entries(&other);
        let named =
            found.values().any(|entry| entry["dns_names"].as_array().is_some_and(|names| names.len() > 4));
        (found.len() == 8 && named).then_some(found)
    });
    let statuses = || {
        ["plain", "twin", "much", "fallback", "failing"]
            .map(|name| scene.object("clusterspiffeids", name)["status"].clone())
    };
    let counted = eventually("the stock one has counted", || {
        let counted = statuses();
        let complete = counted
            .iter()
            .all(|status| status["stats"]["podsSelected"].as_u64().is_some_and(|pods| pods > 0));
        complete.then_some(counted)
    });
    drop(stock);
    let versions = |scene: &Scene| {
        ["plain", "twin", "much", "fallback", "failing"]
            .map(|name| scene.object("clusterspiffeids", name)["metadata"]["resourceVersion"].clone())
    };
    let before = versions(&scene);
    scene.start();
    eventually("ours has registered all", || (entries(&scene.server) == expected).then_some(()));
    let relationships =
        |server: &Server| server.json(&["federation", "list"])["federation_relationships"].clone();
    eventually("and the relationship", || {
        (relationships(&scene.server)[0]["trust_domain"] == "other.test").then_some(())
    });
    assert_eq!(relationships(&scene.server), relationships(&other));
    eventually("the static entry is set", || {
        (scene.object("clusterstaticentries", "vm")["status"]["set"] == true).then_some(())
    });
    assert_eq!(
        ["plain", "twin", "much", "fallback", "failing"]
            .map(|name| scene.object("clusterspiffeids", name)["status"].clone()),
        counted
    );
    assert_eq!(
        versions(&scene),
        before,
        "what the stock one had written was right, and is not written again"
    );
    scene.remove_objects();
    eventually("all of it is gone", || entries(&scene.server).is_empty().then_some(()));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn what_is_wrong_is_a_condition_and_an_event_and_withdraws_nothing() {
    let world = World::new();
    let mut scene = Scene::new(&world, ours());
    let good = "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/{{ .PodMeta.Name }}'";
    scene.pod("web-1", &[]);
    scene.spiffe_id("one", good);
    scene.start();
    eventually("the Pod's entry is there", || has_path(&scene.server, "/web-1").then_some(()));
    eventually("the condition says so", || {
        (scene.condition("clusterspiffeids", "one")?["status"] == "True").then_some(())
    });
    let before = scene.server.json(&["entry", "show"]);
    for (template, reason, cause) in [
        ("spiffe://domain.test/{{ .PodMeta", "InvalidSpec", "invalid spiffeIDTemplate"),
        (
            "spiffe://elsewhere.test/{{ .PodMeta.Name }}",
            "RenderFailed",
            "expected trust domain \"domain.test\"",
        ),
    ] {
        scene.spiffe_id("one", &format!("spiffeIDTemplate: '{template}'"));
        let condition = eventually("the condition says what is wrong", || {
            scene.condition("clusterspiffeids", "one").filter(|held| held["reason"] == reason)
        });
        assert_eq!(condition["status"], "False");
        assert!(condition["message"].as_str().unwrap().contains(cause), "{condition}");
        let name = format!("{}-one", scene.class);
        eventually("and an event too", || {
            let events = scene.cluster.get("/apis/events.k8s.io/v1/events")?;
            let about = |event: &Value| {
                event["regarding"]["name"] == name.as_str()
                    && event["reason"] == reason
                    && event["note"].as_str().is_some_and(|note| note.contains(cause))
            };
            events["items"].as_array()?.iter().any(about).then_some(())
        });
        assert_eq!(scene.server.json(&["entry", "show"]), before, "{reason}");
    }
    scene.spiffe_id("one", good);
    scene.spiffe_id("two", good);
    let condition = eventually("the loser of two is told", || {
        let both = ["one", "two"].map(|name| scene.condition("clusterspiffeids", name));
        both.into_iter().flatten().find(|held| held["reason"] == "EntriesMasked")
    });
    assert!(condition["message"].as_str().unwrap().contains("by ClusterSPIFFEID"), "{condition}");
    assert_eq!(entries(&scene.server).len(), 1);
    scene.remove_objects();
    eventually("all of it is gone", || entries(&scene.server).is_empty().then_some(()));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn entries_follow_pods_at_once_and_nothing_is_written_while_nothing_changes() {
    let world = World::new();
    let mut scene = Scene::new(&world, ours());
    scene.spiffe_id("all", "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/{{ .PodMeta.Name }}'");
    // Nothing but the Pod itself makes it look.
    scene.compares = Duration::from_secs(3600);
    scene.start();
    eventually("it works", || {
        (scene.condition("clusterspiffeids", "all")?["status"] == "True").then_some(())
    });
    let (mut appeared, mut vanished, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..10 {
        let name = format!("pod-{n}");
        let began = Instant::now();
        let pod = scene.pod(&name, &[]);
        has_path(&scene.server, "/nobody");
        alone.push(began.elapsed());
        appeared.push(until(|| has_path(&scene.server, &format!("/{name}"))));
        scene.cluster.delete_pod(&pod);
        vanished.push(until(|| !has_path(&scene.server, &format!("/{name}"))));
    }
    for times in [&mut appeared, &mut vanished, &mut alone] {
        times.sort_unstable();
    }
    println!("FIGURE entry after Pod was created: median {:?}, worst {:?}", appeared[5], appeared[9]);
    println!("FIGURE entry gone after Pod was deleted: median {:?}, worst {:?}", vanished[5], vanished[9]);
    // Making a Pod and asking once is a measure of how busy the machine is.
    let at_once = AT_ONCE.max(AT_ONCE_IN_QUESTIONS * alone[5]);
    assert!(
        appeared[5] < at_once && vanished[5] < at_once,
        "{appeared:?} {vanished:?}, a Pod and a question alone: {alone:?}"
    );
    scene.compares = OFTEN;
    scene.start();
    scene.pod("stays", &[]);
    eventually("the last one is there and counted", || {
        let stats = scene.object("clusterspiffeids", "all")["status"]["stats"].clone();
        (has_path(&scene.server, "/stays") && stats["entriesToSet"] == 1).then_some(())
    });
    let state = || (scene.object("clusterspiffeids", "all"), scene.server.json(&["entry", "show"]));
    let before = state();
    wait_for_comparisons();
    assert!(state() == before, "six comparisons later: {:?}", state());
    scene.remove_objects();
    eventually("all of it is gone", || entries(&scene.server).is_empty().then_some(()));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn an_api_server_that_was_away_takes_nothing_away() {
    let cluster: &'static Kubernetes = Box::leak(Box::new(start_cluster(&{
        let kept = tempfile::tempdir().unwrap().keep();
        for kind in ["clusterspiffeids", "clusterstaticentries", "clusterfederatedtrustdomains"] {
            std::fs::copy(deployed(&format!("crds/{kind}.yaml")), kept.join(format!("{kind}.yaml"))).unwrap();
        }
        kept.to_str().unwrap().to_owned()
    })));
    let world = World::new();
    let mut scene = Scene::new(&world, cluster);
    scene.spiffe_id("all", "spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/{{ .PodMeta.Name }}'");
    scene.pod("web-1", &[]);
    scene.start();
    eventually("the Pod's entry is there", || has_path(&scene.server, "/web-1").then_some(()));
    let before = scene.server.json(&["entry", "show"]);
    cluster.stop_api_server();
    // It starts anew while there is nobody to ask.
    scene.start();
    wait_for_comparisons();
    assert_eq!(scene.server.json(&["entry", "show"]), before);
    cluster.start_api_server();
    scene.pod("web-2", &[]);
    eventually("it goes on", || has_path(&scene.server, "/web-2").then_some(()));
    let held = scene.server.json(&["entry", "show"]);
    let held = held["entries"].as_array().unwrap();
    assert!(held.contains(&before["entries"][0]), "not written again: {held:?}");
}

/// As long as six comparisons with the server take.
fn wait_for_comparisons() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        pause();
    }
}

/// How long until it is so.
fn until(so: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    eventually("it is so", || so().then_some(()));
    began.elapsed()
}

const OFTEN: Duration = Duration::from_millis(500);
/// From a change of a Pod to what is shown of it.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The same as a multiple of making a Pod and asking the server once.
const AT_ONCE_IN_QUESTIONS: u32 = 10;
const KINDS: &str = "/apis/spire.spiffe.io/v1alpha1";
