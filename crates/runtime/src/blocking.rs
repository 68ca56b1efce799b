//! Work that blocks its thread: files, the embedded database, key generation.
//!
//! It runs on the threads that tokio keeps for such work, beside the tasks, and when it ends depends on the machine. The
//! simulation cannot have that: there each piece of such work is a task between other tasks, on the same thread, and takes as
//! much virtual time as the simulation draws. [`between_tasks`] says so for the thread that calls it, as tokio's paused clock
//! is said for a runtime.

use std::cell::RefCell;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Starts `work` where it holds up no task. It runs to its end, also when nobody waits for it.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let Some(Pauses { before, after }) = PAUSES.with_borrow_mut(|pauses| pauses.as_mut().map(|draw| draw()))
    else {
        #[expect(clippy::disallowed_methods, reason = "the one place that asks for a thread")]
        return tokio::task::spawn_blocking(work);
    };
    #[expect(clippy::disallowed_methods, reason = "stands for a thread, which nobody supervises either")]
    tokio::spawn(async move {
        pause(before).await;
        let done = work();
        pause(after).await;
        done
    })
}

/// How much work can be done at a time: threads of the machine, or one.
#[must_use]
pub fn parallelism() -> usize {
    let simulated = PAUSES.with_borrow(Option::is_some);
    if simulated { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// From now on what this thread starts is done on this thread, with pauses as `draw` says. For the simulation.
pub fn between_tasks(draw: impl FnMut() -> Pauses + 'static) {
    PAUSES.set(Some(Box::new(draw)));
}

/// How long a piece of work takes in a simulation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses {
    /// From its start until it has its effect.
    pub before: Duration,
    /// From then until whoever waits for it is told.
    pub after: Duration,
}

async fn pause(time: Duration) {
    // A sleep of nothing would still round up to the next millisecond.
    if !time.is_zero() {
        sleep(time).await;
    }
}

type Draw = Box<dyn FnMut() -> Pauses>;

thread_local! {
    static PAUSES: RefCell<Option<Draw>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_also_when_nobody_waits_for_it() {
        let (sender, done) = tokio::sync::oneshot::channel();
        drop(run(move || sender.send(thread::current().id()).unwrap()));
        assert_ne!(done.await.unwrap(), thread::current().id());
    }

    #[test]
    fn in_a_simulation_work_is_done_on_the_same_thread_and_takes_the_time_that_is_drawn() {
        const TICK: Duration = Duration::from_millis(7);
        let simulation = || {
            between_tasks(|| Pauses { before: TICK, after: 2 * TICK });
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let (sender, mut effects) = mpsc::unbounded_channel();
                let began = Instant::now();
                let work = run(move || sender.send((thread::current().id(), began.elapsed())).unwrap());
                assert!(effects.is_empty(), "it begins when the caller waits");
                assert_eq!(effects.recv().await.unwrap(), (thread::current().id(), TICK));
                work.await.unwrap();
                assert_eq!((began.elapsed(), parallelism()), (3 * TICK, 1));
            });
        };
        thread::spawn(simulation).join().unwrap();
    }
}
