//! The audit log: one line per call, or per item of a batch, in the form that SPIRE's has.
//!
//! A line says who called (for a process of this machine its user, group, number and program), what it called, as what it
//! was allowed to, what about, and how it ended. Calls that are refused before they are allowed are in the ordinary log
//! instead (`Failed to authenticate caller`), as in SPIRE. Never a token, a key or a message: what a service adds is
//! identifiers, times and hashes. A text is at most [`MAX_TEXT`] bytes long: nodes that have proven nothing yet choose some.
//!
//! A service that adds nothing gets its line all the same. A caller who leaves is an error with the code `Canceled`.

mod fields;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use aws_lc_rs::digest::{SHA256, digest};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde_json::{Map, Value};
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tracing::info;
use uuid::Uuid;
use vouchsafe_proto::spire::api::types;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_transport::rpc_metrics::{STATUS_NAMES, names};
use vouchsafe_transport::tls::TlsPeer;

use crate::authorize::Caller;
pub(crate) use fields::{
    Fields, agent_filter_fields, authority_fields, bundle_fields, entry_filter_fields, relationship_fields,
};

/// The field of an audit event that holds the fields of its line, as a JSON object.
pub const FIELDS: &str = "audit";

/// The audit lines of one call. Does nothing when there is no audit log. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit(Option<Arc<Call>>);

#[derive(Debug)]
struct Call {
    /// Who called what.
    base: Map<String, Value>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    fields: Map<String, Value>,
    /// Whether there is a line already.
    lines: bool,
}

impl Audit {
    /// Of the call that `request` belongs to.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Begins to audit a call that `caller` was allowed to make, `via` this.
    pub(crate) fn begin(request: &http::Request<Body>, caller: &Caller, via: &'static str) -> Self {
        let (service, method) = names::service_and_method(request.uri().path());
        let mut base = Map::new();
        let mut set = |name: &str, value: Value| drop(base.insert(name.to_owned(), value));
        set("service", service.into());
        set("method", method.into());
        set("subsystem_name", "api".into());
        set("type", "audit".into());
        set("request_id", Uuid::new_v4().to_string().into());
        set("authorized_as", authorized_as(caller).into());
        set("authorized_via", via.into());
        if let Some(peer) = request.extensions().get::<TlsPeer>() {
            set("caller_addr", peer.address.to_string().into());
            if let Some(svid) = &peer.svid {
                set("caller_id", svid.id.as_str().into());
            }
        }
        if let Some(process) = request.extensions().get::<PeerProcess>() {
            set("caller_uid", process.uid.into());
            set("caller_gid", process.gid.into());
            set("caller_pid", process.pid.into());
            // Not to be had from another PID namespace.
            if let Some(path) = program_of(process) {
                set("caller_path", path.into());
            }
        }
        Self(Some(Arc::new(Call { base, told: Mutex::default() })))
    }

    /// Adds a field to the lines that follow.
    pub(crate) fn add(&self, name: &str, value: impl Into<Value>) {
        if let Some(call) = &self.0 {
            call.told().fields.insert(name.to_owned(), value.into());
        }
    }

    /// Adds fields to the lines that follow. They are made only if there is an audit log.
    pub(crate) fn add_all(&self, fields: impl FnOnce() -> Fields) {
        if self.0.is_some() {
            fields().into_iter().for_each(|(name, value)| self.add(&name, value));
        }
    }

    /// Adds the hash of a request for a certificate.
    pub(crate) fn add_csr(&self, csr: &[u8]) {
        if self.0.is_some() {
            self.add("csr", csr_hash(csr));
        }
    }

    /// Writes the line of one item of a batch.
    pub(crate) fn item<N: Into<String>>(
        &self,
        status: Option<&types::Status>,
        fields: impl FnOnce() -> Vec<(N, Value)>,
    ) {
        let Some(call) = &self.0 else { return };
        let status =
            status.map_or((Code::Ok, ""), |status| (Code::from(status.code), status.message.as_str()));
        let mut own = Map::new();
        own.extend(fields().into_iter().map(|(name, value)| (name.into(), value)));
        call.told().lines = true;
        call.write(own, status.0, status.1);
    }

    /// The call has ended.
    fn end(&self, code: Code, message: &str) {
        let Some(call) = &self.0 else { return };
        let fields = {
            let mut told = call.told();
            if told.lines && code == Code::Ok {
                return;
            }
            told.lines = true;
            told.fields.clone()
        };
        call.write(fields, code, message);
    }
}

impl Call {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, fields: Map<String, Value>, code: Code, message: &str) {
        let mut line = self.base.clone();
        line.extend(fields.into_iter().map(|(name, value)| (name, cut(value))));
        if code == Code::Ok {
            line.insert("status".into(), "success".into());
        } else {
            line.insert("status".into(), "error".into());
            line.insert("status_code".into(), STATUS_NAMES[code as usize].into());
            line.insert("status_message".into(), cut(message.into()));
        }
        let fields = Value::Object(line).to_string();
        info!(audit = fields.as_str(), "API accessed");
    }
}

