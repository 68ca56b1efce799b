//! How often the API server of one cluster is asked, and when it is left alone.
//!
//! Whoever attests has proven nothing when the API server is asked about it. So all attestations of a cluster share one
//! budget; who comes when it is spent waits in line for a while, and is then told when to come again. Addresses take turns
//! in the line (`line`), so that those who send much keep only themselves from attesting. An API server that
//! does not answer is found out by the calls that were under way, not by every node: for a moment, longer each time,
//! everybody else is told at once to come again. That is never a refusal.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};
use vouchsafe_runtime::budget::Budget;
use vouchsafe_transport::listener::PeerKey;

use super::line::{Line, Place};

/// Attestations per second of one cluster, and as many at once: each is three small calls. A fleet of 5,000 nodes that
/// starts together is through after 100 s; in its daily life it needs three a second.
const REVIEWS_PER_SEC: u32 = 50;
/// As many as can be served within [`MAX_WAIT`].
const MAX_LINE: usize = REVIEWS_PER_SEC as usize * MAX_WAIT.as_secs() as usize;
/// Attestations of one cluster that are asked about at a time.
const AT_ONCE: usize = 16;
/// Longest wait in line; half of what an attestation may take.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// How long an API server that did not answer is left alone: the first time, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(8);
/// How often somebody is told what only a person can put right.
const TOLD_EVERY_SECS: f64 = 60.0;

/// One cluster's line.
pub(super) struct Gate {
    reviews: Mutex<Budget>,
    line: Line,
    slots: Semaphore,
    outage: Mutex<Outage>,
    told: Mutex<Budget>,
}

#[derive(Default)]
struct Outage {
    failures: u32,
    rest: Option<Instant>,
}

