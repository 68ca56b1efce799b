//! The real API server refuses writes: with 409, 429, 503 or what else is wanted.
//!
//! A ValidatingWebhookConfiguration names a webhook in this process. What the webhook denies with, the API server passes on: the
//! status, the reason, and `Retry-After`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Kubernetes;
use super::listener::{Listener, answer};
use super::patience::until;

/// Which writes are refused, and how.
#[derive(Clone, Debug)]
pub struct Denial<'a> {
    /// The collection: `/api/v1/namespaces/shop/configmaps`, or without a namespace for all of them.
    pub collection: &'a str,
    /// An object that could be created there (it is not): shows when the refusals begin.
    pub probe: Value,
    /// The HTTP status.
    pub status: u16,
    /// `Conflict`, `TooManyRequests`, `ServiceUnavailable`…
    pub reason: &'a str,
    /// `Retry-After`
    pub retry_after_secs: Option<u32>,
    /// How many are refused.
    pub times: u32,
}

/// Refusals in force. They end with the value.
pub struct Denied<'a> {
    cluster: &'a Kubernetes,
    name: String,
    left: Arc<AtomicU32>,
    times: u32,
    _listener: Listener,
}

impl Denied<'_> {
    /// How many writes were refused.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.times - self.left.load(Ordering::SeqCst)
    }
}

impl Drop for Denied<'_> {
    fn drop(&mut self) {
        let path = format!("{CONFIGURATIONS}/{}", self.name);
        drop(self.cluster.try_request("DELETE", &path, None));
    }
}

impl std::fmt::Debug for Denied<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Denied").field("refused", &self.refused()).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Makes the API server refuse the next [`Denial::times`] writes, from when this returns.
    ///
    /// # Panics
    ///
    /// When it does not begin to.
    pub fn deny(&self, denial: &Denial<'_>) -> Denied<'_> {
        let name = self.unique("deny");
        let (certificate, key) = self.pki.server(&name, &[]);
        let left = Arc::new(AtomicU32::new(denial.times));
        let (counter, status) = (Arc::clone(&left), refusal(denial));
        let listener = Listener::start((&certificate, &key), move |received, stream| {
            let review: Value = serde_json::from_slice(&received.body).unwrap_or_default();
            let body = review_answer(&review, &counter, &status);
            answer(stream, 200, "", body.to_string().as_bytes())
        });
        let configuration = configuration(&name, denial, &listener.url(), self.ca());
        let _created = self.request("POST", CONFIGURATIONS, Some(&configuration)).ok();
        let path = format!("{}?dryRun=All", denial.collection);
        until(EFFECT, || {
            let probed = self.request("POST", &path, Some(&denial.probe));
            let is_refused =
                probed.status == denial.status && probed.body["message"].to_string().contains(MESSAGE);
            if is_refused { Ok(()) } else { Err(format!("writes are not refused: {probed:?}")) }
        });
        Denied { cluster: self, name, left, times: denial.times, _listener: listener }
    }
}

fn refusal(denial: &Denial<'_>) -> Value {
    let mut status = json!({"code": denial.status, "reason": denial.reason, "message": MESSAGE});
    if let Some(secs) = denial.retry_after_secs {
        status["details"] = json!({"retryAfterSeconds": secs});
    }
    status
}

/// Probes are refused too, and not counted.
fn review_answer(review: &Value, left: &AtomicU32, status: &Value) -> Value {
    let probe = review["request"]["dryRun"] == true;
    let take = |left: u32| left.checked_sub(1);
    let allowed = !probe && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": allowed});
    if !allowed {
        response["status"] = status.clone();
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn configuration(name: &str, denial: &Denial<'_>, url: &str, ca: &str) -> Value {
    let words: Vec<&str> = denial.collection.trim_matches('/').split('/').collect();
    let (group, rest) = if words[0] == "api" { ("", &words[1..]) } else { (words[1], &words[2..]) };
    let (version, resource) = (rest[0], rest[rest.len() - 1]);
    let mut webhook = json!({
        "name": "deny.vouchsafe.test",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"url": url, "caBundle": STANDARD.encode(ca)},
        "rules": [{
            "apiGroups": [group], "apiVersions": [version], "resources": [resource, format!("{resource}/status")],
            "operations": ["CREATE", "UPDATE", "DELETE"],
        }],
    });
    if rest.get(1) == Some(&"namespaces") && rest.len() > 3 {
        webhook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": rest[2]}});
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name}, "webhooks": [webhook],
    })
}

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MESSAGE: &str = "refused by a test";
/// The API server reads its webhooks about once a second.
const EFFECT: Duration = Duration::from_secs(60);
