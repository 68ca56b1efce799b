//! A Kubernetes API server as far as node attestation asks it: reviews of tokens, Pods and nodes. The real one is in
//! `crates/vouchsafe/tests/kubernetes`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// It stops with the value.
pub struct FakeApi {
    pub kubeconfig: PathBuf,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

/// What it answers from.
#[derive(Default)]
pub struct State {
    /// The `status` of a review, by token.
    pub reviews: BTreeMap<String, Value>,
    /// By path.
    pub objects: BTreeMap<String, Value>,
    /// What it does instead of answering.
    pub trouble: Option<Trouble>,
    /// Method and path of each request.
    pub asked: Vec<String>,
    /// The audiences of the last review.
    pub audiences: Value,
}

#[derive(Clone, Copy)]
pub enum Trouble {
    /// It never answers.
    Hangs,
    /// It answers so, and perhaps says when to come again, in seconds.
    Refuses(u16, Option<u32>),
}

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

impl FakeApi {
    /// One with the Pod `spire/agent-x` on the node `node-1`.
    pub async fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, state.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_of(&format!("http://{address}"))).unwrap();
        let fake = Self { kubeconfig, state, _serving: serving };
        fake.state().objects.extend([
            ("/api/v1/namespaces/spire/pods/agent-x".to_owned(), pod()),
            ("/api/v1/nodes/node-1".to_owned(), node()),
        ]);
        fake
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How often it was asked anything.
    pub fn asked(&self) -> usize {
        self.state().asked.len()
    }

    /// Lets `token` be the one of the agent's Pod.
    pub fn knows(&self, token: &str) {
        self.reviews_as(token, authenticated());
    }

    pub fn reviews_as(&self, token: &str, status: Value) {
        self.state().reviews.insert(token.to_owned(), status);
    }
}

/// A kubeconfig for the API server at `url`.
pub fn kubeconfig_of(url: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    })
    .to_string()
}

/// A good review of the token of `spire/agent-x`.
pub fn authenticated() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["spire-server"],
        "user": {
            "username": "system:serviceaccount:spire:agent",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["agent-x"],
                "authentication.kubernetes.io/pod-uid": ["pod-uid-1"],
            },
        },
    })
}

pub fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "spire", "name": "agent-x", "uid": "pod-uid-1",
            "labels": {"app": "agent", "secret": "x"},
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "agent"}]},
        "status": {"hostIP": "10.0.0.7"},
    })
}

pub fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node-1", "uid": "node-uid-1", "labels": {"zone": "a", "other": "b"}},
    })
}

/// A token that says what one of a real API server says. Nobody has signed it.
pub fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmVk", part(&json!({"alg": "RS256", "kid": "k"})), part(claims))
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let trouble = {
        let mut state = state.lock().unwrap();
        state.asked.push(format!("{method} {path}"));
        state.trouble
    };
    match trouble {
        Some(Trouble::Hangs) => std::future::pending::<()>().await,
        Some(Trouble::Refuses(code, after)) => return Ok(refusal(code, after)),
        None => {}
    }
    let mut state = state.lock().unwrap();
    if path == REVIEWS {
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        state.audiences = review["spec"]["audiences"].clone();
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let unknown = || json!({"error": "[invalid bearer token]"});
        review["status"] = state.reviews.get(token).cloned().unwrap_or_else(unknown);
        return Ok(reply(201, None, &review));
    }
    Ok(match state.objects.get(&path) {
        Some(object) => reply(200, None, object),
        None => refusal(404, None),
    })
}

fn refusal(code: u16, after: Option<u32>) -> Response<Full<Bytes>> {
    let reason = StatusCode::from_u16(code).unwrap().canonical_reason().unwrap().replace(' ', "");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": "so it is", "details": {"retryAfterSeconds": after},
    });
    reply(code, after, &status)
}

fn reply(code: u16, after: Option<u32>, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(code).header("content-type", "application/json");
    if let Some(after) = after {
        response = response.header("retry-after", after);
    }
    response.body(Full::from(body.to_string())).unwrap()
}
