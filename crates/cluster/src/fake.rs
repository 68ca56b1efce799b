//! An API server in memory, for tests: it keeps objects of any kind, lists, watches with bookmarks and streaming lists,
//! forgets its history, and can be told to fail, to stall and to be set back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::Api;

/// Cheap to clone; all clones are the same server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

/// Where the lines of a watch go.
type Lines = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

#[derive(Debug, Default)]
struct State {
    revision: u64,
    /// By collection (`/api/v1/configmaps`), then by namespace and name.
    objects: BTreeMap<(String, String), Value>,
    /// Revision, collection and line of each change.
    history: Vec<(u64, String, Value)>,
    oldest: u64,
    watches: Vec<(String, Lines)>,
    faults: VecDeque<Fault>,
    streaming: Streaming,
    /// What is always refused: the end of its path, and the status.
    refused: Option<(String, u16)>,
    is_down: bool,
    /// Method and address of each request.
    requests: Vec<String>,
}

/// What happens to the next request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An error status, with Retry-After.
    Status(u16, Option<u32>),
    /// An answer that is none.
    Garbage,
    /// No answer.
    Hang,
}

/// How the server takes watches that begin with a list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Streaming {
    #[default]
    Works,
    /// 200, then one event: as on an etcd that cannot.
    RefusedInStream,
    /// 422: as with the feature off.
    Refused,
}

/// A set-back that a test can come back to.
pub(crate) type Backup = (u64, BTreeMap<(String, String), Value>);

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.lock().revision = 100;
        fake.lock().oldest = 100;
        fake
    }

    /// A client side of this server. Needs a tokio runtime.
    pub(crate) fn api(&self) -> Api {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(|error| error.to_string())?;
                let accept = head.headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
                let is_metadata = accept.is_some_and(|accept| accept.contains("PartialObjectMetadataList"));
                let uri = head.uri.to_string() + if is_metadata { "&metadata=true" } else { "" };
                fake.answer(&head.method, &uri, &body).await
            }
        });
        Api::over(Client::new(service, "default"))
    }

    pub(crate) fn put(&self, collection: &str, name: &str, object: Value) {
        self.lock().put(collection, name, object);
    }

    pub(crate) fn remove(&self, collection: &str, name: &str) {
        let mut state = self.lock();
        let Some(mut gone) = state.objects.remove(&(collection.into(), name.into())) else { return };
        state.revision += 1;
        gone["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.tell(collection, json!({ "type": "DELETED", "object": gone }));
    }

    pub(crate) fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(&(collection.into(), name.into())).cloned()
    }

    pub(crate) fn all(&self, collection: &str) -> Vec<Value> {
        let state = self.lock();
        state
            .objects
            .iter()
            .filter(|((of, _), _)| of == collection)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Sends a bookmark to all watches.
    pub(crate) fn bookmark(&self) {
        let mut state = self.lock();
        let line = bookmark(state.revision, false);
        let collections: Vec<String> =
            state.watches.iter().map(|(collection, _)| collection.clone()).collect();
        for collection in collections {
            state.send(&collection, &line);
        }
    }

    /// Sends a raw line to all watches.
    pub(crate) fn say(&self, line: &str) {
        for (_, watch) in &self.lock().watches {
            watch.send(Ok(Frame::data(format!("{line}\n").into()))).ok();
        }
    }

    /// Closes all watches, as is done every few minutes.
    pub(crate) fn close_watches(&self) {
        self.lock().watches.clear();
    }

    /// Watches can no longer be resumed from before now.
    pub(crate) fn compact(&self) {
        let mut state = self.lock();
        state.oldest = state.revision;
        state.history.clear();
    }

    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Refuses, for good, what is asked of paths with this end.
    pub(crate) fn refuse(&self, end: &str, code: u16) {
        self.lock().refused = Some((end.into(), code));
    }

    pub(crate) fn set_streaming(&self, streaming: Streaming) {
        self.lock().streaming = streaming;
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        let mut state = self.lock();
        state.is_down = is_down;
        for (_, watch) in state.watches.drain(..) {
            watch.send(Err(std::io::ErrorKind::ConnectionReset.into())).ok();
        }
    }

    pub(crate) fn backup(&self) -> Backup {
        let state = self.lock();
        (state.revision, state.objects.clone())
    }

    /// As an etcd that was restored: versions go back.
    pub(crate) fn restore(&self, (revision, objects): Backup) {
        let mut state = self.lock();
        (state.revision, state.objects, state.oldest) = (revision, objects, revision);
        state.history.clear();
        state.watches.clear();
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().requests)
    }

    pub(crate) fn watches(&self) -> usize {
        self.lock().watches.iter().filter(|(_, watch)| !watch.is_closed()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn answer(&self, method: &Method, uri: &str, body: &[u8]) -> Result<Response<Answer>, String> {
        let fault = {
            let mut state = self.lock();
            state.requests.push(format!("{method} {uri}"));
            if state.is_down {
                return Err("connection refused".into());
            }
            if let Some((end, code)) = &state.refused
                && uri.split('?').next().is_some_and(|path| path.ends_with(end.as_str()))
            {
                return Ok(status(*code, "injected", None));
            }
            state.faults.pop_front()
        };
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Status(code, retry)) => Ok(status(code, "injected", retry)),
            Some(Fault::Garbage) => Ok(whole(200, "<html>proxy</html>".into())),
            None => Ok(self.lock().answer(method, uri, body)),
        }
    }
}

