//! Keys about agents: how many may come, from where, and when they are forgotten.

use std::time::Duration;

use crate::config::section::Section;
use crate::go;

/// How many expired agents are removed at a time.
pub const DEFAULT_PRUNE_BATCH_SIZE: usize = 1000;

/// Which calls are limited per source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Attestation of agents.
    pub attestation: bool,
    /// Signing of SVIDs.
    pub signing: bool,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { attestation: true, signing: true }
    }
}

/// Which agents are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prune {
    /// How long their SVID has been expired.
    pub expired_for: Duration,
    /// How many at a time.
    pub batch_size: usize,
    /// Also those that cannot attest again, such as those of join tokens.
    pub tofu: bool,
}

/// Reads `prune_*`.
pub(super) fn read_prune(section: &Section<'_>) -> Option<Prune> {
    let expired_for = section.duration("prune_attested_nodes_expired_for");
    let batch_size = section.integer("prune_attested_nodes_batch_size", 0, i64::from(i32::MAX));
    let tofu = section.flag("prune_tofu_nodes").unwrap_or(false);
    Some(Prune {
        expired_for: expired_for?,
        batch_size: batch_size
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size != 0)
            .unwrap_or(DEFAULT_PRUNE_BATCH_SIZE),
        tofu,
    })
}

/// Reads `ratelimit`.
pub(super) fn read_rate_limit(section: &Section<'_>) -> RateLimit {
    let Some(limit) = section.section("ratelimit") else { return RateLimit::default() };
    let read = RateLimit {
        attestation: limit.flag("attestation").unwrap_or(true),
        signing: limit.flag("signing").unwrap_or(true),
    };
    limit.finish();
    read
}

/// Reads `proxy_protocol_trusted_cidrs` with `parse`.
pub(super) fn read_proxies<T>(section: &Section<'_>, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let mut cidrs = Vec::new();
    for text in section.strings("proxy_protocol_trusted_cidrs") {
        match parse(&text) {
            Some(cidr) => cidrs.push(cidr),
            None => section.refuse(
                "proxy_protocol_trusted_cidrs",
                format!(
                    "invalid proxy_protocol_trusted_cidrs value {}: invalid CIDR address: {text}",
                    go::quote(&text)
                ),
            ),
        }
    }
    cidrs
}
