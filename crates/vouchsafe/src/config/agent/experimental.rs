//! Keys of SPIRE's agents that are experimental or not built.

use std::time::Duration;

use vouchsafe_agent::limits::LimitsConfig;
use vouchsafe_identity::config::KeyExchange;

use super::DEFAULT_SYNC_INTERVAL;
use crate::config::plugins;
use crate::config::section::Section;
use crate::go;

/// Shorter intervals would ask the server for nothing but work.
const SHORTEST_SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// Bounds of `jwt_svid_cache_hit_timeout`, as SPIRE has them.
const CACHE_HIT_TIMEOUT: std::ops::Range<Duration> = Duration::from_secs(5)..Duration::from_secs(30);

/// What `experimental` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experimental {
    /// How often entries are fetched.
    pub sync_interval: Duration,
    /// How long a workload that has a token waits for a newer one. `None`: the agent's default.
    pub jwt_svid_cache_hit_timeout: Option<Duration>,
    /// What connections to the server must agree on their keys by.
    pub key_exchange: KeyExchange,
    /// Bounds on what each kind of caller may ask for.
    pub limits: LimitsConfig,
}

impl Default for Experimental {
    fn default() -> Self {
        Self {
            sync_interval: DEFAULT_SYNC_INTERVAL,
            jwt_svid_cache_hit_timeout: None,
            key_exchange: KeyExchange::Any,
            limits: LimitsConfig::default(),
        }
    }
}

/// Reads `experimental`.
pub(super) fn read(section: &Section<'_>) -> Experimental {
    let Some(section) = section.section("experimental") else { return Experimental::default() };
    let interval = section.duration("sync_interval");
    if interval.is_some_and(|interval| interval < SHORTEST_SYNC_INTERVAL) {
        section.problem("sync_interval", "must be at least 100ms");
    }
    if section.flag("use_sync_authorized_entries") == Some(false) {
        section.problem("use_sync_authorized_entries", "is always on; remove it");
    }
    for (key, instead) in [("named_pipe_name", "socket_path"), ("admin_named_pipe_name", "admin_socket_path")]
    {
        if section.text(key).is_some() {
            section.refuse(
                key,
                format!("invalid configuration: {key} is not supported in this platform; please use {instead} instead"),
            );
        }
    }
    section.not_built("broker", "remove it and use authorized_delegates with admin_socket_path");
    section.not_built("feature_flags", "remove it; no feature is behind a flag");
    let read = Experimental {
        sync_interval: interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
        jwt_svid_cache_hit_timeout: read_cache_hit_timeout(&section),
        key_exchange: plugins::key_exchange(&section),
        limits: read_limits(&section),
    };
    section.finish();
    read
}

fn read_cache_hit_timeout(section: &Section<'_>) -> Option<Duration> {
    const KEY: &str = "jwt_svid_cache_hit_timeout";
    let timeout = section.duration(KEY)?;
    let text = go::format_duration(timeout);
    if timeout < CACHE_HIT_TIMEOUT.start {
        let least = go::format_duration(CACHE_HIT_TIMEOUT.start);
        section.refuse(KEY, format!("{KEY} ({text}) must be greater than {least}"));
    } else if timeout >= CACHE_HIT_TIMEOUT.end {
        let most = go::format_duration(CACHE_HIT_TIMEOUT.end);
        section.refuse(KEY, format!("{KEY} ({text}) must be less than {most}"));
    }
    Some(timeout)
}

fn read_limits(section: &Section<'_>) -> LimitsConfig {
    let Some(section) = section.section("ratelimit") else { return LimitsConfig::default() };
    let limit = |key| {
        let number = section.integer(key, i64::from(i32::MIN), i64::from(i32::MAX)).unwrap_or_default();
        if number < 0 {
            section.refuse(key, format!("experimental.ratelimit.{key} must not be negative"));
        }
        u32::try_from(number).unwrap_or_default()
    };
    let read = LimitsConfig {
        fetch_x509_svid: limit("fetch_x509_svid"),
        fetch_jwt_svid: limit("fetch_jwt_svid"),
        fetch_x509_bundles: limit("fetch_x509_bundles"),
        fetch_jwt_bundles: limit("fetch_jwt_bundles"),
        stream_secrets: limit("stream_secrets"),
        fetch_secrets: limit("fetch_secrets"),
    };
    section.finish();
    read
}

/// Reads keys of `agent` that change nothing here, and refuses those that cannot be followed.
pub(super) fn read_others(section: &Section<'_>) {
    section.not_built("profiling_enabled", "remove it and profile the process with `perf`");
    for key in ["profiling_port", "profiling_freq", "profiling_names"] {
        section.no_effect(key);
    }
}
