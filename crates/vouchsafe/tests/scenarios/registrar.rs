//! `vouchsafe registrar`, on a folder of manifests: objects become entries, mistakes withdraw nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Process, eventually, run};
use crate::programs::Programs;
use crate::world::{Server, ServerSettings, World};

/// A server, a folder of manifests, and a registrar between them.
struct Stage {
    world: World,
    server: Server,
    manifests: PathBuf,
    registrar: Option<Process>,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let server = world.server("server", &ServerSettings::default());
        let manifests = world.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let stage = Self { world, server, manifests, registrar: None };
        stage.write("cluster", CLUSTER);
        stage
    }

    fn config(&self) -> PathBuf {
        let text = format!(
            "apiVersion: spire.spiffe.io/v1alpha1\nkind: ControllerManagerConfig\nclusterName: c1\n\
             clusterDomain: cluster.local\ntrustDomain: {}\nspireServerSocketPath: {}\ngcInterval: 300ms\n\
             staticManifestPath: {}\nlogLevel: debug\n\
             reconcile: {{clusterSPIFFEIDs: true, clusterStaticEntries: true, clusterFederatedTrustDomains: true}}\n",
            self.server.trust_domain,
            self.server.socket.display(),
            self.manifests.display(),
        );
        let path = self.world.path().join("registrar.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Programs::ours());
        command.arg("registrar").args(arguments).arg("-config").arg(self.config());
        command
    }

    fn start(&mut self) {
        self.registrar = None;
        let log = self.world.path().join("registrar.log");
        self.registrar = Some(Process::start(self.command(&["run"]), &log));
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.manifests.join(format!("{name}.yaml")), text).unwrap();
    }

    fn write_object(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "spire.spiffe.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        self.write(name, &object.to_string());
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.manifests.join(format!("{name}.yaml"))).unwrap();
    }

    fn entries(&self) -> Vec<Value> {
        let shown = self.server.json(&["entry", "show"]);
        shown["entries"].as_array().cloned().unwrap_or_default()
    }

    fn entry(&self, path: &str) -> Option<Value> {
        self.entries().into_iter().find(|entry| entry["spiffe_id"]["path"] == path)
    }

    /// The status that was written beside a manifest.
    fn status(&self, name: &str) -> String {
        fs::read_to_string(self.manifests.join(format!("{name}.yaml.status.yaml"))).unwrap_or_default()
    }

    /// Waits until everything has been compared with the server.
    fn wait_for_comparisons(&self) {
        self.server.entry("marker", "node", "unix:uid:4242", &[]);
        eventually("what nobody declares is removed", || self.entry("/marker").is_none().then_some(()));
    }
}

fn spiffe_id(template: &str) -> Value {
    json!({
        "spiffeIDTemplate": template, "ttl": "30m", "jwtTtl": "4m", "hint": "first", "autoPopulateDNSNames": true,
        "podSelector": { "matchLabels": { "app": "web" } },
        "dnsNameTemplates": ["{{ .PodMeta.Name }}.test"],
    })
}

#[test]
fn objects_in_a_folder_become_entries_and_relationships_and_go_with_them() {
    let mut stage = Stage::new();
    stage.write_object("ClusterSPIFFEID", "web", spiffe_id(GOOD));
    let vm = json!({
        "spiffeID": stage.server.id("vm"), "parentID": stage.server.id("node"), "selectors": ["unix:uid:1000"],
    });
    stage.write_object("ClusterStaticEntry", "vm", vm);
    let relationship = json!({
        "trustDomain": "other.test", "bundleEndpointURL": "https://127.0.0.1:1/bundle",
        "bundleEndpointProfile": { "type": "https_web" },
    });
    stage.write_object("ClusterFederatedTrustDomain", "other", relationship);
    run(&mut stage.command(&["validate"])).ok();
    stage.start();
    let web = eventually("the Pod's entry is there", || stage.entry("/ns/shop/sa/till"));
    assert_eq!(web["parent_id"]["path"], "/spire/agent/k8s_psat/c1/node-uid", "{web}");
    assert_eq!(web["selectors"], json!([{ "type": "k8s", "value": "pod-uid:web-uid" }]), "{web}");
    assert_eq!((&web["x509_svid_ttl"], &web["jwt_svid_ttl"]), (&json!(1800), &json!(240)), "{web}");
    let names = ["web-1.test", "web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"];
    assert_eq!(web["dns_names"], json!(names), "{web}");
    eventually("the static entry is there", || stage.entry("/vm"));
    let federated = |stage: &Stage| {
        let listed = stage.server.json(&["federation", "list"]);
        listed["federation_relationships"].as_array().map(Vec::len)
    };
    eventually("the relationship is there", || (federated(&stage) == Some(1)).then_some(()));
    eventually("the static entry's status says so", || {
        stage.status("vm").contains("set: true").then_some(())
    });
    assert_eq!(stage.entries().len(), 2);

    // Nothing is written while nothing changes, and by a restart neither.
    stage.wait_for_comparisons();
    stage.start();
    stage.wait_for_comparisons();
    assert_eq!(stage.entry("/ns/shop/sa/till").unwrap(), web, "not even its revision");

    stage.remove("web");
    stage.remove("vm");
    stage.remove("other");
    eventually("all of it is gone", || {
        (stage.entries().is_empty() && federated(&stage) == Some(0)).then_some(())
    });
}

