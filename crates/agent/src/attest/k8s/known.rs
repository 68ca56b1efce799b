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
//!
//! Here callers are served; what is remembered for them is in [`state`], and the task that asks in [`asking`].

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use self::state::State;
use self::trouble::Trouble;
use super::index::{Answer, Sought};
use super::kubelet::Kubelet;
use super::schedule::Schedule;
use crate::metrics::Metrics;

pub use self::trouble::FindError;

mod asking;
mod state;
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
        let shared = Arc::new(Shared {
            kubelet: Arc::new(kubelet),
            patience,
            pod_is_enough,
            metrics: metrics.clone(),
            state: Mutex::new(State::new(Schedule::new(patience.interval))),
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
        self.shared.lock().leave(self.sought, Instant::now());
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
        let patience = if state.is_no_pods(sought, now) {
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
            false => ControlFlow::Break(Err(self.given_up(&mut state, sought, now))),
        }
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
    fn given_up(&self, state: &mut State, sought: &Sought, now: Instant) -> FindError {
        if let Some(trouble) = &state.trouble {
            return self.error_of(trouble);
        }
        state.give_up(sought, now);
        FindError::Unlisted { id: sought.id.to_string() }
    }

    /// As gauges.
    fn show(&self) {
        let state = self.lock();
        let age = state.asked.map(|asked| Instant::now() - asked);
        self.metrics.pods_held(state.held.pods(), state.held.containers(), age, state.waiting.len());
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

#[cfg(test)]
mod tests;
