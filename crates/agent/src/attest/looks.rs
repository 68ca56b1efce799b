//! Work that blocks a thread while it looks at processes: their files, name services, programs.
//!
//! Few threads do all of it as long as it takes no time, because each thread costs memory for good (its stack, its share of
//! the allocator). A look that hangs, as one does whose name service is away, gives its turn to the next; then there are more
//! threads, up to a bound. Further callers wait, within their attestor's deadline.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use vouchsafe_runtime::blocking;

use super::AttestorError;
use super::container::LocateError;

/// The threads for one kind of work of one attestor.
#[derive(Debug)]
pub struct Looks {
    turns: Semaphore,
    threads: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        Self::on(MAX_THREADS)
    }
}

impl Looks {
    /// On at most so many threads.
    #[must_use]
    pub fn on(threads: usize) -> Self {
        Self { turns: Semaphore::new(TURNS.min(threads)), threads: Arc::new(Semaphore::new(threads)) }
    }

    /// Runs `look` on a thread.
    ///
    /// # Errors
    ///
    /// What `look` found wrong.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; a look that has begun runs to its end.
    pub async fn run<T, F>(&self, look: F) -> Result<T, AttestorError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, AttestorError> + Send + 'static,
    {
        let turn = self.turns.acquire().await.map_err(stopped)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(stopped)?;
        let work = move || {
            let _held_to_the_end = thread;
            look()
        };
        let mut work = pin!(blocking::run(work));
        if let Ok(outcome) = timeout(QUICK, work.as_mut()).await {
            return outcome.map_err(stopped)?;
        }
        drop(turn);
        work.await.map_err(stopped)?
    }
}

/// What an attestor says when the container of process `pid` could not be found out.
pub(super) fn not_located(pid: i32, error: LocateError) -> AttestorError {
    match error {
        LocateError::Read { source, .. } => {
            AttestorError::Lookup { what: format!("cannot read process {pid}"), source: Some(source) }
        }
        other => AttestorError::Lookup { what: other.to_string(), source: None },
    }
}

fn stopped(error: impl std::fmt::Display) -> AttestorError {
    AttestorError::Lookup { what: format!("attestation thread: {error}"), source: None }
}

/// Looks at a time, of those that do not hang.
const TURNS: usize = 4;

/// A look that takes longer hangs.
const QUICK: Duration = Duration::from_millis(10);

/// Threads that look at processes at a time.
const MAX_THREADS: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use futures_util::future::join_all;

    use super::*;

    /// Looks that hang until the sender is gone, and how many of them have a thread.
    fn hanging() -> (Sender<()>, impl Fn() -> Hang) {
        let (release, gate) = channel();
        let hang = Hang { gate: Arc::new(Mutex::new(gate)), begun: Arc::default() };
        (release, move || hang.clone())
    }

    #[derive(Clone)]
    struct Hang {
        gate: Arc<Mutex<Receiver<()>>>,
        begun: Arc<AtomicUsize>,
    }

    impl Hang {
        fn look(self) -> Result<(), AttestorError> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            // Ends when the sender is gone.
            self.gate.lock().unwrap().recv().unwrap_err();
            Ok(())
        }
    }

    #[tokio::test]
    async fn looks_that_hang_hold_up_no_other_as_long_as_there_are_threads() {
        let looks = Looks::on(8);
        let (release, hang) = hanging();
        let hung = join_all((0..7).map(|_| {
            looks.run({
                let hang = hang();
                move || hang.look()
            })
        }));
        let found = async {
            while hang().begun.load(Ordering::SeqCst) < 7 {
                tokio::time::sleep(QUICK).await;
            }
            looks.run(|| Ok(7)).await
        };
        let found = async {
            let found = found.await;
            drop(release);
            found
        };
        let both = timeout(Duration::from_secs(60), async { tokio::join!(hung, found) }).await;
        let (_, found) = both.expect("a thread for each");
        assert_eq!(found.unwrap(), 7);
    }

    #[tokio::test]
    async fn looks_that_hang_take_a_bounded_number_of_threads() {
        let looks = Looks::on(3);
        let (release, hang) = hanging();
        let hung = join_all((0..6).map(|_| {
            looks.run({
                let hang = hang();
                move || hang.look()
            })
        }));
        assert!(timeout(20 * QUICK, hung).await.is_err());
        assert_eq!(hang().begun.load(Ordering::SeqCst), 3);
        drop(release);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn quick_looks_of_many_take_few_threads() {
        let looks = Looks::default();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let quick = (0..200).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            looks.run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(QUICK / 5);
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        });
        assert!(join_all(quick).await.into_iter().all(|found| found.is_ok()));
        let most = most.load(Ordering::SeqCst);
        // On a machine that stands still for a while, a quick look counts as one that hangs.
        assert!(most < MAX_THREADS / 2, "{most} at once");
    }
}
