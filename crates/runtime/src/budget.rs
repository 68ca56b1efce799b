//! How much may happen per second: token buckets, for one caller ([`Budget`]) or per key ([`KeyedBudgets`]).

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket. Pure: the caller supplies the time and does the waiting.
#[derive(Clone, Debug)]
pub struct Budget {
    rate: f64,
    burst: f64,
    level: f64,
    at: Option<Instant>,
}

/// Rounding error that a caller who waited exactly as long as told is forgiven. It is carried as debt.
const TOLERANCE: f64 = 1e-6;

impl Budget {
    /// Grants `rate_per_sec` on average and up to `burst` at once. A rate that is not a positive number is 0.
    #[must_use]
    pub fn new(rate_per_sec: f64, burst: u32, start_full: bool) -> Self {
        let burst = f64::from(burst);
        Self { rate: valid_rate(rate_per_sec), burst, level: if start_full { burst } else { 0.0 }, at: None }
    }

    /// Takes `n`, or takes nothing and says how long until there is enough ([`Duration::MAX`]: never).
    ///
    /// # Errors
    ///
    /// The time to wait.
    pub fn try_take(&mut self, now: Instant, n: u32) -> Result<(), Duration> {
        self.refill(now);
        let n = f64::from(n);
        if n <= self.level + TOLERANCE {
            self.level -= n;
            return Ok(());
        }
        if n > self.burst {
            return Err(Duration::MAX);
        }
        Err(self.until(n))
    }

    /// Takes `n` in any case and says how long the caller must wait before it uses them.
    ///
    /// The debt has no bound: a caller that cannot wait gives it back with [`Budget::refund`].
    pub fn reserve(&mut self, now: Instant, n: u32) -> Duration {
        self.refill(now);
        let n = f64::from(n);
        let wait = self.until(n);
        self.level -= n;
        wait
    }

    /// Gives back `n` that were taken and not used.
    pub fn refund(&mut self, n: u32) {
        self.level = (self.level + f64::from(n)).min(self.burst);
    }

    /// Grants at `rate_per_sec` from `now` on.
    pub fn set_rate(&mut self, now: Instant, rate_per_sec: f64) {
        self.refill(now);
        self.rate = valid_rate(rate_per_sec);
    }

    /// Whether nothing has been taken lately: a budget that is full is as good as a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level + TOLERANCE >= self.burst
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        self.level = (self.level + elapsed.as_secs_f64() * self.rate).min(self.burst);
    }

    fn until(&self, n: f64) -> Duration {
        let missing = n - self.level;
        if missing <= TOLERANCE {
            return Duration::ZERO;
        }
        // Rounded up: a caller who waits as long as told finds enough.
        let wait = Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX);
        wait.saturating_add(Duration::from_nanos(1))
    }
}

fn valid_rate(rate: f64) -> f64 {
    if rate.is_finite() && rate > 0.0 { rate } else { 0.0 }
}

/// Why [`KeyedBudgets::take`] gave nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// More than a full budget holds: waiting does not help.
    #[error("{asked} at once exceeds the burst of {burst}")]
    ExceedsBurst {
        /// How many were asked for.
        asked: u32,
        /// The most that can be had at once.
        burst: u32,
    },
    /// The budget is spent for longer than the caller would wait.
    #[error("rate limit exceeded, try again in {wait:?}")]
    Spent {
        /// How long until there is enough.
        wait: Duration,
    },
}

/// One budget per key, for a bounded number of keys.
///
/// When there is no room for a new key the one that was used longest ago makes room, but only if its budget
/// is full again, so that nobody renews a spent budget by crowding it out. Otherwise the new keys share one
/// budget until there is room.
#[derive(Debug)]
pub struct KeyedBudgets<K> {
    rate: f64,
    burst: u32,
    max_keys: usize,
    state: Mutex<Keyed<K>>,
}

#[derive(Debug)]
struct Keyed<K> {
    budgets: HashMap<K, Used>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
    shared: Budget,
}

#[derive(Debug)]
struct Used {
    budget: Budget,
    last: u64,
}

impl<K: Clone + Eq + Hash> KeyedBudgets<K> {
    /// Each key may take `rate_per_sec` on average and `burst` at once; at most `max_keys` are remembered.
    #[must_use]
    pub fn new(rate_per_sec: f64, burst: u32, max_keys: usize) -> Self {
        let shared = Budget::new(rate_per_sec, burst, true);
        let state = Keyed { budgets: HashMap::new(), by_use: BTreeMap::new(), uses: 0, shared };
        Self { rate: rate_per_sec, burst, max_keys, state: Mutex::new(state) }
    }

    /// Takes `n` for `key` now or not at all.
    ///
    /// # Errors
    ///
    /// How long until there is enough ([`Duration::MAX`]: never).
    pub fn try_take(&self, key: &K, n: u32) -> Result<(), Duration> {
        let now = Instant::now();
        self.with(key, now, |budget, _| budget.try_take(now, n))
    }

