//! Lifetimes, and whether a CA can keep what they promise.

use std::time::Duration;

use super::Config;
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

/// An SVID is certain to live out its time only if the CA's lifetime is this many times longer.
const CA_TTL_PER_SVID_TTL: u32 = 6;
/// And never for longer than this, whatever the CA's lifetime.
const MAX_CERTAIN_SVID_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// A lifetime. Zero would make everything expired when issued.
pub(super) fn positive(section: &Section<'_>, key: &'static str) -> Option<Duration> {
    let duration = section.duration(key)?;
    if duration < Duration::from_secs(1) {
        section.problem(key, &format!("must be at least 1s, not {}", go::format_duration(duration)));
    }
    Some(duration)
}

/// Warns of lifetimes that the rotation of the CA may cut short.
pub(super) fn warn(config: &Config, problems: &Problems) {
    let lifetimes = [
        ("default_x509_svid_ttl", Some(config.default_x509_svid_ttl)),
        ("default_jwt_svid_ttl", Some(config.default_jwt_svid_ttl)),
        ("agent_ttl", config.agent_ttl),
    ];
    for (key, lifetime) in lifetimes {
        if let Some(text) = lifetime.and_then(|lifetime| warning(key, lifetime, config.ca_ttl)) {
            problems.warn(text);
        }
    }
}

/// What SPIRE says of a lifetime that is too long.
fn warning(key: &str, lifetime: Duration, ca_ttl: Duration) -> Option<String> {
    let certain = (ca_ttl / CA_TTL_PER_SVID_TTL).min(MAX_CERTAIN_SVID_TTL);
    if lifetime <= certain {
        return None;
    }
    let longest_ca = MAX_CERTAIN_SVID_TTL * CA_TTL_PER_SVID_TTL;
    Some(if lifetime < MAX_CERTAIN_SVID_TTL {
        format!(
            "{key} is too high for the configured ca_ttl value. SVIDs with shorter lifetimes may be issued. Please set {key} \
             to {} or less, or the ca_ttl to {} or more, to guarantee the full {key} lifetime when CA rotations are \
             scheduled.",
            short(certain),
            short(lifetime * CA_TTL_PER_SVID_TTL),
        )
    } else if ca_ttl < longest_ca {
        format!(
            "{key} is too high and the ca_ttl is too low. SVIDs with shorter lifetimes may be issued. Please set {key} to {} \
             or less, and the ca_ttl to {} or more, to guarantee the full {key} lifetime when CA rotations are scheduled.",
            short(MAX_CERTAIN_SVID_TTL),
            short(longest_ca),
        )
    } else {
        format!(
            "{key} is too high. SVIDs with shorter lifetimes may be issued. Please set {key} to {} or less to guarantee the \
             full {key} lifetime when CA rotations are scheduled.",
            short(certain),
        )
    })
}

/// Go's form without the zeros at its end: `1h`, not `1h0m0s`.
fn short(duration: Duration) -> String {
    let mut text = go::format_duration(Duration::from_secs(duration.as_secs()));
    for (ending, kept) in [("m0s", 1), ("h0m", 1)] {
        if text.ends_with(ending) {
            text.truncate(text.len() - ending.len() + kept);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_lifetime_is_written_without_zeros_at_its_end() {
        for (secs, expected) in [(3600, "1h"), (5400, "1h30m"), (90, "1m30s"), (604_800, "168h"), (59, "59s")]
        {
            assert_eq!(short(Duration::from_secs(secs)), expected);
        }
    }

    #[test]
    fn a_lifetime_that_the_ca_cannot_guarantee_is_told_in_spires_words() {
        assert_eq!(warning("agent_ttl", HOUR, 6 * HOUR), None);
        assert_eq!(
            warning("default_x509_svid_ttl", 2 * HOUR, 6 * HOUR).unwrap(),
            "default_x509_svid_ttl is too high for the configured ca_ttl value. SVIDs with shorter lifetimes may be issued. \
             Please set default_x509_svid_ttl to 1h or less, or the ca_ttl to 12h or more, to guarantee the full \
             default_x509_svid_ttl lifetime when CA rotations are scheduled."
        );
        assert_eq!(
            warning("agent_ttl", 169 * HOUR, 6 * HOUR).unwrap(),
            "agent_ttl is too high and the ca_ttl is too low. SVIDs with shorter lifetimes may be issued. Please set \
             agent_ttl to 168h or less, and the ca_ttl to 1008h or more, to guarantee the full agent_ttl lifetime when CA \
             rotations are scheduled."
        );
        assert_eq!(
            warning("agent_ttl", 169 * HOUR, 1008 * HOUR).unwrap(),
            "agent_ttl is too high. SVIDs with shorter lifetimes may be issued. Please set agent_ttl to 168h or less to \
             guarantee the full agent_ttl lifetime when CA rotations are scheduled."
        );
    }
}
