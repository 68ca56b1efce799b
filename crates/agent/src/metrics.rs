//! The names of the agent's metrics, all in one place. They are SPIRE's, after the prefix that the registry adds.

use std::time::Duration;

use tonic::Code;
use vouchsafe_runtime::metrics::{Call, Counter, Gauge, Registry, Summary};
use vouchsafe_transport::rpc_metrics::STATUS_NAMES;

pub use events::{Repair, Retry};

mod events;

/// Makes the agent's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// In `registry`.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }

    /// Each synchronization.
    #[must_use]
    pub fn sync(&self) -> Call {
        self.registry.call("manager_sync_fetch_entries_updates")
    }

    /// Each batch of X.509-SVIDs.
    #[must_use]
    pub fn fetch_svids(&self) -> Call {
        self.registry.call("manager_sync_fetch_svids_updates")
    }

    /// Node attestation.
    #[must_use]
    pub fn new_svid(&self) -> Call {
        self.registry.call("node_attestor_new_svid")
    }

    /// Renewal of the agent's own SVID.
    #[must_use]
    pub fn rotate(&self) -> Call {
        self.registry.call("agent_svid_rotate")
    }

    /// Key generation.
    #[must_use]
    pub fn generate_key(&self) -> Call {
        self.registry.call("agent_key_manager_generate_key")
    }

    /// Attestation of an agent that was attested before.
    #[must_use]
    pub fn reattest(&self) -> Call {
        self.registry.call("node_attest")
    }

    /// Asking the key manager for one key.
    #[must_use]
    pub fn get_key(&self) -> Call {
        self.registry.call("agent_key_manager_get_key")
    }

    /// Asking the key manager for all keys.
    #[must_use]
    pub fn get_keys(&self) -> Call {
        self.registry.call("agent_key_manager_get_keys")
    }

    /// Looking for X.509-SVIDs that a tainted authority signed.
    #[must_use]
    pub fn process_tainted_x509_svids(&self) -> Call {
        self.registry.call("cache_manager_workload_process_tainted_x509_svids")
    }

    /// Looking for JWT-SVIDs that a tainted key signed.
    #[must_use]
    pub fn process_tainted_jwt_svids(&self) -> Call {
        self.registry.call("cache_manager_workload_process_tainted_jwt_svids")
    }

    /// How many X.509-SVIDs a tainted authority signed.
    pub fn tainted_x509_svids(&self, count: usize) {
        self.registry.summary("cache_manager_tainted_x509_svids_workload", &[]).observe(count as f64);
    }

    /// How many JWT-SVIDs a tainted key signed.
    pub fn tainted_jwt_svids(&self, count: usize) {
        self.registry.summary("cache_manager_tainted_jwt_svids_workload", &[]).observe(count as f64);
    }

    /// One attestation of a workload.
    #[must_use]
    pub fn attestation(&self) -> Call {
        self.registry.call("workload_api_workload_attestation")
    }

    /// One attestor's part in it.
    #[must_use]
    pub fn attestor(&self) -> Call {
        self.registry.call("workload_api_workload_attestor")
    }

    /// Selectors per workload.
    #[must_use]
    pub fn discovered_selectors(&self) -> Summary {
        self.registry.summary("workload_api_discovered_selectors", &[])
    }

    /// RPCs opened, and RPCs open.
    #[must_use]
    pub fn workload_api_connections(&self) -> (Counter, Gauge) {
        (
            self.registry.counter("workload_api_connection", &[]),
            self.registry.gauge("workload_api_connections", &[]),
        )
    }

    /// RPCs of the admin socket's services opened, and open: `delegated_identity_api`, `debug_api`, `logger_api`.
    #[must_use]
    pub fn admin_api_connections(&self, api: &str) -> (Counter, Gauge) {
        (
            self.registry.counter(&format!("{api}_connection"), &[]),
            self.registry.gauge(&format!("{api}_connections"), &[]),
        )
    }

    /// Milliseconds until a delegate's stream had its first identity.
    #[must_use]
    pub fn delegated_first_update(&self) -> Summary {
        self.registry.summary("delegated_identity_api_subscribe_x509_svids_first_update_elapsed_time", &[])
    }

    /// Requests of callers that asked too often.
    #[must_use]
    pub fn rate_limit_exceeded(&self, method: &str) -> Counter {
        let method = vouchsafe_runtime::metrics::sanitize(method);
        self.registry.counter("workload_api_rate_limit_exceeded", &[("method", &method)])
    }

    /// Secret discovery RPCs opened, and open.
    #[must_use]
    pub fn sds_api_connections(&self) -> (Counter, Gauge) {
        (self.registry.counter("sds_api_connection", &[]), self.registry.gauge("sds_api_connections", &[]))
    }

    /// After each successful synchronization.
    pub fn synchronized(&self, stats: crate::sync::Stats, bundles: usize) {
        let set = |name: &str, value: usize| self.registry.gauge(name, &[]).set(value as f64);
        set("sync_bundles_total", bundles);
        set("sync_entries_total", stats.total);
        set("sync_entries_missing", stats.missing);
        set("sync_entries_stale", stats.stale);
        set("sync_entries_dropped", stats.dropped);
    }

    /// When the set of entries changed.
    pub fn entries_changed(&self, added: usize, updated: usize, removed: usize, total: usize) {
        let add = |name: &str, count: usize| self.registry.counter(name, &[]).add(count as u64);
        add("lru_cache_entry_add", added);
        add("lru_cache_entry_update", updated);
        add("lru_cache_entry_remove", removed);
        self.registry.gauge("lru_cache_record_map_size", X509).set(total as f64);
    }

    /// When SVIDs came or went.
    pub fn svids_held(&self, count: usize) {
        self.registry.gauge("lru_cache_svid_map_size", X509).set(count as f64);
    }

    /// When JWT-SVIDs came or went.
    pub fn jwt_svids_held(&self, count: usize) {
        self.registry.gauge("jwt_svid_cache_size", &[]).set(count as f64);
    }

    /// When a plan finds SVIDs to renew or to replace.
    pub fn renewals(&self, expiring: usize, outdated: usize) {
        if expiring > 0 {
            self.registry.summary("cache_manager_expiring_svids", &[]).observe(expiring as f64);
        }
        if outdated > 0 {
            self.registry.summary("cache_manager_outdated_svids", &[]).observe(outdated as f64);
        }
    }

    /// Once at start.
    pub fn started(&self, version: &str, trust_domain: &str) {
        let version = vouchsafe_runtime::metrics::sanitize(version);
        let trust_domain = vouchsafe_runtime::metrics::sanitize(trust_domain);
        let labels = [("version", version.as_str()), ("trust_domain_id", trust_domain.as_str())];
        self.registry.gauge("started", &labels).set(1.0);
        self.announce();
    }

    /// How getting in contact with the server goes. As in SPIRE, `bootstrap_seconds` is the unix time at which it began; 0
    /// says that it is over.
    pub fn bootstrap(&self, mode: &str, since: Option<i64>, attempts: u64) {
        let over = since.is_none() && mode != "bootstrap";
        let mode = &[("mode", mode)];
        self.registry.gauge("bootstrapped", &[]).set(if over { 1.0 } else { 0.0 });
        self.registry.gauge("bootstrap_seconds", mode).set(since.unwrap_or(0) as f64);
        self.registry.gauge("bootstrap_attempts", mode).set(attempts as f64);
    }

    /// Something failed and is tried again.
    pub fn retried(&self, what: Retry) {
        self.registry.counter("vouchsafe_retries", &[("what", what.name())]).inc();
    }

    /// The agent put something right by itself.
    pub fn repaired(&self, what: Repair) {
        self.registry.counter("vouchsafe_repairs", &[("what", what.name())]).inc();
    }

    /// Shows each kind of retry and repair from the start, so that the first one is seen as an increase.
    fn announce(&self) {
        for what in Retry::ALL {
            self.registry.counter("vouchsafe_retries", &[("what", what.name())]).add(0);
        }
        for what in Repair::ALL {
            self.registry.counter("vouchsafe_repairs", &[("what", what.name())]).add(0);
        }
    }

    /// One call to a server, which its address stands for.
    pub fn server_request(&self, server: &str, status: &str, elapsed: Duration) {
        let labels = [("server", server), ("status", status)];
        self.registry.counter(SERVER_REQUESTS, &labels).inc();
        self.registry.histogram(SERVER_REQUEST_SECONDS, &labels[..1]).observe(elapsed);
    }

    /// What a server is worth, since when there is a connection (unix seconds, 0 without), and whether it is in use.
    pub fn server_gauges(&self, server: &str, score: f64, connected_since: f64, in_use: bool) {
        let values = [score, connected_since, if in_use { 1.0 } else { 0.0 }];
        for (name, value) in SERVER_GAUGES.iter().zip(values) {
            self.registry.gauge(name, &[("server", server)]).set(value);
        }
    }

    /// A server is gone from the list.
    pub fn forget_server(&self, server: &str) {
        for name in SERVER_GAUGES.into_iter().chain([SERVER_REQUESTS, SERVER_REQUEST_SECONDS]) {
            self.registry.forget(name, ("server", server));
        }
    }

    /// Has `collect` called before metrics are shown; see [`Registry::before_render`].
    pub fn before_render(&self, what: &'static str, collect: impl Fn() + Send + Sync + 'static) {
        self.registry.before_render(what, move |_| collect());
    }

    /// Whether the server tells this agent of changes by itself.
    pub fn push_connected(&self, connected: bool) {
        self.registry.gauge("vouchsafe_push_connected", &[]).set(f64::from(u8::from(connected)));
    }

    /// One request to the kubelet; `outcome` is `ok` or the kind of failure.
    pub fn kubelet_request(&self, outcome: &str, elapsed: Duration) {
        self.registry.counter("vouchsafe_kubelet_requests", &[("outcome", outcome)]).inc();
        self.registry.histogram("vouchsafe_kubelet_request_seconds", &[]).observe(elapsed);
    }

    /// What is known of this node's Pods: how many, with how many containers, as of how long ago, and how many containers
    /// are waited for.
    pub fn pods_held(&self, pods: usize, containers: usize, age: Option<Duration>, waited_for: usize) {
        let set = |name: &str, value: f64| self.registry.gauge(name, &[]).set(value);
        set("vouchsafe_kubelet_pods", pods as f64);
        set("vouchsafe_kubelet_containers", containers as f64);
        set("vouchsafe_kubelet_containers_waited_for", waited_for as f64);
        if let Some(age) = age {
            set("vouchsafe_kubelet_list_age_seconds", age.as_secs_f64());
        }
    }

    /// Every few seconds.
    pub fn uptime(&self, uptime: Duration) {
        self.registry.gauge("uptime_in_ms", &[]).set(uptime.as_millis() as f64);
    }
}

/// How SPIRE's call counters spell a gRPC status.
#[must_use]
pub fn status_name(code: Code) -> &'static str {
    STATUS_NAMES[code as usize]
}

const SERVER_REQUESTS: &str = "vouchsafe_server_requests";
const SERVER_REQUEST_SECONDS: &str = "vouchsafe_server_request_seconds";
const SERVER_GAUGES: [&str; 3] =
    ["vouchsafe_server_score", "vouchsafe_server_connected_since_seconds", "vouchsafe_server_in_use"];

const X509: &[(&str, &str)] = &[("svid_type", "X509")];