/// Longest text of a field, in bytes. What is longer is cut.
const MAX_TEXT: usize = 16 * 1024;

fn cut(value: Value) -> Value {
    match value {
        Value::String(mut text) if text.len() > MAX_TEXT => {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
            Value::String(text + "…")
        }
        value => value,
    }
}

fn authorized_as(caller: &Caller) -> &'static str {
    match caller {
        Caller::Anyone => "nobody",
        Caller::Local => "local",
        Caller::Admin(_) => "admin",
        Caller::Downstream(_) => "downstream",
        Caller::Agent(_) => "agent",
    }
}

fn program_of(process: &PeerProcess) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{}/exe", process.pid)).ok()?;
    // Read by number: it counts only if the number still means this process.
    process.still_same().then(|| path.to_string_lossy().into_owned())
}

/// SHA-256 of a request for a certificate in hex; nothing of nothing.
pub(crate) fn csr_hash(csr: &[u8]) -> String {
    if csr.is_empty() { String::new() } else { hex::encode(digest(&SHA256, csr)) }
}

/// The fields of an entry that an operator writes; those that `mask` leaves alone are not told.
pub(crate) fn entry_fields(
    entry: &types::Entry,
    mask: Option<&types::EntryMask>,
) -> Vec<(&'static str, Value)> {
    let all = types::EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        jwt_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        created_at: true,
        ..types::EntryMask::default()
    };
    let mask = mask.unwrap_or(&all);
    let id = |id: &Option<types::Spiffeid>| id.as_ref().map(spiffe_id).unwrap_or_default();
    // What is empty is left out of these, as in SPIRE, and of the others not.
    let texts = [
        (true, "entry_id", entry.id.clone()),
        (mask.spiffe_id, "spiffe_id", id(&entry.spiffe_id)),
        (mask.parent_id, "parent_id", id(&entry.parent_id)),
        (mask.selectors, "selectors", selectors(&entry.selectors)),
        (mask.federates_with, "federates_with", entry.federates_with.join(",")),
        (mask.dns_names, "dns_name", entry.dns_names.join(",")),
    ];
    let values = [
        (mask.x509_svid_ttl, "x509_svid_ttl", Value::from(entry.x509_svid_ttl)),
        (mask.jwt_svid_ttl, "jwt_svid_ttl", entry.jwt_svid_ttl.into()),
        (mask.admin, "admin", entry.admin.into()),
        (mask.downstream, "downstream", entry.downstream.into()),
        (mask.expires_at, "expires_at", entry.expires_at.into()),
        (mask.revision_number, "revision_number", entry.revision_number.into()),
        (mask.store_svid, "store_svid", entry.store_svid.into()),
        (mask.hint, "hint", entry.hint.as_str().into()),
        (mask.created_at, "created_at", entry.created_at.into()),
    ];
    let texts = texts.into_iter().filter(|(told, _, text)| *told && !text.is_empty());
    let texts = texts.map(|(_, name, text)| (name, Value::from(text)));
    texts.chain(values.into_iter().filter(|(told, ..)| *told).map(|(_, name, value)| (name, value))).collect()
}

/// Selectors as they were sent.
fn selectors(selectors: &[types::Selector]) -> String {
    let each: Vec<_> = selectors.iter().map(|each| format!("{}:{}", each.r#type, each.value)).collect();
    each.join(",")
}

/// `spiffe://…` as it was sent.
pub(crate) fn spiffe_id(id: &types::Spiffeid) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

/// The response of a call that is audited: its line is written when the response ends.
pub(crate) struct Audited {
    inner: Body,
    audit: Option<Audit>,
}

impl Audited {
    /// Audits how `response` ends.
    pub(crate) fn response(response: http::Response<Body>, audit: Audit) -> http::Response<Body> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            audit.end(status.code(), status.message());
            return response;
        }
        response.map(|inner| Body::new(Self { inner, audit: Some(audit) }))
    }

    fn end(&mut self, code: Code, message: &str) {
        if let Some(audit) = self.audit.take() {
            audit.end(code, message);
        }
    }
}

impl HttpBody for Audited {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let polled = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().map(|trailers| {
                    Status::from_header_map(trailers).unwrap_or_else(|| Status::unknown("no status"))
                }) {
                    self.end(status.code(), status.message());
                }
            }
            Some(Err(status)) => {
                let (code, message) = (status.code(), status.message().to_owned());
                self.end(code, &message);
            }
            None => self.end(Code::Unknown, "no status"),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        self.end(Code::Cancelled, "context canceled");
    }
}
