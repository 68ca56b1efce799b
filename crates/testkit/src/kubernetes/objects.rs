//! Namespaces, service accounts, nodes and Pods.

use serde_json::{Value, json};

use super::Kubernetes;

/// An object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Empty for what has none.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

/// A Pod as it is once it runs. Its containers are ready.
#[derive(Clone, Debug)]
pub struct PodObject {
    namespace: String,
    metadata: Value,
    spec: Value,
    status: Value,
}

impl PodObject {
    /// A Pod of the service account `default` on no node and without containers.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            metadata: json!({"name": name, "namespace": namespace}),
            spec: json!({"serviceAccountName": "default", "containers": []}),
            status: json!({
                "phase": "Running",
                "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Initialized", "status": "True"},
                    {"type": "ContainersReady", "status": "True"},
                    {"type": "Ready", "status": "True"},
                ],
                "containerStatuses": [],
            }),
        }
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.metadata["labels"][name] = json!(value);
        self
    }

    /// Its service account, which must exist.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.spec["serviceAccountName"] = json!(name);
        self
    }

    /// The node it runs on.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.spec["nodeName"] = json!(name);
        self
    }

    /// Its address.
    #[must_use]
    pub fn ip(mut self, address: &str) -> Self {
        self.status["podIP"] = json!(address);
        self.status["podIPs"] = json!([{"ip": address}]);
        self
    }

    /// A container that runs. `id` has the runtime before it, as `containerd://<64 hex digits>`.
    #[must_use]
    pub fn container(mut self, name: &str, image: &str, id: &str) -> Self {
        let container = json!({"name": name, "image": image});
        let status = json!({
            "name": name, "image": image, "imageID": format!("{image}@sha256:{:064x}", 1), "containerID": id,
            "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        });
        push(&mut self.spec["containers"], container);
        push(&mut self.status["containerStatuses"], status);
        self
    }

    /// Changes whatever has no method here.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value, &mut Value, &mut Value)) -> Self {
        change(&mut self.metadata, &mut self.spec, &mut self.status);
        self
    }
}

impl Kubernetes {
    /// A new namespace with a name of its own and the service account `default`.
    #[must_use]
    pub fn namespace(&self, prefix: &str) -> String {
        let name = self.unique(prefix);
        self.namespace_named(&name);
        name
    }

    /// A namespace with the service account `default`, unless they exist.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn namespace_named(&self, name: &str) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {}}});
        self.create_unless_there("/api/v1/namespaces", &namespace);
        self.service_account(name, "default");
    }

    /// A service account, unless it exists.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn service_account(&self, namespace: &str, name: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.create_unless_there(&path, &account);
    }

    /// A node with these labels that is reached at `address`.
    ///
    /// # Panics
    ///
    /// When there is one of this name.
    pub fn node(&self, name: &str, address: &str, labels: &[(&str, &str)]) -> Created {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let metadata = json!({"name": name, "labels": labels});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
        let created = created(&self.request("POST", "/api/v1/nodes", Some(&node)).ok());
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let _node = self.insist("PATCH", &format!("/api/v1/nodes/{name}/status"), Some(&status)).ok();
        created
    }

    /// Creates a Pod, and its status in a second request.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn pod(&self, pod: &PodObject) -> Created {
        let mut spec = pod.spec.clone();
        if spec["containers"].as_array().is_some_and(Vec::is_empty) {
            spec["containers"] = json!([{"name": "main", "image": "main:1"}]);
        }
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": pod.metadata, "spec": spec});
        let path = format!("/api/v1/namespaces/{}/pods", pod.namespace);
        let created = created(&self.request("POST", &path, Some(&object)).ok());
        self.pod_status(&created, &pod.status);
        created
    }

    /// Changes the status of a Pod by a merge patch.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn pod_status(&self, pod: &Created, status: &Value) {
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name);
        let _pod = self.insist("PATCH", &path, Some(&json!({"status": status}))).ok();
    }

    /// Removes a Pod at once: no kubelet will say that it ended.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn delete_pod(&self, pod: &Created) {
        self.delete(&format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name));
    }

    /// Removes the object at `path` without grace.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn delete(&self, path: &str) {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        let _gone = self.request("DELETE", path, Some(&options)).ok();
    }

    fn create_unless_there(&self, path: &str, object: &Value) {
        let answer = self.insist("POST", path, Some(object));
        if answer.status != 409 {
            let _created = answer.ok();
        }
    }
}

fn created(object: &Value) -> Created {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    Created { namespace: text("namespace"), name: text("name"), uid: text("uid") }
}

fn push(array: &mut Value, item: Value) {
    array.as_array_mut().expect("an array").push(item);
}
