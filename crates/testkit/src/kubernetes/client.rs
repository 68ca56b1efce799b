//! The administrator's commands and requests.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::Kubernetes;
use super::api::{Answer, Request};
use super::patience::until;
use super::programs::{self, programs};

impl Kubernetes {
    /// Runs `kubectl` as the administrator and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, None).unwrap_or_else(|refusal| panic!("kubectl {arguments:?}: {refusal}"))
    }

    /// Runs `kubectl` as the administrator with `input`.
    ///
    /// # Errors
    ///
    /// What it said.
    pub fn try_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut kubectl = Command::new(programs().join("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.admin()).arg("--cache-dir").arg(self.folder().join("cache"));
        programs::output(kubectl.args(arguments), input)
    }

    /// `kubectl apply` of YAML, by server-side apply.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.try_apply(yaml).unwrap_or_else(|refusal| panic!("{refusal}\n{yaml}"))
    }

    /// `kubectl apply` of YAML, by server-side apply.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub fn try_apply(&self, yaml: &str) -> Result<String, String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-"];
        self.try_kubectl(&arguments, Some(yaml))
    }

    /// Sends a request as the administrator; a hundred times cheaper than `kubectl`.
    ///
    /// # Panics
    ///
    /// When the API server does not answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_request(method, path, body).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// The same for what may be sent twice: a machine that is busy makes the API server say "not now".
    ///
    /// # Panics
    ///
    /// When the API server still does not answer.
    #[track_caller]
    pub(super) fn insist(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        until(PATIENCE, || match self.try_request(method, path, body) {
            Some(answer) if !answer.is_not_now() => Ok(answer),
            answer => Err(format!("{method} {path}: {answer:?}")),
        })
    }

    /// Sends a request as the administrator. `None`: nobody answers. The body of a `PATCH` is a merge patch.
    #[must_use]
    pub fn try_request(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let content_type =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.api.send(Request { method, path, content_type, body }).ok()
    }

    /// Waits until `kubectl` finds the objects of every custom resource that is defined: that a definition is established
    /// says only that its objects will be served within moments.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[track_caller]
    pub fn wait_for_definitions(&self) {
        let definitions = self.get(DEFINITIONS).unwrap_or_default();
        let served = |definition: &Value| {
            // Its name is that of the resource with its group.
            let kind = definition["metadata"]["name"].as_str().unwrap_or_default();
            let listed = self.try_kubectl(&["get", kind, "--all-namespaces"], None);
            listed.map(drop).map_err(|refusal| format!("{kind}: {refusal}"))
        };
        until(PATIENCE, || definitions["items"].as_array().into_iter().flatten().try_for_each(served));
    }

    /// The object at `path`, or `None` when there is none.
    ///
    /// # Panics
    ///
    /// When the API server answers anything else.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Option<Value> {
        let answer = self.insist("GET", path, None);
        (answer.status != 404).then(|| answer.ok())
    }
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long what was refused for the moment is asked for again.
const PATIENCE: Duration = Duration::from_secs(120);
