//! Pods, as a kubelet lists them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A Pod of one node.
#[derive(Clone, Debug)]
pub struct FakePod {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `spec.serviceAccountName`
    pub service_account: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `kind`, `name`, `uid` of each owner.
    pub owners: Vec<(String, String, String)>,
    /// `status.phase`
    pub phase: String,
    /// Its containers.
    pub containers: Vec<FakeContainer>,
    /// Its init containers.
    pub init_containers: Vec<FakeContainer>,
}

/// A container of a Pod.
#[derive(Clone, Debug)]
pub struct FakeContainer {
    /// 64 hexadecimal digits; empty while it is not started.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image, with a tag.
    pub image: String,
    /// Its image, with a digest.
    pub image_id: String,
}

impl FakePod {
    /// A running Pod `number` in the namespace `shop`, with one container of which [`FakePod::container_id`] tells the ID.
    #[must_use]
    pub fn number(number: usize) -> Self {
        let name = format!("web-{number}");
        let labels = [("app", "web"), ("pod-template-hash", "7d4b9c"), ("number", &number.to_string())];
        Self {
            uid: format!("2c48913c-b29f-11e7-9350-{number:012x}"),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            owners: vec![(
                "ReplicaSet".to_owned(),
                "web".to_owned(),
                "10000000-b29f-11e7-9350-000000000000".to_owned(),
            )],
            phase: "Running".to_owned(),
            containers: vec![FakeContainer::number(number)],
            init_containers: Vec::new(),
            name,
        }
    }

    /// The ID of its first container.
    #[must_use]
    pub fn container_id(&self) -> &str {
        self.containers.first().map_or("", |container| &container.id)
    }

    /// The cgroup that a process of its first container is in: cgroupfs, burstable.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/kubepods/burstable/pod{}/{}", self.uid, self.container_id())
    }

    fn json(&self, padding: usize) -> Value {
        let owners: Vec<_> = self
            .owners
            .iter()
            .map(|(kind, name, uid)| json!({ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true }))
            .collect();
        let statuses = |containers: &[FakeContainer]| -> Vec<_> {
            containers.iter().map(FakeContainer::status).collect()
        };
        let specs: Vec<_> = self.containers.iter().map(FakeContainer::spec).collect();
        json!({
            "metadata": {
                "name": self.name, "generateName": "web-", "namespace": self.namespace, "uid": self.uid,
                "resourceVersion": "4711", "creationTimestamp": "2026-11-21T09:00:00Z",
                "labels": self.labels,
                "annotations": {
                    "kubernetes.io/config.seen": "2026-11-21T09:00:00.123456789Z", "kubernetes.io/config.source": "api",
                    "example.org/notes": "a \"quoted\" {text} [with] \\ everything ".repeat(padding / 48),
                },
                "ownerReferences": owners,
            },
            "spec": {
                "volumes": [{ "name": "kube-api-access-x", "projected": { "sources": [
                    { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } }] } }],
                "containers": specs, "restartPolicy": "Always", "serviceAccountName": self.service_account,
                "serviceAccount": self.service_account, "nodeName": "node-1",
                "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute" }],
            },
            "status": {
                "phase": self.phase,
                "conditions": [{ "type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-21T09:00:03Z" }],
                "hostIP": "10.0.0.1", "podIP": "10.1.0.7", "startTime": "2026-11-21T09:00:00Z",
                "containerStatuses": statuses(&self.containers),
                "initContainerStatuses": statuses(&self.init_containers),
                "qosClass": "Burstable",
            },
        })
    }
}

impl FakeContainer {
    /// A container whose ID is the number.
    #[must_use]
    pub fn number(number: usize) -> Self {
        Self {
            id: format!("{:064x}", number + 0xc0ff_ee00),
            name: "web".to_owned(),
            image: "registry.example.org/web:1.2".to_owned(),
            image_id: format!("registry.example.org/web@sha256:{:064x}", 0xd19e57),
        }
    }

    fn spec(&self) -> Value {
        json!({ "name": self.name, "image": self.image, "env": [{ "name": "A", "value": "}]{[\"" }], "resources": {} })
    }

    fn status(&self) -> Value {
        let id = if self.id.is_empty() { String::new() } else { format!("containerd://{}", self.id) };
        json!({
            "name": self.name, "state": { "running": { "startedAt": "2026-11-21T09:00:02Z" } }, "lastState": {}, "ready": true,
            "restartCount": 0, "image": self.image, "imageID": self.image_id, "containerID": id, "started": true,
        })
    }
}

/// The list of `pods` as a kubelet writes it, blown up to about `bytes` if it has less.
///
/// # Panics
///
/// Never: all of it is JSON.
#[must_use]
pub fn list_json(pods: &[FakePod], bytes: usize) -> Vec<u8> {
    let write = |padding| {
        let items: Vec<_> = pods.iter().map(|pod| pod.json(padding)).collect();
        let list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items });
        serde_json::to_vec(&list).expect("JSON can be written")
    };
    let bare = write(0);
    let missing = bytes.saturating_sub(bare.len());
    if missing == 0 || pods.is_empty() { bare } else { write(missing / pods.len()) }
}
