//! Keys of SPIRE's agents that are not built yet.

use std::time::Duration;

use super::DEFAULT_SYNC_INTERVAL;
use crate::config::section::Section;
use crate::go;

/// Refuses them, unless they ask for what happens anyway.
pub(super) fn refuse(section: &Section<'_>) {
    if let Some(mode) = section.text("rebootstrap_mode").filter(|mode| mode != "never") {
        let mode = go::quote(&mode);
        section.problem("rebootstrap_mode", &format!("{mode} is not supported yet: use \"never\""));
    }
    section.no_effect("rebootstrap_delay");
    section.not_built("admin_socket_path", "remove it; the agent has no administrative API yet");
    section.not_built("authorized_delegates", "remove it; the agent has no delegated identity API yet");
    section.not_built("sds", "remove it; the agent does not speak Envoy's SDS yet");
    section.no_effect("disable_sds_api");
    section.not_built("disable_workload_api", "remove it; the Workload API is what the agent is for");
    section.not_built("availability_target", "remove it; SVIDs are renewed at half of their lifetime");
    for key in ["profiling_enabled", "profiling_freq", "profiling_names"] {
        section.not_built(key, "remove it and profile the process with `perf`");
    }
    section.no_effect("profiling_port");
}

/// The `experimental` section, of which only the synchronization interval is built.
pub(super) fn read_experimental(section: &Section<'_>) -> Duration {
    let Some(experimental) = section.section("experimental") else { return DEFAULT_SYNC_INTERVAL };
    let interval = experimental.duration("sync_interval");
    if interval.is_some_and(|interval| interval < Duration::from_millis(100)) {
        experimental.problem("sync_interval", "must be at least 100ms");
    }
    if experimental.flag("use_sync_authorized_entries") == Some(false) {
        experimental.problem("use_sync_authorized_entries", "is always on; remove it");
    }
    for key in ["named_pipe_name", "admin_named_pipe_name"] {
        experimental.not_built(key, "named pipes exist on Windows only; use socket_path");
    }
    for key in ["jwt_svid_cache_hit_timeout", "require_pq_kem", "ratelimit", "broker", "feature_flags"] {
        experimental.not_built(key, "remove it");
    }
    experimental.finish();
    interval.unwrap_or(DEFAULT_SYNC_INTERVAL)
}
