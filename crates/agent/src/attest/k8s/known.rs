//! What is known of this node's Pods, and who waits for more.
//!
//! One task asks the kubelet for everybody, and only while somebody wants something ([`super::schedule`]); with nobody
//! there is no task and no request. What a list said is an answer for as long as there is no newer one, because a
//! container never moves to another Pod:
//!
//! * younger than [`FRESH`]: given at once, and nothing else happens;
//! * younger than [`STALE`], or the kubelet fails: given at once, and a newer list is asked for, since labels change;
//! * older: a newer list is waited for, [`REFRESH_PATIENCE`] at most, and up to [`PATIENCE`] if it is older than [`OLD`]
//!   and the kubelet works. What the newer list says counts, also that it does not have the Pod any more;
//! * a container that the list does not have is waited for by its ID. The list that has it wakes those who wait for it,
//!   and nobody else. After the deadline it is remembered as no Pod's, and others that ask for it wait for one list only.
//!   How many lists did not have it is remembered too, so asking again and again brings no more lists.
//!
//! A kubelet that has said nothing for [`PATIENCE`] while it was asked holds nobody up any more: who needs it is told at
//! once what is wrong, and it is asked in the background until it is back. A list that cannot be read changes nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::index::{Answer, Index, Sought};
use super::kubelet::{Kubelet, KubeletError, List};
use super::schedule::Schedule;
use crate::metrics::Metrics;

pub use self::trouble::FindError;
use self::trouble::{Trouble, Unreadable, note_trouble};

mod trouble;

/// The Pods of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Known {
    shared: Arc<Shared>,
}

/// How patient it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// Requests begin so far apart, or more.
    pub interval: Duration,
    /// How long a container that no list has is waited for.
    pub unlisted: Duration,
}

#[derive(Debug)]
struct Shared {
    kubelet: Arc<Kubelet>,
    patience: Patience,
    /// A Pod without the container is an answer.
    pod_is_enough: bool,
    metrics: Metrics,
    state: Mutex<State>,
    /// Something new is wanted.
    hurry: Notify,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct State {
    held: Arc<Index>,
    /// When the list that is held was asked for.
    asked: Option<Instant>,
    schedule: Schedule,
    waiting: HashMap<Sought, Waiting>,
    /// Containers that no list had when they were last waited for.
    strangers: HashMap<Sought, Stranger>,
    /// Somebody was given an answer that is not quite fresh.
    refresh: bool,
    running: bool,
    /// Since when the kubelet has been asked without an answer.
    silent_since: Option<Instant>,
    trouble: Option<Trouble>,
    unreadable: Unreadable,
}

#[derive(Debug)]
struct Waiting {
    found: watch::Sender<Option<Answer>>,
    waiters: usize,
    looked_through: u32,
}

#[derive(Clone, Copy, Debug)]
struct Stranger {
    looked_through: u32,
    /// It was waited for to the end: it is no Pod's, as far as is known.
    given_up: bool,
    /// Until when this is believed.
    until: Instant,
}

enum Step {
    Answer(Answer),
    Wait(watch::Receiver<Option<Answer>>, Wait),
    Refuse(FindError),
}

/// How long somebody waits.
#[derive(Clone, Copy, Debug)]
struct Wait {
    began: Instant,
    /// When it is given up if no list has it.
    given_up: Instant,
    /// When to look what is known meanwhile.
    look: Instant,
}

impl Known {
    /// Knows nothing yet, and asks nothing. See [`super::K8sConfig`] for `pod_is_enough`.
    #[must_use]
    pub fn new(kubelet: Kubelet, patience: Patience, pod_is_enough: bool, metrics: &Metrics) -> Self {
        let state = State {
            held: Arc::default(),
            asked: None,
            schedule: Schedule::new(patience.interval),
            waiting: HashMap::new(),
            strangers: HashMap::new(),
            refresh: false,
            running: false,
            silent_since: None,
            trouble: None,
            unreadable: Unreadable::default(),
        };
        let shared = Arc::new(Shared {
            kubelet: Arc::new(kubelet),
            patience,
            pod_is_enough,
            metrics: metrics.clone(),
            state: Mutex::new(state),
            hurry: Notify::new(),
            tasks: TaskTracker::new(),
        });
        let seen = Arc::downgrade(&shared);
        metrics.before_render("pods", move || {
            if let Some(shared) = seen.upgrade() {
                shared.show();
            }
        });
        Self { shared }
    }

