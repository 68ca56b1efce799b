//! How often one kind of caller may ask: `experimental.ratelimit` of the configuration. Off unless configured.
//!
//! A caller is the set of its selectors, as in SPIRE: a workload with many processes, or one that opens a connection
//! for each request, has one budget. Each method has budgets of its own: `limit` requests at once, and as many per
//! second. The agent's own requests (its health check) are never counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::time::Instant;
use tonic::Status;
use tracing::info;
use vouchsafe_runtime::budget::KeyedBudgets;
use vouchsafe_runtime::metrics::Counter;
use vouchsafe_types::selector::SelectorSet;

use crate::metrics::Metrics;

/// Requests per second and caller, by method. 0: no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LimitsConfig {
    /// `FetchX509SVID`.
    pub fetch_x509_svid: u32,
    /// `FetchJWTSVID`.
    pub fetch_jwt_svid: u32,
    /// `FetchX509Bundles`.
    pub fetch_x509_bundles: u32,
    /// `FetchJWTBundles`.
    pub fetch_jwt_bundles: u32,
    /// `StreamSecrets` of SDS.
    pub stream_secrets: u32,
    /// `FetchSecrets` of SDS.
    pub fetch_secrets: u32,
}

/// A method that can be limited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limited {
    /// `FetchX509SVID`.
    FetchX509Svid,
    /// `FetchJWTSVID`.
    FetchJwtSvid,
    /// `FetchX509Bundles`.
    FetchX509Bundles,
    /// `FetchJWTBundles`.
    FetchJwtBundles,
    /// `StreamSecrets` of SDS.
    StreamSecrets,
    /// `FetchSecrets` of SDS.
    FetchSecrets,
}

impl Limited {
    const ALL: [Self; 6] = [
        Self::FetchX509Svid,
        Self::FetchJwtSvid,
        Self::FetchX509Bundles,
        Self::FetchJwtBundles,
        Self::StreamSecrets,
        Self::FetchSecrets,
    ];

    /// The method's path, as SPIRE names it in the refusal and in the metric.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::FetchX509Svid => "/SpiffeWorkloadAPI/FetchX509SVID",
            Self::FetchJwtSvid => "/SpiffeWorkloadAPI/FetchJWTSVID",
            Self::FetchX509Bundles => "/SpiffeWorkloadAPI/FetchX509Bundles",
            Self::FetchJwtBundles => "/SpiffeWorkloadAPI/FetchJWTBundles",
            Self::StreamSecrets => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            Self::FetchSecrets => "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        }
    }

    fn of(self, config: &LimitsConfig) -> u32 {
        match self {
            Self::FetchX509Svid => config.fetch_x509_svid,
            Self::FetchJwtSvid => config.fetch_jwt_svid,
            Self::FetchX509Bundles => config.fetch_x509_bundles,
            Self::FetchJwtBundles => config.fetch_jwt_bundles,
            Self::StreamSecrets => config.stream_secrets,
            Self::FetchSecrets => config.fetch_secrets,
        }
    }
}

/// The budgets of all callers.
#[derive(Debug, Default)]
pub struct CallerLimits {
    /// Empty when nothing is limited.
    budgets: Vec<(Limited, Budgets)>,
}

#[derive(Debug)]
struct Budgets {
    by_caller: KeyedBudgets<Key>,
    exceeded: Counter,
    /// Who was refused, and when last.
    refused: Mutex<HashMap<Key, Instant>>,
}

/// A request that was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The path of the method.
    pub method: &'static str,
    /// How long ago.
    pub ago: Duration,
}

impl CallerLimits {
    /// As configured.
    #[must_use]
    pub fn new(config: &LimitsConfig, metrics: &Metrics) -> Self {
        let budgets = Limited::ALL.into_iter().filter(|method| method.of(config) > 0).map(|method| {
            let limit = method.of(config);
            info!(method = method.path(), limit, "Workload API/SDS rate limiting enabled");
            let by_caller = KeyedBudgets::new(f64::from(limit), limit, MAX_CALLERS);
            let exceeded = metrics.rate_limit_exceeded(method.path());
            (method, Budgets { by_caller, exceeded, refused: Mutex::default() })
        });
        Self { budgets: budgets.collect() }
    }

