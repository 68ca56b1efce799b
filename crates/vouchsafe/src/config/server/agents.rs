//! Keys about agents: how many may come, from where, and when they are forgotten.

use vouchsafe_server::config::admission::{Prune, RateLimits};
use vouchsafe_transport::proxy::Network;

use crate::config::section::Section;
use crate::go;

/// Reads `prune_*`.
pub(super) fn read_prune(section: &Section<'_>) -> Prune {
    let batch = section.integer("prune_attested_nodes_batch_size", 0, i64::from(i32::MAX));
    Prune {
        expired_for: section.duration("prune_attested_nodes_expired_for"),
        batch: batch.and_then(|size| usize::try_from(size).ok()).unwrap_or_default(),
        tofu: section.flag("prune_tofu_nodes").unwrap_or(false),
    }
}

/// Reads `ratelimit`.
pub(super) fn read_rate_limits(section: &Section<'_>) -> RateLimits {
    let Some(limit) = section.section("ratelimit") else { return RateLimits::default() };
    let read = RateLimits {
        attestation: limit.flag("attestation").unwrap_or(true),
        signing: limit.flag("signing").unwrap_or(true),
    };
    limit.finish();
    read
}

/// Reads `proxy_protocol_trusted_cidrs`.
pub(super) fn read_balancers(section: &Section<'_>) -> Vec<Network> {
    let mut networks = Vec::new();
    for text in section.strings("proxy_protocol_trusted_cidrs") {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(_) => section.refuse(
                "proxy_protocol_trusted_cidrs",
                format!(
                    "invalid proxy_protocol_trusted_cidrs value {}: invalid CIDR address: {text}",
                    go::quote(&text)
                ),
            ),
        }
    }
    networks
}
