//! The task that asks the kubelet for everybody, while there is something to ask for.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::Shared;
use super::state::State;
use super::trouble::note_trouble;
use crate::attest::k8s::kubelet::{KubeletError, List};

impl Shared {
    /// Something is wanted: the task runs, and knows of it.
    pub(super) fn see_to_it(self: &Arc<Self>, state: &mut State) {
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
        state.forget(now);
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