type Frames = mpsc::UnboundedReceiver<Result<Frame<Bytes>, std::io::Error>>;
type Answer = StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

impl State {
    fn put(&mut self, collection: &str, name: &str, mut object: Value) -> Value {
        self.revision += 1;
        let key = (collection.to_owned(), name.to_owned());
        let known = self.objects.contains_key(&key);
        let (namespace, last) = name.split_once('/').map_or((None, name), |(ns, last)| (Some(ns), last));
        object["metadata"]["name"] = last.into();
        if let Some(namespace) = namespace {
            object["metadata"]["namespace"] = namespace.into();
        }
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.revision).into();
        }
        self.objects.insert(key, object.clone());
        let r#type = if known { "MODIFIED" } else { "ADDED" };
        self.tell(collection, json!({ "type": r#type, "object": object }));
        object
    }

    fn tell(&mut self, collection: &str, line: Value) {
        self.history.push((self.revision, collection.into(), line.clone()));
        self.send(collection, &line);
    }

    fn send(&mut self, collection: &str, line: &Value) {
        for (_, watch) in self.watches.iter().filter(|(watched, _)| watched == collection) {
            watch.send(Ok(event(line))).ok();
        }
    }

    fn answer(&mut self, method: &Method, uri: &str, body: &[u8]) -> Response<Answer> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = path.trim_start_matches("http://localhost");
        let parameter = |key: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
        };
        let (collection, name) = target(path);
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        match (method.as_str(), name) {
            ("GET", None) if parameter("watch") == Some("true") => self.watch(&collection, &parameter),
            ("GET", None) => self.list(&collection, &parameter),
            ("GET", Some(name)) => match self.objects.get(&(collection, name)) {
                Some(object) => whole(200, object.to_string()),
                None => status(404, "NotFound", None),
            },
            ("POST", _) => {
                let meta = &body["metadata"];
                let last = meta["name"].as_str().unwrap_or_default();
                let name = meta["namespace"].as_str().map_or(last.to_owned(), |ns| format!("{ns}/{last}"));
                if self.objects.contains_key(&(collection.clone(), name.clone())) {
                    return status(409, "AlreadyExists", None);
                }
                whole(201, self.put(&collection, &name, body).to_string())
            }
            ("PUT", Some(name)) => {
                let Some(known) = self.objects.get(&(collection.clone(), name.clone())) else {
                    return status(404, "NotFound", None);
                };
                if known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return status(409, "Conflict", None);
                }
                whole(200, self.put(&collection, &name, body).to_string())
            }
            ("PATCH", Some(name)) => {
                let known = self.objects.get(&(collection.clone(), name.clone())).cloned();
                let mut object = known.clone().unwrap_or_else(|| json!({}));
                merge(&mut object, body);
                if known.as_ref() == Some(&object) {
                    return whole(200, object.to_string());
                }
                whole(200, self.put(&collection, &name, object).to_string())
            }
            ("DELETE", Some(name)) => match self.objects.remove(&(collection.clone(), name.clone())) {
                Some(gone) => {
                    self.revision += 1;
                    self.tell(&collection, json!({ "type": "DELETED", "object": gone }));
                    whole(200, "{}".into())
                }
                None => status(404, "NotFound", None),
            },
            _ => status(405, "MethodNotAllowed", None),
        }
    }

    fn list<'a>(&self, collection: &str, parameter: &impl Fn(&str) -> Option<&'a str>) -> Response<Answer> {
        let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let from: usize = parameter("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        let all: Vec<&Value> =
            self.objects.iter().filter(|((of, _), _)| of == collection).map(|(_, object)| object).collect();
        let is_metadata = parameter("metadata").is_some();
        let item = |object: &&Value| match is_metadata {
            true => json!({ "metadata": object["metadata"] }),
            false => (*object).clone(),
        };
        let items: Vec<Value> = all.iter().skip(from).take(limit).map(item).collect();
        let next =
            if from + items.len() < all.len() { (from + items.len()).to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": self.revision.to_string(), "continue": next });
        whole(200, json!({ "kind": "List", "metadata": metadata, "items": items }).to_string())
    }

    fn watch<'a>(
        &mut self,
        collection: &str,
        parameter: &impl Fn(&str) -> Option<&'a str>,
    ) -> Response<Answer> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let send = |line: &Value| sender.send(Ok(event(line))).is_ok();
        if parameter("sendInitialEvents") == Some("true") {
            match self.streaming {
                Streaming::Works => {}
                Streaming::Refused => return status(422, "Invalid", None),
                Streaming::RefusedInStream => {
                    let object = json!({ "kind": "Status", "code": 500, "reason": "InternalError", "message": "disabled" });
                    send(&json!({ "type": "ERROR", "object": object }));
                    return streamed(receiver);
                }
            }
            for ((of, _), object) in &self.objects {
                if of == collection {
                    send(&json!({ "type": "ADDED", "object": object }));
                }
            }
            send(&bookmark(self.revision, true));
        } else {
            let from: u64 = parameter("resourceVersion").and_then(|rv| rv.parse().ok()).unwrap_or(0);
            if from < self.oldest {
                let object =
                    json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" });
                send(&json!({ "type": "ERROR", "object": object }));
                return streamed(receiver);
            }
            for (revision, of, line) in &self.history {
                if of == collection && *revision > from {
                    send(line);
                }
            }
        }
        self.watches.push((collection.into(), sender));
        streamed(receiver)
    }
}