    /// What the lists say of `sought`: never [`Answer::Unlisted`].
    ///
    /// # Errors
    ///
    /// [`FindError`]; a later call may succeed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn find(&self, sought: &Sought) -> Result<Answer, FindError> {
        let (mut found, mut wait) = match self.shared.step(sought, Instant::now()) {
            Step::Answer(answer) => return Ok(answer),
            Step::Refuse(error) => return Err(error),
            Step::Wait(found, wait) => (found, wait),
        };
        let _counted = Counted { shared: &self.shared, sought };
        loop {
            let until = self.shared.out_of_patience(Instant::now()).min(wait.look);
            if let Ok(Ok(answer)) = timeout_at(until, found.wait_for(Option::is_some)).await {
                return Ok(answer.clone().unwrap_or(Answer::Contested));
            }
            match self.shared.look_again(sought, wait, Instant::now()) {
                ControlFlow::Continue(look) => wait.look = look,
                ControlFlow::Break(found) => return found,
            }
        }
    }

    /// What keeps the kubelet from answering now, if something does.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let state = self.shared.lock();
        let trouble = state.trouble.as_ref()?;
        Some(self.shared.error_of(trouble).to_string())
    }
}

/// Somebody who waits, until dropped.
struct Counted<'a> {
    shared: &'a Shared,
    sought: &'a Sought,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Entry::Occupied(mut waiting) = state.waiting.entry(self.sought.clone()) else { return };
        waiting.get_mut().waiters -= 1;
        if waiting.get().waiters > 0 {
            return;
        }
        let left = waiting.remove();
        if left.found.borrow().is_none() && left.looked_through > 0 {
            state.remember(self.sought, left.looked_through, false);
        }
    }
}

impl State {
    /// Counts one more who waits for `sought`.
    fn wait_for(&mut self, sought: &Sought) -> Option<watch::Receiver<Option<Answer>>> {
        if self.waiting.len() >= MAX_WAITED_FOR && !self.waiting.contains_key(sought) {
            return None;
        }
        let stranger = self.strangers.get(sought);
        let waiting = self.waiting.entry(sought.clone()).or_insert_with(|| Waiting {
            found: watch::Sender::new(None),
            waiters: 0,
            looked_through: stranger.map_or(0, |stranger| stranger.looked_through),
        });
        waiting.waiters += 1;
        Some(waiting.found.subscribe())
    }

    /// No list had `sought`, and nobody waits for it any more.
    fn remember(&mut self, sought: &Sought, looked_through: u32, given_up: bool) {
        if self.strangers.len() >= MAX_STRANGERS && !self.strangers.contains_key(sought) {
            let oldest = self.strangers.iter().min_by_key(|(_, stranger)| stranger.until);
            if let Some(oldest) = oldest.map(|(sought, _)| sought.clone()) {
                self.strangers.remove(&oldest);
            }
        }
        let until = Instant::now() + STRANGER_LIFETIME;
        let stranger =
            self.strangers.entry(sought.clone()).or_insert(Stranger { looked_through, given_up, until });
        stranger.looked_through = stranger.looked_through.max(looked_through);
        stranger.given_up |= given_up;
        stranger.until = until;
    }

    /// How old the list is that is held.
    fn age(&self, now: Instant) -> Duration {
        self.asked.map_or(Duration::MAX, |asked| now - asked)
    }