    /// Takes `n` for `key`, waiting up to `max_wait`. A caller that stops waiting gives its share back.
    ///
    /// # Errors
    ///
    /// [`Denied`]; then nothing was taken.
    pub async fn take(&self, key: &K, n: u32, max_wait: Duration) -> Result<(), Denied> {
        if n > self.burst {
            return Err(Denied::ExceedsBurst { asked: n, burst: self.burst });
        }
        let now = Instant::now();
        let (wait, shared) = self.with(key, now, |budget, shared| {
            let wait = budget.reserve(now, n);
            if wait > max_wait {
                budget.refund(n);
            }
            (wait, shared)
        });
        if wait > max_wait {
            return Err(Denied::Spent { wait });
        }
        if !wait.is_zero() {
            let mut unused = Unused { budgets: self, key, shared, n };
            tokio::time::sleep(wait).await;
            unused.n = 0;
        }
        Ok(())
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().budgets.len()
    }

    /// Whether no key is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Acts on the budget of `key`, which may be the shared one.
    fn with<R>(&self, key: &K, now: Instant, act: impl FnOnce(&mut Budget, bool) -> R) -> R {
        let mut state = self.lock();
        let state = &mut *state;
        state.uses += 1;
        let used = state.uses;
        if let Some(known) = state.budgets.get_mut(key) {
            state.by_use.remove(&known.last);
            state.by_use.insert(used, key.clone());
            known.last = used;
            return act(&mut known.budget, false);
        }
        if !state.make_room(self.max_keys, now) {
            return act(&mut state.shared, true);
        }
        let mut budget = Budget::new(self.rate, self.burst, true);
        let outcome = act(&mut budget, false);
        state.by_use.insert(used, key.clone());
        state.budgets.insert(key.clone(), Used { budget, last: used });
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Keyed<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Keyed<K> {
    fn make_room(&mut self, max_keys: usize, now: Instant) -> bool {
        if self.budgets.len() < max_keys {
            return true;
        }
        let Some((last, key)) = self.by_use.pop_first() else { return false };
        if self.budgets.get_mut(&key).is_none_or(|used| used.budget.is_full(now)) {
            self.budgets.remove(&key);
            return true;
        }
        self.by_use.insert(last, key);
        false
    }
}

/// Gives a reservation back when its waiter is dropped.
struct Unused<'a, K: Clone + Eq + Hash> {
    budgets: &'a KeyedBudgets<K>,
    key: &'a K,
    shared: bool,
    n: u32,
}

impl<K: Clone + Eq + Hash> Drop for Unused<'_, K> {
    fn drop(&mut self) {
        if self.n == 0 {
            return;
        }
        let mut state = self.budgets.lock();
        if self.shared {
            state.shared.refund(self.n);
        } else if let Some(used) = state.budgets.get_mut(self.key) {
            used.budget.refund(self.n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let now = Instant::now();
        let mut budget = Budget::new(10.0, 5, true);
        assert_eq!(budget.try_take(now, 5), Ok(()));
        let wait = budget.try_take(now, 1).unwrap_err();
        assert!(wait >= SECOND / 10 && wait < SECOND / 9, "{wait:?}");
        assert_eq!(budget.try_take(now + wait, 1), Ok(()));
    }

    #[test]
    fn a_budget_that_starts_empty_fills_up_to_its_burst_and_no_further() {
        let now = Instant::now();
        let mut budget = Budget::new(1.0, 3, false);
        assert!(budget.try_take(now, 1).is_err());
        let hour_later = now + 3600 * SECOND;
        assert_eq!(budget.try_take(hour_later, 3), Ok(()));
        assert!(budget.try_take(hour_later, 1).is_err());
    }

    #[test]
    fn what_can_never_be_had_says_so() {
        let now = Instant::now();
        assert_eq!(Budget::new(10.0, 5, true).try_take(now, 6), Err(Duration::MAX));
        assert_eq!(Budget::new(0.0, 5, false).try_take(now, 1), Err(Duration::MAX));
        assert_eq!(Budget::new(f64::NAN, 5, false).try_take(now, 1), Err(Duration::MAX));
    }

    #[test]
    fn a_new_rate_holds_from_now_on_only() {
        let now = Instant::now();
        let mut budget = Budget::new(1.0, 100, false);
        assert!(budget.try_take(now, 1).is_err());
        budget.set_rate(now + 10 * SECOND, 5.0);
        assert_eq!(budget.try_take(now + 12 * SECOND, 20), Ok(()));
        assert!(budget.try_take(now + 12 * SECOND, 1).is_err());
    }

    #[test]
    fn a_clock_that_goes_back_grants_nothing_twice() {
        let now = Instant::now();
        let mut budget = Budget::new(1.0, 1, true);
        assert_eq!(budget.try_take(now + 10 * SECOND, 1), Ok(()));
        assert!(budget.try_take(now, 1).is_err());
        assert!(budget.try_take(now + 10 * SECOND, 1).is_err());
    }

    proptest! {
        /// Over any stretch that starts full, no more than the burst and what flowed in is granted.
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 0.1_f64..10_000.0,
            burst in 1_u32..1_000,
            asks in prop::collection::vec((0_u64..2_000_000, 1_u32..50), 1..200),
        ) {
            let start = Instant::now();
            let mut budget = Budget::new(rate, burst, true);
            let mut now = start;
            let mut granted = 0.0;
            for (micros, n) in asks {
                now += Duration::from_micros(micros);
                if budget.try_take(now, n).is_ok() {
                    granted += f64::from(n);
                }
                let most = f64::from(burst) + rate * (now - start).as_secs_f64();
                prop_assert!(granted <= most + 2.0 * TOLERANCE * most.max(1.0), "{granted} of {most}");
            }
        }

        /// The wait that is told is enough, and hardly more than enough.
        #[test]
        fn the_wait_is_right(rate in 0.01_f64..1_000_000.0, burst in 1_u32..1_000, taken in 1_u32..1_000, n in 1_u32..1_000) {
            let (taken, n) = (taken.min(burst), n.min(burst));
            let now = Instant::now();
            let mut budget = Budget::new(rate, burst, true);
            prop_assert_eq!(budget.try_take(now, taken), Ok(()));
            if let Err(wait) = budget.try_take(now, n) {
                prop_assert!(budget.clone().try_take(now + wait.mul_f64(0.99).saturating_sub(Duration::from_micros(1)), n).is_err());
                prop_assert_eq!(budget.try_take(now + wait, n), Ok(()));
            }
        }

        /// Reservations are served one after the other at the rate.
        #[test]
        fn reservations_queue_up(rate in 0.1_f64..1_000.0, asks in prop::collection::vec(1_u32..50, 1..50)) {
            let now = Instant::now();
            let mut budget = Budget::new(rate, 1, false);
            let mut total = 0.0;
            for n in asks {
                total += f64::from(n);
                let wait = budget.reserve(now, n).as_secs_f64();
                prop_assert!((wait - total / rate).abs() <= 1e-6 * (1.0 + total / rate), "{wait}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_its_own_budget_and_waits_for_it() {
        let budgets = KeyedBudgets::new(1.0, 2, 10);
        let began = Instant::now();
        budgets.take(&"a", 2, SECOND).await.unwrap();
        budgets.take(&"b", 2, SECOND).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        budgets.take(&"a", 1, 2 * SECOND).await.unwrap();
        assert!(began.elapsed() >= SECOND, "waited {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_cannot_wait_takes_nothing() {
        let budgets = KeyedBudgets::new(1.0, 2, 10);
        budgets.take(&"a", 2, SECOND).await.unwrap();
        for _ in 0..100 {
            let denied = budgets.take(&"a", 2, SECOND).await.unwrap_err();
            assert!(
                matches!(denied, Denied::Spent { wait } if wait > SECOND && wait <= 3 * SECOND),
                "{denied}"
            );
        }
        let denied = budgets.take(&"a", 3, SECOND).await.unwrap_err();
        assert_eq!(denied.to_string(), "3 at once exceeds the burst of 2");
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(budgets.try_take(&"a", 2), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_who_leaves_gives_its_share_back() {
        let budgets = KeyedBudgets::new(1.0, 5, 10);
        budgets.take(&"a", 5, SECOND).await.unwrap();
        for _ in 0..20 {
            let left = tokio::time::timeout(SECOND / 100, budgets.take(&"a", 5, 10 * SECOND)).await;
            assert!(left.is_err());
        }
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(budgets.try_take(&"a", 5), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_budget_is_not_renewed_by_crowding_it_out() {
        let budgets = KeyedBudgets::new(1.0, 2, 3);
        for key in 0..1_000 {
            budgets.try_take(&key, 2).ok();
            assert!(budgets.len() <= 3);
        }
        assert!(budgets.try_take(&0, 1).is_err(), "key 0 got a new budget");
        assert!(budgets.try_take(&5_000, 1).is_err(), "the shared budget has no end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rested_makes_room_for_a_new_one() {
        let budgets = KeyedBudgets::new(1.0, 2, 2);
        assert_eq!(budgets.try_take(&"old", 2), Ok(()));
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(budgets.try_take(&"recent", 2), Ok(()));
        assert_eq!(budgets.try_take(&"new", 2), Ok(()));
        assert_eq!(budgets.len(), 2);
        assert!(budgets.try_take(&"recent", 1).is_err());
        assert!(!budgets.is_empty());
    }
}
