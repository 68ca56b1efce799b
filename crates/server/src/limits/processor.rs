//! Whose signature comes first when more is asked for than the processor can do.
//!
//! After an outage every agent wants something at once. Whoever has nothing yet (first issue) goes first, then whoever's
//! SVID ends soonest: served in that order, a backlog costs nobody an identity. A call that meets nobody goes straight
//! through; only if one is being worked on does it join the line, and lets the others that have arrived join it before
//! the next is taken.
//!
//! The line is bounded by [`MAX_LINE`] calls and by the time that it takes to work it off: the least urgent one whose
//! patience is less is refused, with the time after which its turn would have come. Agents that say what they wait for
//! ([`DUE`]) keep to such a time and have other servers to go to; stock agents back off exponentially, so they wait here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Request, Status};
use vouchsafe_runtime::entropy::spread;
use vouchsafe_runtime::metrics::{Counter, Gauge, Registry};
use vouchsafe_transport::tls::TlsPeer;

use crate::status::retry_later;

/// Request metadata: when the soonest of what a call renews ends, in Unix seconds; `0` for what was never issued.
pub(crate) const DUE: &str = "vouchsafe-due";
/// Most calls in the line.
const MAX_LINE: usize = 4_096;
/// Longest line for who says what it waits for, in time: less than such an agent's own deadline.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest line for others, in time: less than the deadline of a stock agent.
const STOCK_PATIENCE: Duration = Duration::from_secs(20);
/// Longest time that a refused caller is told to wait.
const MAX_DELAY: Duration = Duration::from_secs(30);
const MIN_DELAY: Duration = Duration::from_millis(500);
/// What one signature costs, until it was measured.
const FIRST_GUESS: Duration = Duration::from_micros(200);

/// How urgent a call is, how much it asks for, and how long it would wait.
#[derive(Clone, Debug)]
pub(crate) struct Urgency {
    due: i64,
    weight: u32,
    patience: Duration,
    /// A place of its own on `[0, 1)` for who is refused.
    spread: f64,
}

impl Urgency {
    /// What `request` asks for: `weight` signatures.
    pub(crate) fn of<T>(request: &Request<T>, weight: usize) -> Self {
        let said = request.metadata().get(DUE).and_then(|due| due.to_str().ok()?.parse().ok());
        let svid = request.extensions().get::<TlsPeer>().and_then(|peer| peer.svid.as_ref());
        let key = svid.map_or("", |svid| svid.id.as_str());
        Self {
            // Who says nothing and has no SVID has nothing yet.
            due: said.or_else(|| svid.map(|svid| svid.not_after)).unwrap_or(0).max(0),
            weight: u32::try_from(weight).unwrap_or(u32::MAX).max(1),
            patience: if said.is_some() { PATIENCE } else { STOCK_PATIENCE },
            spread: spread(key.as_bytes()),
        }
    }

    /// A node that attests; `key` tells it from others.
    pub(crate) fn attestation(key: &str) -> Self {
        Self { due: 0, weight: 1, patience: STOCK_PATIENCE, spread: spread(key.as_bytes()) }
    }

    fn class(&self) -> Class {
        if self.due == 0 { Class::First } else { Class::Renewal }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    First,
    Renewal,
}

/// Who waits, the most urgent first. Pure.
#[derive(Debug)]
struct Line<T> {
    waiting: BTreeMap<Place, (Urgency, T)>,
    arrivals: u64,
    weight: u64,
}

/// Due, then order of arrival.
type Place = (i64, u64);

impl<T> Line<T> {
    fn new() -> Self {
        Self { waiting: BTreeMap::new(), arrivals: 0, weight: 0 }
    }

    fn join(&mut self, urgency: Urgency, who: T) -> Place {
        self.arrivals += 1;
        let place = (urgency.due, self.arrivals);
        self.weight += u64::from(urgency.weight);
        self.waiting.insert(place, (urgency, who));
        place
    }

    fn first(&mut self) -> Option<(Urgency, T)> {
        let (_, first) = self.waiting.pop_first()?;
        self.weight -= u64::from(first.0.weight);
        Some(first)
    }

    fn leave(&mut self, place: Place) -> Option<(Urgency, T)> {
        let left = self.waiting.remove(&place)?;
        self.weight -= u64::from(left.0.weight);
        Some(left)
    }