/// Why the API server is not asked now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Closed {
    /// It did not answer a moment ago.
    Away { wait: Duration },
    /// Too many want to know.
    Crowded { wait: Duration },
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            reviews: Mutex::new(Budget::new(f64::from(REVIEWS_PER_SEC), REVIEWS_PER_SEC, true)),
            line: Line::default(),
            slots: Semaphore::new(AT_ONCE),
            outage: Mutex::default(),
            told: Mutex::new(Budget::new(1.0 / TOLD_EVERY_SECS, 1, true)),
        }
    }

    /// Waits for the turn of one attestation from `address`.
    pub(super) async fn enter(&self, address: Option<IpAddr>) -> Result<SemaphorePermit<'_>, Closed> {
        self.look()?;
        let crowded = Closed::Crowded { wait: MAX_WAIT };
        let place = self.line.join(address.map(PeerKey::address), MAX_LINE).ok_or(crowded)?;
        let slot = timeout(MAX_WAIT, self.turn(place)).await.ok().flatten().ok_or(crowded)?;
        // It may have been found out meanwhile.
        self.look()?;
        Ok(slot)
    }

    /// Waits in line, then for a slot, then for the budget: who leaves has taken nothing.
    async fn turn(&self, place: Place) -> Option<SemaphorePermit<'_>> {
        let _head = match place {
            Place::First(head) => head,
            // Whoever is first hands over, or nobody is there any more: neither loses it.
            Place::Behind(turn) => turn.await.ok()?,
        };
        // Never closed.
        let slot = self.slots.acquire().await.ok()?;
        while let Err(wait) = self.take() {
            sleep(wait).await;
        }
        Some(slot)
    }

    fn take(&self) -> Result<(), Duration> {
        lock(&self.reviews).try_take(Instant::now(), 1)
    }

    fn look(&self) -> Result<(), Closed> {
        let rest = lock(&self.outage).rest;
        let wait = rest.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        if wait.is_zero() { Ok(()) } else { Err(Closed::Away { wait }) }
    }

    /// It answered. Returns whether that is news.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut *lock(&self.outage)).failures > 0
    }

    /// It did not answer, or asks to be left alone for `hint`. Returns for how long it is, and whether that is news.
    pub(super) fn silent(&self, hint: Option<Duration>) -> (Duration, bool) {
        let mut outage = lock(&self.outage);
        let now = Instant::now();
        // Those that failed together are one failure.
        if outage.rest.is_none_or(|until| until <= now) {
            outage.failures = outage.failures.saturating_add(1);
            let rest = FIRST_REST.saturating_mul(2_u32.saturating_pow(outage.failures - 1)).min(LONGEST_REST);
            outage.rest = Some(now + hint.map_or(rest, |hint| hint.clamp(FIRST_REST, LONGEST_REST)));
        }
        let wait = outage.rest.map(|until| until.saturating_duration_since(now)).unwrap_or_default();
        (wait, outage.failures == 1)
    }

    /// Whether to say again what only a person can put right.
    pub(super) fn tells(&self) -> bool {
        lock(&self.told).try_take(Instant::now(), 1).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    const NODE: Option<IpAddr> = None;
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_flood_asks_no_more_than_the_budget_and_the_rest_is_told_when_to_come() {
        let gate = Gate::new();
        let began = Instant::now();
        let outcomes = join_all((0..2_000).map(|_| async { gate.enter(NODE).await.map(drop) })).await;
        let admitted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let most = REVIEWS_PER_SEC as usize * (1 + 15);
        assert!((most - 20..=most).contains(&admitted), "{admitted}");
        assert!(began.elapsed() <= MAX_WAIT, "{:?}", began.elapsed());
        assert!(
            outcomes
                .iter()
                .all(|outcome| !matches!(outcome, Err(Closed::Crowded { wait }) if *wait < SECOND))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_addresses_that_flood_keep_no_node_waiting() {
        let gate = Gate::new();
        let from = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let flood = join_all((0..50 * 40).map(|n| {
            let gate = &gate;
            async move { gate.enter(from(n % 50)).await.map(drop) }
        }));
        let node = async {
            // The flood is there before it, and does not end.
            sleep(SECOND).await;
            let began = Instant::now();
            let outcome = gate.enter(from(1_000)).await.map(drop);
            (outcome, began.elapsed())
        };
        let (_, (outcome, waited)) = tokio::join!(flood, node);
        assert_eq!(outcome, Ok(()));
        assert!(waited < 2 * SECOND, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_is_asked_by_a_few_at_a_time() {
        let gate = Gate::new();
        let held = join_all((0..AT_ONCE).map(|_| gate.enter(NODE))).await;
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(gate.enter(NODE).await.map(drop), Err(Closed::Crowded { wait: MAX_WAIT }));
        drop(held);
        assert!(gate.enter(NODE).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_left_alone_a_little_longer_each_time() {
        let gate = Gate::new();
        assert_eq!(gate.silent(None), (SECOND, true));
        assert_eq!(gate.silent(None), (SECOND, true), "the same failure");
        assert_eq!(gate.enter(NODE).await.map(drop), Err(Closed::Away { wait: SECOND }));
        for expected in [2, 4, 8, 8] {
            tokio::time::advance(LONGEST_REST).await;
            drop(gate.enter(NODE).await.unwrap());
            assert_eq!(gate.silent(None), (expected * SECOND, false));
        }
        tokio::time::advance(LONGEST_REST).await;
        assert!(gate.answered() && !gate.answered());
        assert_eq!(gate.silent(Some(Duration::from_secs(3_600))), (LONGEST_REST, true), "a hint has a bound");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_line_hears_of_an_outage_at_once() {
        let gate = Gate::new();
        let held = join_all((0..AT_ONCE).map(|_| gate.enter(NODE))).await;
        let outcome = tokio::join!(gate.enter(NODE), async {
            gate.silent(None);
            drop(held);
        });
        assert_eq!(outcome.0.map(drop), Err(Closed::Away { wait: SECOND }));
    }
}
