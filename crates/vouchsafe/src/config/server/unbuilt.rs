//! Keys of SPIRE's servers that are not built yet.

use crate::config::section::Section;

/// Refuses them, unless they ask for what happens anyway.
pub(super) fn refuse(section: &Section<'_>) {
    section.not_built("federation", "remove it; trust domains cannot be federated by this version");
    section.not_built(
        "disable_jwt_svids",
        "remove it; JWT-SVIDs are always issued to entries that ask for them",
    );
    section.not_built("audit_log_enabled", "remove it or set it to false");
    section.not_built("prune_attested_nodes_expired_for", "remove it and evict agents with `agent evict`");
    section.no_effect("prune_attested_nodes_batch_size");
    section.not_built("prune_tofu_nodes", "remove it and evict agents with `agent evict`");
    section.not_built("max_attested_node_info_staleness", "remove it; agents are always looked up in memory");
    section.not_built("proxy_protocol_trusted_cidrs", "remove it and let the load balancer pass TCP through");
    for key in ["profiling_enabled", "profiling_freq", "profiling_names"] {
        section.not_built(key, "remove it and profile the process with `perf`");
    }
    section.no_effect("profiling_port");
    let Some(experimental) = section.section("experimental") else { return };
    // The caches of this server follow the change feed by themselves; what tunes SPIRE's has nothing to act on.
    for key in ["events_based_cache", "cache_reload_interval", "full_cache_reload_interval"] {
        experimental.no_effect(key);
    }
    for key in ["prune_events_older_than", "event_timeout", "sql_transaction_timeout"] {
        experimental.no_effect(key);
    }
    experimental.not_built("named_pipe_name", "named pipes exist on Windows only; use socket_path");
    let keys = [
        "auth_opa_policy_engine",
        "agent_spiffe_id_as_selector",
        "require_pq_kem",
        "wit_key_type",
        "wit_issuer",
    ];
    for key in keys.into_iter().chain(["feature_flags"]) {
        experimental.not_built(key, "remove it");
    }
    experimental.finish();
}