    /// The least urgent one, if the line is too long for it, and how long the line is.
    fn turn_away(&mut self, cost: Duration) -> Option<(Urgency, T, Duration)> {
        let backlog = cost.saturating_mul(u32::try_from(self.weight).unwrap_or(u32::MAX));
        let (place, (last, _)) = self.waiting.last_key_value()?;
        let place = *place;
        if self.waiting.len() <= MAX_LINE && backlog <= last.patience {
            return None;
        }
        let (urgency, who) = self.leave(place)?;
        Some((urgency, who, backlog))
    }
}

/// When somebody who was turned away has reason to come back: all of them over the time that the line takes, and as long
/// after it, each at a place of its own.
fn delay(backlog: Duration, spread: f64) -> Duration {
    backlog.max(MIN_DELAY).mul_f64(0.5 + spread).clamp(MIN_DELAY, MAX_DELAY)
}

/// Lets calls in as the processor gets to them.
pub(crate) struct Processor {
    /// As many as there are threads to work on them.
    slots: usize,
    state: Mutex<State>,
    waiting: [Gauge; 2],
    refused: [Counter; 2],
}

struct State {
    line: Line<oneshot::Sender<Result<Entered, Duration>>>,
    running: usize,
    /// What one signature takes of the processor, smoothed.
    cost: Duration,
}

impl Processor {
    pub(crate) fn new(metrics: &Registry) -> Arc<Self> {
        let slots = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self::with_slots(slots, metrics))
    }

    fn with_slots(slots: usize, metrics: &Registry) -> Self {
        let gauge = |class| metrics.gauge("vouchsafe_admission_waiting", &[("class", class)]);
        let counter = |class| metrics.counter("vouchsafe_admission_refused", &[("class", class)]);
        Self {
            slots,
            state: Mutex::new(State { line: Line::new(), running: 0, cost: FIRST_GUESS }),
            waiting: [gauge("first"), gauge("renewal")],
            refused: [counter("first"), counter("renewal")],
        }
    }

    /// Waits until it is this call's turn. It is over when the result is dropped.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` with the time to come back, when the line is too long.
    pub(crate) async fn enter(self: &Arc<Self>, urgency: Urgency) -> Result<Entered, Status> {
        let (class, weight) = (urgency.class(), urgency.weight);
        let (answer, place) = {
            let mut state = self.lock();
            if state.running == 0 && state.line.waiting.is_empty() {
                state.running = 1;
                return Ok(Entered::new(self.clone(), weight));
            }
            let (sender, answer) = oneshot::channel();
            (answer, state.line.join(urgency, sender))
        };
        let _waiting = Waiting::begin(self, place, class);
        self.turn_away();
        // Whoever has arrived joins too, and then the most urgent goes on.
        tokio::task::yield_now().await;
        self.let_in();
        match answer.await {
            Ok(Ok(entered)) => Ok(entered),
            Ok(Err(delay)) => {
                self.refused[class as usize].inc();
                let text =
                    format!("too many signatures are asked for at the moment; try again in {delay:.1?}");
                Err(retry_later(text, delay))
            }
            // Nobody drops a sender without an answer but a server that ends.
            Err(_) => Err(retry_later("the server is stopping".to_owned(), MIN_DELAY)),
        }
    }

    /// Refuses whom the line is too long for.
    fn turn_away(&self) {
        loop {
            let away = {
                let mut state = self.lock();
                let cost = state.cost / u32::try_from(self.slots).unwrap_or(1).max(1);
                state.line.turn_away(cost)
            };
            let Some((urgency, who, backlog)) = away else { return };
            // One that has left meanwhile needs no answer.
            drop(who.send(Err(delay(backlog, urgency.spread))));
        }
    }

    fn let_in(self: &Arc<Self>) {
        loop {
            let (urgency, who) = {
                let mut state = self.lock();
                if state.running >= self.slots {
                    return;
                }
                let Some(first) = state.line.first() else { return };
                state.running += 1;
                first
            };
            // Comes back, and is over at once, if the caller has left.
            drop(who.send(Ok(Entered::new(self.clone(), urgency.weight))));
        }
    }

    fn leave(self: &Arc<Self>, took: Duration, weight: u32) {
        {
            let mut state = self.lock();
            state.running -= 1;
            let one = took / weight;
            state.cost = (state.cost * (SMOOTHING - 1) + one) / SMOOTHING;
            if state.line.waiting.is_empty() {
                return;
            }
        }
        self.let_in();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last measurement counts for one in this many.
const SMOOTHING: u32 = 16;

/// A call that is being worked on.
pub(crate) struct Entered {
    processor: Arc<Processor>,
    weight: u32,
    began: Instant,
}

impl Entered {
    fn new(processor: Arc<Processor>, weight: u32) -> Self {
        Self { processor, weight, began: Instant::now() }
    }
}

impl std::fmt::Debug for Entered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entered")
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.processor.leave(self.began.elapsed(), self.weight);
    }
}

/// A call in the line, which leaves it when its client does.
struct Waiting<'a> {
    processor: &'a Processor,
    place: Place,
    class: Class,
}

impl<'a> Waiting<'a> {
    fn begin(processor: &'a Processor, place: Place, class: Class) -> Self {
        processor.waiting[class as usize].add(1.0);
        Self { processor, place, class }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.processor.waiting[self.class as usize].add(-1.0);
        // Dropped outside the lock.
        let left = self.processor.lock().line.leave(self.place);
        drop(left);
    }
}

#[cfg(test)]
mod tests;
