//! A real API server with many Pods, each of about the size that Pods have.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use vouchsafe_testkit::kubernetes::{Etcd, Kubernetes, Settings, programs};

/// Pods are numbered, and their namespaces and nodes follow from their numbers.
pub(crate) struct Cluster {
    pub(crate) api: Kubernetes,
    pub(crate) pods: usize,
}

impl Cluster {
    /// Nodes, namespaces and a ClusterSPIFFEID that selects all Pods, of which there are none.
    pub(crate) fn start() -> Self {
        // What is measured is not how long a disk takes; and nobody else changes objects.
        let settings = Settings { etcd: Etcd::Module, controllers: vec![], ..Settings::default() };
        let api = Kubernetes::start_with(settings);
        let kinds = programs().join("spire-controller-manager.config/crd/bases");
        api.kubectl(&["apply", "--server-side", "-f", kinds.to_str().unwrap()]);
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        for number in 0..NAMESPACES {
            api.namespace_named(&namespace(number));
        }
        for number in 0..NODES {
            let address = format!("10.0.0.{number}");
            api.node(&format!("node-{number}"), &address, &[("topology.kubernetes.io/zone", "a")]);
        }
        api.apply(ALL_PODS);
        Self { api, pods: 0 }
    }

    /// Creates Pods until there are so many.
    pub(crate) fn grow(&mut self, pods: usize) {
        eprintln!("{pods} Pods are made");
        let (next, cluster) = (AtomicUsize::new(self.pods), &*self);
        std::thread::scope(|scope| {
            for _ in 0..CREATORS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= pods {
                            break;
                        }
                        cluster.create(number);
                        let status = json!({"status": status(number)});
                        let path = format!("{}/status", path(number));
                        let _running = cluster.api.request("PATCH", &path, Some(&status)).ok();
                    }
                });
            }
        });
        self.pods = pods;
    }

    /// Creates the Pod of this number, on its node; it does not run yet.
    pub(crate) fn create(&self, number: usize) {
        let collection = format!("/api/v1/namespaces/{}/pods", namespace(number));
        let _pod = self.api.request("POST", &collection, Some(&pod(number))).ok();
    }

    /// Removes it at once.
    pub(crate) fn delete(&self, number: usize) {
        self.api.delete(&path(number));
    }
}

/// The path of the SPIFFE ID that [`ALL_PODS`] makes for a Pod.
pub(crate) fn identity(number: usize) -> String {
    format!("/ns/{}/pod/web-{number}", namespace(number))
}

fn namespace(number: usize) -> String {
    format!("shop-{}", number % NAMESPACES)
}

fn path(number: usize) -> String {
    format!("/api/v1/namespaces/{}/pods/web-{number}", namespace(number))
}

fn pod(number: usize) -> Value {
    let environment: Vec<Value> = (0..VARIABLES)
        .map(|variable| json!({"name": format!("SETTING_{variable}"), "value": format!("value of {variable}")}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("web-{number}"),
            "labels": {"app": "web", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "7c5ddbdf54"},
            "annotations": {"prometheus.io/scrape": "true", "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES),
            "serviceAccountName": "default",
            "containers": [{
                "name": "main",
                "image": "registry.example.org/shop/web:1.2.3",
                "env": environment,
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": [{"name": "identity", "mountPath": "/spiffe", "readOnly": true}],
            }],
            "volumes": [{"name": "identity", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}],
        },
    })
}

/// As a kubelet writes it.
fn status(number: usize) -> Value {
    let condition =
        |of: &str| json!({"type": of, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    let address = format!("10.{}.{}.1", 1 + number / 250, number % 250);
    let image = "registry.example.org/shop/web";
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "main", "image": format!("{image}:1.2.3"), "imageID": format!("{image}@sha256:{:064x}", 1),
            "containerID": format!("containerd://{number:064x}"), "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    })
}

const NAMESPACES: usize = 10;
const NODES: usize = 100;
/// Requests at a time.
const CREATORS: usize = 8;
/// Of a container's environment.
const VARIABLES: usize = 10;

const ALL_PODS: &str = r#"
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterSPIFFEID
metadata: {name: all}
spec:
  spiffeIDTemplate: "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/pod/{{ .PodMeta.Name }}"
  podSelector: {matchLabels: {app: web}}
"#;
