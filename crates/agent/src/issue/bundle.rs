//! New SVIDs wait for the bundle that verifies them.
//!
//! An agent that was cut off while the server's authority changed may get SVIDs of the new authority before the bundle that
//! has it. Handed out with the bundle of before, nobody could verify them, and what they replace may still be good. So the
//! bundle is fetched at once, and they wait for it: [`PATIENCE`] if they replace something that is good for so long, and
//! [`FIRST`] if a workload has nothing else. Then they are taken as they are: a server may sign with an authority that is in
//! no bundle, and [`super::tolerance`] deals with that. The time runs once for each authority, so that what comes later waits
//! for nothing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{IssueLoop, Results};
use crate::taint::Distrust;

/// Authorities that were met before the bundle had them, and when. Bounded by [`MAX_UNKNOWN`]; above it the one that was met
/// first goes.
#[derive(Debug, Default)]
pub struct Unknown {
    since: HashMap<Box<[u8]>, Instant>,
}

impl Unknown {
    /// How much is left of `patience` with SVIDs that lead to `roots`, none of which the bundle has.
    fn left(&mut self, roots: &[Box<[u8]>], patience: Duration, now: Instant) -> Duration {
        let mut left = Duration::ZERO;
        for root in roots {
            let since = *self.since.entry(root.clone()).or_insert(now);
            left = left.max((since + patience).saturating_duration_since(now));
        }
        while self.since.len() > MAX_UNKNOWN
            && let Some(oldest) = self.since.iter().min_by_key(|(_, since)| **since)
        {
            let oldest = oldest.0.clone();
            self.since.remove(&oldest);
        }
        left
    }

    /// The bundle has changed: an authority that it has is not unknown any more.
    fn look_at(&mut self, distrust: &Distrust) {
        self.since.retain(|root, _| distrust.lacks(Some(root)));
    }
}

impl IssueLoop {
    /// Waits until the bundle has the authorities of `results`, for as long as it takes and is worth it.
    pub(super) async fn await_bundle(&self, results: &Results, patience: Duration) {
        let mut changes = self.identities.watch();
        let unknown = self.unknown_authorities(results);
        let left = self.lock_unknown().left(&unknown, patience, Instant::now());
        if left.is_zero() {
            return;
        }
        let arrives = async {
            if let Ok(bundle) = self.client.bundle().await {
                self.trust.offer(bundle);
            }
            while !self.unknown_authorities(results).is_empty() && changes.changed().await.is_ok() {}
        };
        if timeout(left, arrives).await.is_err() {
            warn!("new SVIDs are signed by an authority that is not in the trust bundle");
        }
    }

    fn unknown_authorities(&self, results: &Results) -> Vec<Box<[u8]>> {
        let snapshot = self.identities.load();
        let Some(bundles) = &snapshot.bundles else { return Vec::new() };
        let distrust = Distrust::of(&bundles.own.bundle);
        self.lock_unknown().look_at(&distrust);
        let issued = results.iter().filter_map(|(_, result)| result.as_ref().ok());
        let roots = issued.filter_map(|svid| svid.authority_key_id.clone());
        let mut unknown: Vec<_> = roots.filter(|root| distrust.lacks(Some(root))).collect();
        unknown.dedup();
        unknown
    }

    fn lock_unknown(&self) -> std::sync::MutexGuard<'_, Unknown> {
        self.unknown.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How long SVIDs may wait of which the soonest is needed at `due` (Unix seconds; 0: a workload has nothing else).
pub(super) fn patience(due: i64, now: i64) -> Duration {
    let left = u64::try_from(due.saturating_sub(now)).unwrap_or(0);
    Duration::from_secs(left).clamp(FIRST, PATIENCE)
}

/// How long SVIDs wait for their bundle that replace good ones,
const PATIENCE: Duration = Duration::from_secs(30);

/// and those in whose place there is nothing.
const FIRST: Duration = Duration::from_secs(2);

/// Authorities that are remembered.
const MAX_UNKNOWN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_never_comes_is_waited_for_once() {
        let (mut unknown, roots) = (Unknown::default(), [Box::from([7])]);
        let left = |unknown: &mut Unknown, patience| unknown.left(&roots, patience, Instant::now());
        assert_eq!(left(&mut unknown, PATIENCE), PATIENCE);
        tokio::time::advance(FIRST).await;
        assert_eq!(left(&mut unknown, FIRST), Duration::ZERO);
        assert_eq!(left(&mut unknown, PATIENCE), PATIENCE - FIRST);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(left(&mut unknown, PATIENCE), Duration::ZERO);
        // It comes, and goes again.
        unknown.look_at(&Distrust::for_tests(&[&[7]], &[]));
        assert_eq!(left(&mut unknown, PATIENCE), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_with_ever_new_authorities_fills_no_memory() {
        let mut unknown = Unknown::default();
        for root in 0..100_u8 {
            unknown.left(&[Box::from([root])], PATIENCE, Instant::now());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(unknown.since.len(), MAX_UNKNOWN);
        assert!(unknown.left(&[Box::from([99])], PATIENCE, Instant::now()) < PATIENCE);
    }

    #[test]
    fn only_what_is_good_meanwhile_lets_its_successor_wait() {
        let check = |due, seconds| assert_eq!(patience(due, 100), Duration::from_secs(seconds), "{due}");
        check(1_000, 30);
        check(110, 10);
        check(50, 2);
        check(0, 2);
    }
}
