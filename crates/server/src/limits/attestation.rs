//! How fast one address may attest: as fast as it likes while it proves what it claims, once a second otherwise.
//!
//! SPIRE lets an address attest once a second, whoever is behind it, which keeps a fleet behind one NAT waiting for minutes.
//! What has to be slow is guessing. So an address has a budget of attempts that are not proven **yet**: [`ATTEMPTS`] at
//! once, and one more each second. An attempt is paid for before anything is looked at, and gets its price back the moment
//! it is proven; then the next one that waits goes on at once. One that fails, or leaves before it is proven, is lost
//! (docs/decisions/0006). Turns are given in the order of arrival.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use vouchsafe_runtime::budget::Budget;
use vouchsafe_transport::listener::PeerKey;

use super::{Count, MAX_ADDRESSES, MAX_WAITING, Refusal};

/// Attempts of one address that may be unproven at a time.
pub(crate) const ATTEMPTS: u32 = 32;
/// Attempts per second that may fail, of one address, in the long run.
const FAILURES_PER_SEC: f64 = 1.0;
/// How often gates that are at rest are looked for when there is no room for a new address.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The budgets of every address.
pub(crate) struct Attestations {
    gates: Mutex<Gates>,
}

struct Gates {
    by_address: HashMap<PeerKey, Arc<Gate>>,
    /// For addresses that there is no room for.
    shared: Arc<Gate>,
    swept: Option<Instant>,
}

struct Gate {
    budget: Mutex<Budget>,
    refunded: Notify,
    /// Who is first waits inside for the budget; the others wait for who is first.
    first: Semaphore,
    waiting: Count,
}

impl Attestations {
    pub(crate) fn new() -> Self {
        let gates = Gates { by_address: HashMap::new(), shared: Arc::new(Gate::new()), swept: None };
        Self { gates: Mutex::new(gates) }
    }

    /// Waits for the turn of an attempt from `address`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Crowded`] when [`MAX_WAITING`] wait already.
    pub(crate) async fn attempt(&self, address: PeerKey) -> Result<Attempt, Refusal> {
        let gate = self.gate(address);
        gate.pass().await?;
        Ok(Attempt { gate })
    }

    fn gate(&self, address: PeerKey) -> Arc<Gate> {
        let mut gates = lock(&self.gates);
        if let Some(gate) = gates.by_address.get(&address) {
            return gate.clone();
        }
        if !gates.has_room() {
            return gates.shared.clone();
        }
        let gate = Arc::new(Gate::new());
        gates.by_address.insert(address, gate.clone());
        gate
    }
}

impl Gates {
    fn has_room(&mut self) -> bool {
        if self.by_address.len() < MAX_ADDRESSES {
            return true;
        }
        let now = Instant::now();
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_EVERY) {
            return false;
        }
        self.swept = Some(now);
        // A full budget that nobody uses is as good as a new one; a spent one stays.
        self.by_address.retain(|_, gate| Arc::strong_count(gate) > 1 || !lock(&gate.budget).is_full(now));
        self.by_address.len() < MAX_ADDRESSES
    }
}

impl Gate {
    fn new() -> Self {
        Self {
            budget: Mutex::new(Budget::new(FAILURES_PER_SEC, ATTEMPTS, true)),
            refunded: Notify::new(),
            first: Semaphore::new(1),
            waiting: Count::default(),
        }
    }

    async fn pass(&self) -> Result<(), Refusal> {
        if self.waiting.get() == 0 && self.try_take().is_ok() {
            return Ok(());
        }
        let crowded = Refusal::Crowded { wait: Duration::from_secs(1) };
        let _waiting = self.waiting.enter(MAX_WAITING).ok_or(crowded)?;
        // Never closed.
        let _first = self.first.acquire().await.map_err(|_| crowded)?;
        while let Err(wait) = self.try_take() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.refunded.notified() => {}
            }
        }
        Ok(())
    }

    fn try_take(&self) -> Result<(), Duration> {
        lock(&self.budget).try_take(Instant::now(), 1)
    }
}

/// An attempt whose turn has come. Dropped, it has failed.
pub(crate) struct Attempt {
    gate: Arc<Gate>,
}

impl Attempt {
    /// What was claimed is true (or nobody can tell at the moment): this attempt costs nothing.
    pub(crate) fn refund(self) {
        lock(&self.gate.budget).refund(1);
        self.gate.refunded.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    fn address(last: u8) -> PeerKey {
        PeerKey::address([10, 0, 0, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_behind_one_address_attests_in_seconds() {
        let attestations = Attestations::new();
        let began = Instant::now();
        join_all((0..200).map(|_| async {
            let attempt = attestations.attempt(address(1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            attempt.refund();
        }))
        .await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_gets_one_guess_a_second_whatever_it_does_at_once() {
        let attestations = Attestations::new();
        let began = Instant::now();
        let count = 132;
        join_all((0..count).map(|_| async { drop(attestations.attempt(address(1)).await.unwrap()) })).await;
        let least = Duration::from_secs(u64::from(count - ATTEMPTS));
        assert!(began.elapsed() >= least - Duration::from_millis(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_before_the_verdict_is_a_guess_too() {
        let attestations = Attestations::new();
        for _ in 0..ATTEMPTS {
            drop(attestations.attempt(address(1)).await.unwrap());
        }
        let next = tokio::time::timeout(Duration::from_millis(900), attestations.attempt(address(1))).await;
        assert!(next.is_err(), "an attempt more at once");
        let other = tokio::time::timeout(Duration::from_millis(1), attestations.attempt(address(2))).await;
        assert!(other.is_ok(), "another address has a budget of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_proven_lets_the_next_one_in_at_once() {
        let attestations = Attestations::new();
        let mut held = Vec::new();
        for _ in 0..ATTEMPTS {
            held.push(attestations.attempt(address(1)).await.unwrap());
        }
        let began = Instant::now();
        let next = async {
            drop(attestations.attempt(address(1)).await.unwrap());
            began.elapsed()
        };
        let refund = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            held.pop().unwrap().refund();
        };
        let (waited, ()) = tokio::join!(next, refund);
        assert!(waited < Duration::from_millis(20), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_has_an_end() {
        let attestations = Attestations::new();
        let outcomes = join_all((0..MAX_WAITING + 40).map(|_| async {
            tokio::time::timeout(Duration::from_secs(1), attestations.attempt(address(1))).await
        }))
        .await;
        let refused =
            outcomes.iter().filter(|outcome| matches!(outcome, Ok(Err(Refusal::Crowded { .. })))).count();
        assert_eq!(refused, 40 - ATTEMPTS as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_end_take_bounded_memory_and_renew_no_spent_budget() {
        let attestations = Attestations::new();
        let crowd = |n: usize| PeerKey::address(std::net::IpAddr::from((n as u32).to_be_bytes()));
        for n in 0..MAX_ADDRESSES + 10 {
            drop(tokio::time::timeout(Duration::from_millis(1), attestations.attempt(crowd(n))).await);
        }
        assert_eq!(lock(&attestations.gates).by_address.len(), MAX_ADDRESSES);
    }
}