#[test]
fn a_mistake_is_told_and_withdraws_nothing_also_after_a_restart() {
    let mut stage = Stage::new();
    stage.write_object("ClusterSPIFFEID", "web", spiffe_id(GOOD));
    stage.start();
    let before = eventually("the Pod's entry is there", || stage.entry("/ns/shop/sa/till"));
    let told = |reason: &'static str| move |stage: &Stage| stage.status("web").contains(reason).then_some(());
    for (template, reason) in [
        ("spiffe://domain.test/{{ .PodMeta", "InvalidSpec"),
        ("spiffe://elsewhere.test/{{ .PodMeta.Name }}", "expected trust domain"),
        ("spiffe://domain.test/{{ .PodMeta.Nmae }}", "can't evaluate field Nmae"),
    ] {
        stage.write_object("ClusterSPIFFEID", "web", spiffe_id(template));
        eventually("the status says what is wrong", || told(reason)(&stage));
        stage.wait_for_comparisons();
        assert_eq!(stage.entry("/ns/shop/sa/till").as_ref(), Some(&before), "{template}");
        stage.start();
        stage.wait_for_comparisons();
        assert_eq!(stage.entry("/ns/shop/sa/till").as_ref(), Some(&before), "after a restart: {template}");
    }
    stage.write_object("ClusterSPIFFEID", "web", spiffe_id("spiffe://domain.test/mended"));
    eventually("mended, it decides again", || stage.entry("/mended"));
    eventually("and what was kept is gone", || stage.entry("/ns/shop/sa/till").is_none().then_some(()));
}

#[test]
fn a_server_that_was_away_finds_everything_as_it_was() {
    let mut stage = Stage::new();
    stage.write_object("ClusterSPIFFEID", "web", spiffe_id(GOOD));
    stage.start();
    let before = eventually("the Pod's entry is there", || stage.entry("/ns/shop/sa/till"));
    stage.server.kill();
    let log = || stage.registrar.as_ref().map(Process::log).unwrap_or_default();
    eventually("the registrar notices", || log().contains("The server does not answer").then_some(()));
    stage.write_object("ClusterStaticEntry", "vm", json!({
        "spiffeID": stage.server.id("vm"), "parentID": stage.server.id("node"), "selectors": ["unix:uid:1000"],
    }));
    stage.server.start_again();
    eventually("what was declared meanwhile is there", || stage.entry("/vm"));
    assert_eq!(stage.entry("/ns/shop/sa/till").unwrap(), before, "compared, not written again");
}

const GOOD: &str =
    "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}";

const CLUSTER: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, uid: node-uid}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: web-uid, labels: {app: web}}
spec:
  nodeName: node-1
  serviceAccountName: till
  containers: [{name: main, image: web}]
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, uid: db-uid, labels: {app: db}}
spec: {nodeName: node-1, containers: [{name: main, image: db}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: web, namespace: shop}
subsets:
- addresses: [{ip: 10.0.0.1, targetRef: {kind: Pod, name: web-1, namespace: shop, uid: web-uid}}]
";
