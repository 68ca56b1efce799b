//! Whose signature comes first when more is asked for than the processor can do.
//!
//! After an outage every agent wants something at once. Whoever has nothing yet (first issue) goes first, then whoever's
//! SVID ends soonest: served in that order, a backlog costs nobody an identity. A call that meets nobody goes straight
//! through; only if one is being worked on does it join the line, and lets the others that have arrived join it before
//! the next is taken.
//!
//! The line is bounded by [`MAX_LINE`] calls, beyond which the least urgent is refused, and by patience: whose turn would
//! come too late, given what is before it, is refused at once, and is no longer before those who can still make it. It is told
//! when to come back. Agents that say what they wait for ([`DUE`]) keep to such a time and have other servers to go to;
//! stock agents back off exponentially, so they wait here.

mod line;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Request, Status};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::entropy::spread;
use vouchsafe_runtime::metrics::{Counter, Gauge, Registry};
use vouchsafe_transport::tls::TlsPeer;

use crate::status::retry_later;
use line::{Line, MIN_DELAY, Place, delay};

/// Request metadata: when the soonest of what a call renews ends, in Unix seconds; `0` for what was never issued.
pub(crate) const DUE: &str = "vouchsafe-due";
/// Longest wait of who says what it waits for: less than such an agent's own deadline.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait of others: less than the deadline of a stock agent.
const STOCK_PATIENCE: Duration = Duration::from_secs(20);
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
        let slots = blocking::parallelism();
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
            (answer, state.line.join(urgency, sender, Instant::now()))
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
        let (away, backlog) = {
            let mut state = self.lock();
            let cost = state.cost / u32::try_from(self.slots).unwrap_or(1).max(1);
            state.line.turn_away(cost, Instant::now())
        };
        for (urgency, who) in away {
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
