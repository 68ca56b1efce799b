//! Authorities that should not count and still do, because the server signs with them at this moment. Pure but for metrics.
//!
//! What a tainted authority signed, or one that is gone from the bundle, is replaced. When what comes is signed by the same
//! authority, the server has nothing better (its bundle or ours lags behind, or an upstream authority is slow), and asking
//! again at once would be asking without end. So it is asked again after a time that grows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;
use vouchsafe_types::entry::EntryId;

use crate::identities::HeldSvid;
use crate::metrics::Metrics;
use crate::taint::Distrust;

/// See the module. Bounded by the authorities that the server signs with.
#[derive(Debug, Default)]
pub(super) struct Tolerance {
    /// Until when, and how often in a row.
    until: HashMap<Box<[u8]>, (Instant, u32)>,
    /// Tainted authorities that were counted already.
    counted: HashSet<Box<[u8]>>,
}

impl Tolerance {
    /// Takes note of what the bundle says now about the authorities of `svids`.
    pub(super) fn observe(
        &mut self,
        distrust: &Distrust,
        svids: &HashMap<EntryId, Arc<HeldSvid>>,
        metrics: &Metrics,
    ) {
        self.until.retain(|root, _| distrust.covers(Some(root)));
        self.counted.retain(|root| distrust.is_tainted(root));
        let new: Vec<_> = distrust.tainted().iter().filter(|root| !self.counted.contains(*root)).collect();
        if new.is_empty() {
            return;
        }
        let start = Instant::now();
        let signed_by =
            |svid: &HeldSvid| svid.authority_key_id.as_ref().is_some_and(|root| new.contains(&root));
        let count = svids.values().filter(|svid| signed_by(svid)).count();
        let subject_key_ids = new.iter().map(hex::encode).collect::<Vec<_>>().join(",");
        debug!(subject_key_ids, "New tainted X.509 authorities found");
        debug!(count, "Scheduled rotation for SVID entries due to tainted X.509 authorities");
        metrics.tainted_x509_svids(count);
        metrics.process_tainted_x509_svids().observe(&[], "OK", start.elapsed());
        self.counted.extend(new.into_iter().cloned());
    }

    /// What is kept although it is distrusted.
    pub(super) fn tolerated(&self, now: Instant) -> HashSet<&[u8]> {
        let tolerated = self.until.iter().filter(|(_, (until, _))| *until > now);
        tolerated.map(|(root, _)| &**root).collect()
    }

    /// The server issued something that leads to `root`, now.
    pub(super) fn received(&mut self, root: Option<&[u8]>, now: Instant) {
        let Some(root) = root else { return };
        let (until, times) = self.until.entry(root.into()).or_insert((now, 0));
        if *until <= now {
            *until = now + FIRST.saturating_mul(2_u32.saturating_pow(*times)).min(LONGEST);
            *times = times.saturating_add(1);
        }
    }
}

/// How long an authority is tolerated the first time.
const FIRST: Duration = Duration::from_secs(30);

/// And at most.
const LONGEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_runtime::metrics::Registry;

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_the_server_goes_on_signing_with_is_asked_about_ever_more_rarely() {
        let mut tolerance = Tolerance::default();
        let mut gaps = Vec::new();
        for _ in 0..9 {
            tolerance.received(Some(&[7]), Instant::now());
            let start = Instant::now();
            while !tolerance.tolerated(Instant::now()).is_empty() {
                tolerance.received(Some(&[7]), Instant::now());
                tokio::time::advance(Duration::from_secs(15)).await;
            }
            gaps.push(start.elapsed().as_secs());
        }
        assert_eq!(gaps, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_is_trusted_again_starts_anew() {
        let (mut tolerance, metrics) =
            (Tolerance::default(), Metrics::new(Registry::new("spire_agent", &[])));
        tolerance.received(Some(&[7]), Instant::now());
        tolerance.observe(&Distrust::for_tests(&[&[8]], &[]), &HashMap::new(), &metrics);
        assert_eq!(tolerance.tolerated(Instant::now()).len(), 1);
        tolerance.observe(&Distrust::for_tests(&[&[7]], &[]), &HashMap::new(), &metrics);
        assert!(tolerance.tolerated(Instant::now()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_newly_tainted_authority_signed_is_counted_once() {
        let registry = Registry::new("spire_agent", &[]);
        let (mut tolerance, metrics) = (Tolerance::default(), Metrics::new(registry.clone()));
        let held = crate::identities::tests::svid("a", 10);
        let held = HeldSvid { authority_key_id: Some([7].into()), ..Arc::into_inner(held).unwrap() };
        let svids = HashMap::from([(EntryId::parse("a").unwrap(), Arc::new(held))]);
        for _ in 0..3 {
            tolerance.observe(&Distrust::for_tests(&[&[8]], &[&[7]]), &svids, &metrics);
        }
        let text = registry.render();
        assert!(text.contains("cache_manager_tainted_x509_svids_workload_sum 1\n"), "{text}");
        assert!(text.contains("cache_manager_tainted_x509_svids_workload_count 1\n"), "{text}");
    }
}
