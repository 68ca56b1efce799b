//! When a foreign bundle is fetched again. Pure.
//!
//! Its trust domain says how long a copy may be used (`spiffe_refresh_hint`). Several attempts are made within that
//! time, so that an endpoint may be away for a while. Each trust domain has its own place in the period, which depends on
//! its name alone: relationships that began together, or servers that restarted together, do not ask together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vouchsafe_runtime::entropy::spread;
use vouchsafe_types::bundle::Bundle;

/// How long from one fetch to the next, given the bundle that is held. The rules are SPIRE's but for the upper bounds.
pub(super) fn period(held: Option<&Bundle>) -> Duration {
    let Some(bundle) = held else { return WITHOUT_BUNDLE };
    if let Some(hint) = u64::try_from(bundle.refresh_hint).ok().filter(|hint| *hint > 0) {
        return Duration::from_secs(hint).clamp(MIN_HINT, MAX_HINT) / ATTEMPTS;
    }
    let lifetimes = bundle.x509_authorities.iter().filter_map(|authority| {
        let read = authority.parsed().ok()?;
        u64::try_from(read.not_after.saturating_sub(read.not_before)).ok()
    });
    let hint = lifetimes.min().map_or(MIN_HINT, |shortest| Duration::from_secs(shortest / LEEWAY));
    (hint.max(MIN_HINT) / ATTEMPTS).min(WITHOUT_HINT)
}

/// How long to wait for the place of `key` in the period: between half and one and a half of it.
pub(super) fn wait(key: &str, period: Duration, now: SystemTime) -> Duration {
    let (whole, now) =
        (period.as_secs_f64(), now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    let place = spread(key.as_bytes()) * whole;
    let left = whole - (now - place).rem_euclid(whole);
    // The place itself may seem to lie just ahead when clocks do not run alike: it is not visited twice.
    Duration::from_secs_f64(if left < whole / 2.0 { left + whole } else { left })
}

/// Attempts within a refresh hint.
const ATTEMPTS: u32 = 4;
/// A shorter hint counts as this.
const MIN_HINT: Duration = Duration::from_secs(60);
/// A longer hint counts as this: a mistake there must not leave a revoked authority in use here for a year.
const MAX_HINT: Duration = Duration::from_secs(24 * 3600);
/// Without a hint a copy is good for this fraction of its shortest-lived authority's life.
const LEEWAY: u64 = 10;
/// Longest period without a hint.
const WITHOUT_HINT: Duration = Duration::from_secs(300);
/// Period until there is a bundle.
const WITHOUT_BUNDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_types::trust_domain::TrustDomain;

    fn hinted(refresh_hint: i64) -> Bundle {
        Bundle { refresh_hint, ..Bundle::new(TrustDomain::parse("b.example").unwrap()) }
    }

    #[test]
    fn four_attempts_fit_into_the_hint_within_bounds() {
        let check = |bundle: Option<Bundle>, seconds: u64| {
            assert_eq!(period(bundle.as_ref()), Duration::from_secs(seconds), "{bundle:?}");
        };
        check(None, 60);
        check(Some(hinted(300)), 75);
        check(Some(hinted(1)), 15);
        check(Some(hinted(-5)), 15);
        check(Some(hinted(i64::MAX)), 6 * 3600);
        check(Some(hinted(0)), 15);
    }

    #[test]
    fn each_trust_domain_keeps_its_place_in_the_period() {
        let period = Duration::from_secs(75);
        let at = |now: f64| UNIX_EPOCH + Duration::from_secs_f64(now);
        for name in ["a.example", "b.example", "c.example"] {
            let mut now = 1_700_000_000.0;
            let first = now + wait(name, period, at(now)).as_secs_f64();
            for late in [0.0, 0.5, 0.0, -0.001, 3.0, 0.0] {
                let waited = wait(name, period, at(now));
                assert!(waited >= period / 2 && waited <= period * 3 / 2, "{waited:?}");
                now += waited.as_secs_f64() + late;
                let off = (now - first).rem_euclid(75.0);
                assert!(!(3.1..=74.9).contains(&off), "{name} is {off} s off its place");
            }
        }
        assert_ne!(
            wait("a.example", period, at(1_700_000_000.0)),
            wait("b.example", period, at(1_700_000_000.0))
        );
    }
}
