//! The names of the agent's metrics, all in one place. They are SPIRE's, after the prefix that the registry adds.

use std::time::Duration;

use tonic::Code;
use vouchsafe_runtime::metrics::{Call, Counter, Gauge, Registry, Summary};
use vouchsafe_transport::rpc_metrics::STATUS_NAMES;

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
        self.registry.gauge("bootstrapped", &[]).set(0.0);
    }

    /// When the agent has an SVID.
    pub fn bootstrapped(&self) {
        self.registry.gauge("bootstrapped", &[]).set(1.0);
    }

    /// When the agent got its first SVID.
    pub fn bootstrap(&self, took: Duration, attempts: u32) {
        let mode = &[("mode", "bootstrap")];
        self.registry.gauge("bootstrap_seconds", mode).set(took.as_secs_f64());
        self.registry.gauge("bootstrap_attempts", mode).set(f64::from(attempts));
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

const X509: &[(&str, &str)] = &[("svid_type", "X509")];
