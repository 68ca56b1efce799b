//! `/live`, `/ready` and `/metrics` over plain HTTP/1.1.
//!
//! Each connection serves one request and ends within [`CONNECTION_TIMEOUT`]; at most [`MAX_CONNECTIONS`] are
//! open at a time, and at that bound new ones wait in the kernel's backlog. So whoever can reach the port can
//! delay a probe by that long at most, and never for good. See [`crate::pages`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::ALLOW;
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::{Readiness, Report, State};

use crate::pages::{self, Bounds, JSON, Page, Site, TEXT, page};

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take, from accept to the last byte of its answer.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What is served where. Anything else is 404.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    health: Option<Health>,
    metrics: Vec<Registry>,
    /// Metrics at every path that is not a health path, as SPIRE's Prometheus port does.
    metrics_everywhere: bool,
}

#[derive(Clone, Debug)]
struct Health {
    readiness: Readiness,
    live_path: String,
    ready_path: String,
}

impl Pages {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the health pages, usually at `/live` and `/ready`: 200 or 500, and a report of all parts as JSON.
    #[must_use]
    pub fn with_health(mut self, readiness: Readiness, live_path: &str, ready_path: &str) -> Self {
        let (live_path, ready_path) = (live_path.to_owned(), ready_path.to_owned());
        self.health = Some(Health { readiness, live_path, ready_path });
        self
    }

    /// Adds `registry` to `/metrics`. Several differ in their prefixes.
    #[must_use]
    pub fn with_metrics(mut self, registry: Registry) -> Self {
        self.metrics.push(registry);
        self
    }

    /// Serves metrics at any path that has no page of its own.
    #[must_use]
    pub fn with_metrics_everywhere(mut self, registry: Registry) -> Self {
        self.metrics_everywhere = true;
        self.with_metrics(registry)
    }
}

impl Site for Pages {
    fn answer(&self, request: &Request<()>) -> Page {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let path = request.uri().path();
        if let Some(health) = &self.health {
            let report = || health.readiness.report();
            if path == health.live_path {
                let report = report();
                return health_page(report.live, &report);
            }
            if path == health.ready_path {
                let report = report();
                return health_page(report.ready, &report);
            }
        }
        if self.metrics.is_empty() || !(self.metrics_everywhere || path == "/metrics") {
            return page(StatusCode::NOT_FOUND, TEXT, "not found\n");
        }
        page(StatusCode::OK, PROMETHEUS, self.metrics.iter().map(Registry::render).collect::<String>())
    }
}

/// A bound port.
#[derive(Debug)]
pub struct HealthServer {
    tcp: TcpListener,
    pages: Arc<Pages>,
}

impl HealthServer {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// [`crate::tls::BindError`] with the address.
    pub async fn bind(address: SocketAddr, pages: Pages) -> Result<Self, crate::tls::BindError> {
        let tcp = TcpListener::bind(address).await;
        let tcp = tcp.map_err(|source| crate::tls::BindError { address, source })?;
        Ok(Self { tcp, pages: Arc::new(pages) })
    }

    /// Where clients connect.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `cancel`.
    pub async fn serve(self, cancel: CancellationToken) {
        // Probes may all come from one address.
        let bounds =
            Bounds { connections: MAX_CONNECTIONS, per_peer: MAX_CONNECTIONS, exchange: CONNECTION_TIMEOUT };
        pages::serve(self.tcp, self.pages, bounds, cancel).await;
    }
}

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn health_page(good: bool, report: &Report) -> Page {
    let status = if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    page(status, JSON, report_json(report).to_string())
}

/// `{"ready":true,"live":true,"draining":false,"degraded":[],"parts":{"server":{"state":"ready","since":1700000000,
/// "reason":""}}}`; `degraded` is for people: `{"capability":"server","since":"2026-01-02T15:04:05Z","reason":"…"}`.
fn report_json(report: &Report) -> Value {
    let parts: Map<String, Value> = report
        .parts
        .iter()
        .map(|part| {
            let since = part.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let known = json!({ "state": part.state.as_str(), "since": since, "reason": part.reason });
            (part.name.to_owned(), known)
        })
        .collect();
    let degraded = report.parts.iter().filter(|part| part.state == State::Degraded);
    let degraded: Vec<Value> = degraded
        .map(|part| json!({ "capability": part.name, "since": rfc3339(part.since), "reason": part.reason }))
        .collect();
    json!({
        "ready": report.ready, "live": report.live, "draining": report.draining, "degraded": degraded, "parts": parts,
    })
}

fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = i64::try_from(seconds).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;
    use vouchsafe_runtime::clock::Clock;

    fn readiness() -> Readiness {
        Readiness::new(Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)))
    }

    fn get(pages: &Pages, path: &str) -> StatusCode {
        pages.answer(&Request::get(path).body(()).unwrap()).status()
    }

    #[tokio::test]
    async fn health_follows_the_marks_of_the_parts() {
        let readiness = readiness();
        let pages = Pages::new().with_health(readiness.clone(), "/live", "/ready");
        let token = readiness.token("server");
        assert_eq!(
            (get(&pages, "/live"), get(&pages, "/ready")),
            (StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR)
        );
        token.mark();
        assert_eq!((get(&pages, "/live"), get(&pages, "/ready")), (StatusCode::OK, StatusCode::OK));
        token.degrade("database is away");
        assert_eq!((get(&pages, "/live"), get(&pages, "/ready")), (StatusCode::OK, StatusCode::OK));
        let json = report_json(&readiness.report());
        assert_eq!(
            json["parts"]["server"],
            json!({ "state": "degraded", "since": 1000, "reason": "database is away" })
        );
        assert_eq!(
            json["degraded"],
            json!([{ "capability": "server", "since": "1970-01-01T00:16:40Z", "reason": "database is away" }])
        );
        token.fail("gone");
        assert_eq!(
            (get(&pages, "/live"), get(&pages, "/ready")),
            (StatusCode::INTERNAL_SERVER_ERROR, StatusCode::INTERNAL_SERVER_ERROR)
        );
    }

    #[tokio::test]
    async fn only_known_pages_and_methods_are_served() {
        let registry = Registry::new("spire_server", &[]);
        let pages = Pages::new().with_metrics(registry.clone());
        assert_eq!(get(&pages, "/metrics"), StatusCode::OK);
        assert_eq!(get(&pages, "/live"), StatusCode::NOT_FOUND);
        assert_eq!(get(&pages, "/"), StatusCode::NOT_FOUND);
        let post = Request::post("/metrics").body(()).unwrap();
        assert_eq!(pages.answer(&post).status(), StatusCode::METHOD_NOT_ALLOWED);
        let everywhere = Pages::new().with_metrics_everywhere(registry);
        assert_eq!(get(&everywhere, "/anything"), StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_come_over_the_wire_and_idle_clients_do_not_keep_others_out() {
        let registry = Registry::new("spire_server", &[]);
        registry.counter("rpc_test", &[("status", "OK")]).inc();
        let pages = Pages::new().with_metrics(registry);
        let server = HealthServer::bind(([127, 0, 0, 1], 0).into(), pages).await.unwrap();
        let address = server.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(cancel.clone()));
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS / 2 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("spire_server_rpc_test{status=\"OK\"} 1\n"), "{answer}");
        cancel.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }
}