/// `/api/v1/namespaces/n/pods/p/status` is the object `n/p` of the collection `/api/v1/pods`.
fn target(path: &str) -> (String, Option<String>) {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let root = if parts[0] == "api" { 2 } else { 3 };
    let (namespace, rest) = match parts.get(root) {
        Some(&"namespaces") if parts.len() > root + 2 => (Some(parts[root + 1]), &parts[root + 2..]),
        _ => (None, &parts[root..]),
    };
    let collection = format!("/{}/{}", parts[..root].join("/"), rest[0]);
    let name = rest.get(1).filter(|name| !name.is_empty());
    (collection, name.map(|name| namespace.map_or((*name).to_owned(), |ns| format!("{ns}/{name}"))))
}

/// A line of a watch, its type first as in an API server's.
fn event(line: &Value) -> Frame<Bytes> {
    Frame::data(format!("{{\"type\":{},\"object\":{}}}\n", line["type"], line["object"]).into())
}

fn bookmark(revision: u64, is_complete: bool) -> Value {
    let mut object = json!({ "metadata": { "resourceVersion": revision.to_string() } });
    if is_complete {
        object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    json!({ "type": "BOOKMARK", "object": object })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn whole(code: u16, body: String) -> Response<Answer> {
    let stream = futures_util::stream::iter([Ok(Frame::data(body.into()))]);
    Response::builder().status(code).body(StreamBody::new(Box::pin(stream) as _)).unwrap()
}

fn status(code: u16, reason: &str, retry: Option<u32>) -> Response<Answer> {
    let mut response = whole(
        code,
        json!({ "kind": "Status", "code": code, "reason": reason, "message": reason }).to_string(),
    );
    if let Some(seconds) = retry {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

fn streamed(frames: Frames) -> Response<Answer> {
    let stream =
        futures_util::stream::unfold(frames, async |mut frames| Some((frames.recv().await?, frames)));
    Response::new(StreamBody::new(Box::pin(stream) as _))
}
