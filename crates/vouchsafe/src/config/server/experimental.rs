//! Keys of SPIRE's servers that are experimental or not built.

use vouchsafe_identity::config::KeyExchange;

use crate::config::plugins;
use crate::config::section::Section;

/// Reads `experimental`, of which only `require_pq_kem` makes a difference.
pub(super) fn read(section: &Section<'_>) -> KeyExchange {
    let Some(section) = section.section("experimental") else { return KeyExchange::Any };
    let key_exchange = plugins::key_exchange(&section);
    // The caches of this server follow the change feed by themselves; what tunes SPIRE's has nothing to act on.
    section.flag("events_based_cache");
    let intervals = ["cache_reload_interval", "full_cache_reload_interval", "prune_events_older_than"];
    for key in intervals.into_iter().chain(["event_timeout", "sql_transaction_timeout"]) {
        section.duration(key);
    }
    if section.has("sql_transaction_timeout") {
        if section.has("event_timeout") {
            section.refuse(
                "sql_transaction_timeout",
                "both experimental sql_transaction_timeout and event_timeout set, only set event_timeout",
            );
        }
        section.warn(
            "experimental.sql_transaction_timeout is deprecated, use experimental.event_timeout instead",
        );
    }
    // SPIRE reads them only with the feature flag `wit-svid`.
    section.no_effect("wit_key_type");
    section.no_effect("wit_issuer");
    if section.text("named_pipe_name").is_some() {
        section.refuse(
            "named_pipe_name",
            "invalid configuration: named_pipe_name is not supported in this platform; please use socket_path instead",
        );
    }
    section.not_built(
        "auth_opa_policy_engine",
        "remove it; who may call what is a built-in table, and admin_ids adds administrators",
    );
    section.not_built("agent_spiffe_id_as_selector", "remove it and use the selectors of the node attestor");
    section.not_built("feature_flags", "remove it; no feature is behind a flag");
    section.finish();
    key_exchange
}

/// Reads keys of `server` that change nothing here, and refuses those that cannot be followed.
pub(super) fn read_others(section: &Section<'_>) {
    // Agents are looked up in memory, which the change feed keeps current.
    section.duration("max_attested_node_info_staleness");
    section.not_built("profiling_enabled", "remove it and profile the process with `perf`");
    for key in ["profiling_port", "profiling_freq", "profiling_names"] {
        section.no_effect(key);
    }
}