    /// Counts one request of a process with `selectors`.
    ///
    /// # Errors
    ///
    /// `Unavailable`, when the caller asked too often: clients try that again after a while.
    pub fn check(&self, method: Limited, selectors: &SelectorSet, pid: i32) -> Result<(), Status> {
        let Some((_, budgets)) = self.budgets.iter().find(|(limited, _)| *limited == method) else {
            return Ok(());
        };
        if u32::try_from(pid) == Ok(std::process::id()) {
            return Ok(());
        }
        let key = key(selectors);
        budgets.by_caller.try_take(&key, 1).map_err(|_| {
            budgets.exceeded.inc();
            budgets.note_refusal(key);
            Status::unavailable(format!("rate limit exceeded for {}", method.path()))
        })
    }
}

impl CallerLimits {
    /// The last request of a process with `selectors` that was refused within [`REFUSED_LATELY`].
    #[must_use]
    pub fn refused_lately(&self, selectors: &SelectorSet) -> Option<Refused> {
        let key = key(selectors);
        let refused = self.budgets.iter().filter_map(|(method, budgets)| {
            let refused = budgets.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let ago = refused.get(&key)?.elapsed();
            (ago < REFUSED_LATELY).then_some(Refused { method: method.path(), ago })
        });
        refused.min_by_key(|refused| refused.ago)
    }
}

impl Budgets {
    fn note_refusal(&self, key: Key) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MAX_REFUSED {
            refused.retain(|_, at| at.elapsed() < REFUSED_LATELY);
        }
        if refused.len() < MAX_REFUSED || refused.contains_key(&key) {
            refused.insert(key, Instant::now());
        }
    }
}

type Key = [u8; digest::SHA256_OUTPUT_LEN];

fn key(selectors: &SelectorSet) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    for selector in selectors.iter() {
        context.update(selector.as_str().as_bytes());
        context.update(&[0]);
    }
    let mut key = [0; digest::SHA256_OUTPUT_LEN];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// Callers that are remembered for one method. Above it new ones share one budget until others have been silent for so
/// long that theirs are full again.
const MAX_CALLERS: usize = 4096;

/// How long a refusal is remembered for whoever asks why.
pub const REFUSED_LATELY: Duration = Duration::from_secs(60);

/// Callers whose refusal is remembered for one method; that of further ones is not.
const MAX_REFUSED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    use vouchsafe_runtime::metrics::Registry;
    use vouchsafe_types::selector::Selector;

    fn limits(config: &LimitsConfig) -> (CallerLimits, Registry) {
        let registry = Registry::new("spire_agent", &[]);
        (CallerLimits::new(config, &Metrics::new(registry.clone())), registry)
    }

    fn selectors(list: &[&str]) -> SelectorSet {
        list.iter().map(|text| Selector::parse(text).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_its_limit_at_once_and_again_each_second() {
        let (limits, registry) = limits(&LimitsConfig { fetch_jwt_svid: 2, ..LimitsConfig::default() });
        let ask = |of: &SelectorSet| limits.check(Limited::FetchJwtSvid, of, 1);
        let (one, other) = (selectors(&["unix:uid:1", "unix:gid:1"]), selectors(&["unix:uid:2"]));
        assert!(ask(&one).is_ok() && ask(&one).is_ok());
        let refused = ask(&one).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert_eq!(refused.message(), "rate limit exceeded for /SpiffeWorkloadAPI/FetchJWTSVID");
        assert!(ask(&other).is_ok(), "another caller has a budget of its own");
        assert!(limits.check(Limited::FetchX509Svid, &one, 1).is_ok(), "another method is not limited");
        let counted = registry.render();
        let series =
            "spire_agent_workload_api_rate_limit_exceeded{method=\"_SpiffeWorkloadAPI_FetchJWTSVID\"} 1";
        assert!(counted.contains(series), "{counted}");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(ask(&one).is_ok() && ask(&one).is_err());
        tokio::time::advance(Duration::from_secs(9)).await;
        let lately = limits.refused_lately(&one).unwrap();
        assert_eq!(lately, Refused { method: Limited::FetchJwtSvid.path(), ago: Duration::from_secs(9) });
        assert_eq!(limits.refused_lately(&other), None);
        tokio::time::advance(REFUSED_LATELY).await;
        assert_eq!(limits.refused_lately(&one), None);
    }

    #[tokio::test]
    async fn the_agents_own_requests_are_not_counted() {
        let (limits, _) = limits(&LimitsConfig { fetch_x509_bundles: 1, ..LimitsConfig::default() });
        let own = i32::try_from(std::process::id()).unwrap();
        let none = SelectorSet::default();
        assert!((0..10).all(|_| limits.check(Limited::FetchX509Bundles, &none, own).is_ok()));
    }

    #[test]
    fn nothing_is_kept_when_nothing_is_limited() {
        assert!(limits(&LimitsConfig::default()).0.budgets.is_empty());
    }
}