    /// Whether the kubelet has been silent for too long to wait for it.
    fn hangs(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now >= since + PATIENCE)
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        let waiting = self.waiting.values().filter(|waiting| waiting.found.borrow().is_none());
        let looked_through = waiting.map(|waiting| waiting.looked_through);
        self.schedule.next(looked_through, self.refresh, now)
    }

    /// Takes over a list, and wakes those whose containers it has.
    fn take(&mut self, index: Index, asked: Instant, pod_is_enough: bool) {
        self.held = Arc::new(index);
        self.asked = Some(asked);
        for (sought, waiting) in &mut self.waiting {
            match self.held.find(sought, pod_is_enough) {
                Answer::Unlisted => waiting.looked_through = waiting.looked_through.saturating_add(1),
                answer => {
                    self.strangers.remove(sought);
                    drop(waiting.found.send_replace(Some(answer)));
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(self: &Arc<Self>, sought: &Sought, now: Instant) -> Step {
        let mut state = self.lock();
        let state = &mut *state;
        let held = state.held.find(sought, self.pod_is_enough);
        let age = state.age(now);
        let known = held != Answer::Unlisted;
        if known && age < FRESH {
            return Step::Answer(held);
        }
        state.refresh |= known;
        if known && (age < STALE || state.trouble.is_some() || state.hangs(now)) {
            self.see_to_it(state);
            return Step::Answer(held);
        }
        if state.hangs(now) {
            self.see_to_it(state);
            return Step::Refuse(self.hanging(state));
        }
        let Some(found) = state.wait_for(sought) else { return Step::Refuse(FindError::TooMany) };
        self.see_to_it(state);
        let stranger = state.strangers.get(sought);
        let patience = if stranger.is_some_and(|stranger| stranger.given_up && now < stranger.until) {
            (self.patience.interval * 2).max(STRANGER_PATIENCE).min(self.patience.unlisted)
        } else {
            self.patience.unlisted
        };
        let given_up = now + patience;
        let look = if known { now + REFRESH_PATIENCE } else { given_up };
        Step::Wait(found, Wait { began: now, given_up, look })
    }

    /// What is known now of what somebody has waited for and not been told of; or until when to wait on.
    fn look_again(
        &self,
        sought: &Sought,
        wait: Wait,
        now: Instant,
    ) -> ControlFlow<Result<Answer, FindError>, Instant> {
        let mut state = self.lock();
        let held = state.held.find(sought, self.pod_is_enough);
        let known = held != Answer::Unlisted;
        let hangs = state.hangs(now);
        if !known && hangs {
            return ControlFlow::Break(Err(self.hanging(&state)));
        }
        let patience = match state.trouble {
            None if state.age(now) >= OLD => PATIENCE,
            _ => REFRESH_PATIENCE,
        };
        let end = if known { wait.began + patience } else { wait.given_up };
        match known {
            _ if now < end && !hangs => ControlFlow::Continue(end),
            true => ControlFlow::Break(Ok(held)),
            false => ControlFlow::Break(Err(self.given_up(&mut state, sought))),
        }
    }

    /// Something is wanted: the task runs, and knows of it.
    fn see_to_it(self: &Arc<Self>, state: &mut State) {
        if std::mem::replace(&mut state.running, true) {
            self.hurry.notify_one();
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn(async move { shared.run().await });
    }

    /// Asks until nobody wants anything.
    async fn run(self: Arc<Self>) {
        let _marked = Running(&self);
        loop {
            let (due, held) = {
                let mut state = self.lock();
                match state.next(Instant::now()) {
                    Some(due) => (due, Arc::clone(&state.held)),
                    None => {
                        state.running = false;
                        return;
                    }
                }
            };
            if due > Instant::now() {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.hurry.notified() => continue,
                }
            }
            let start = Instant::now();
            self.begin(start);
            let outcome = self.kubelet.list(held).await;
            self.land(outcome, start);
        }
    }

    fn begin(&self, now: Instant) {
        let mut state = self.lock();
        state.schedule.began(now);
        state.silent_since.get_or_insert(now);
        // Who wants a newer list from now on wants one that is asked for later.
        state.refresh = false;
    }

    fn land(&self, outcome: Result<List, KubeletError>, start: Instant) {
        let now = Instant::now();
        let kind = outcome.as_ref().map_or_else(KubeletError::kind, |_| "ok");
        self.metrics.kubelet_request(kind, now - start);
        let mut state = self.lock();
        state.schedule.ended(outcome.is_ok());
        let list = match outcome {
            Ok(list) => list,
            Err(error) => {
                // Until it is back, so that what is said of it is never old.
                state.refresh = true;
                note_trouble(&mut state.trouble, &error, (start, now), &self.kubelet);
                return;
            }
        };
        state.silent_since = None;
        if let Some(trouble) = state.trouble.take() {
            let seconds = (now - trouble.since).as_secs();
            info!(kubelet = self.kubelet.place(), seconds, "The kubelet lists pods again");
        }
        state.unreadable.note(list.unreadable, now);
        debug!(pods = list.index.pods(), containers = list.index.containers(), "Pods listed");
        state.take(list.index, start, self.pod_is_enough);
        state.strangers.retain(|_, stranger| now < stranger.until);
    }

    /// Until when whoever waits may go on without looking.
    fn out_of_patience(&self, now: Instant) -> Instant {
        self.lock().silent_since.unwrap_or(now) + PATIENCE
    }

    fn hanging(&self, state: &State) -> FindError {
        match &state.trouble {
            Some(trouble) => self.error_of(trouble),
            None => FindError::Kubelet {
                place: self.kubelet.place(),
                what: format!("no answer for {PATIENCE:?}"),
                next: "see whether the kubelet runs: `systemctl status kubelet`",
            },
        }
    }

    fn error_of(&self, trouble: &Trouble) -> FindError {
        FindError::Kubelet { place: self.kubelet.place(), what: trouble.what.clone(), next: trouble.next }
    }

    /// Nobody lists it in time. If the kubelet answers, it may be the container of something else than Kubernetes.
    fn given_up(&self, state: &mut State, sought: &Sought) -> FindError {
        if let Some(trouble) = &state.trouble {
            return self.error_of(trouble);
        }
        let looked_through = state.waiting.get(sought).map_or(0, |waiting| waiting.looked_through);
        state.remember(sought, looked_through, true);
        FindError::Unlisted { id: sought.id.to_string() }
    }

    /// As gauges.
    fn show(&self) {
        let state = self.lock();
        let age = state.asked.map(|asked| Instant::now() - asked);
        self.metrics.pods_held(state.held.pods(), state.held.containers(), age, state.waiting.len());
    }
}

/// The task runs, until dropped: also when it panics.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().running = false;
        }
    }
}

/// A list that is younger is believed without more ado.
pub const FRESH: Duration = Duration::from_secs(5);

/// One that is older is not believed while the kubelet answers.
pub const STALE: Duration = Duration::from_secs(30);

/// One that is older is an answer only if the kubelet gives no newer one within [`PATIENCE`].
pub const OLD: Duration = Duration::from_secs(300);

/// How long a newer list is waited for when there is an older one.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(1);

/// A kubelet that says nothing for so long holds nobody up any more.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a container that is known to be no Pod's is waited for, or two intervals.
const STRANGER_PATIENCE: Duration = Duration::from_secs(1);

/// For how long that is believed.
const STRANGER_LIFETIME: Duration = Duration::from_secs(300);

/// Such containers that are remembered. Above it the one that was last waited for the longest ago is forgotten.
const MAX_STRANGERS: usize = 1024;

/// Containers that are waited for. Above it a caller is refused; it tries again.
const MAX_WAITED_FOR: usize = 4096;

#[cfg(test)]
mod tests;
