//! The log line for a caller without identity, bounded: a workload that asks again and again must not fill the log.
//!
//! The first refusal of a process is logged at once. Those that follow within [`QUIET`] are counted, and the next line
//! says how many there were. One process is one pid: what it is refused for is in its selectors, which an operator may
//! allow to be shown.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Who was refused lately.
#[derive(Debug, Default)]
pub struct Refusals {
    lately: Mutex<HashMap<i32, Lately>>,
}

#[derive(Debug)]
struct Lately {
    logged: Instant,
    unlogged: u64,
}

impl Refusals {
    /// Whether a refusal of process `pid` is to be logged now, and then how many before it were not.
    #[must_use]
    pub fn note(&self, pid: i32) -> Option<u64> {
        let now = Instant::now();
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lately.get_mut(&pid) {
            if now < known.logged + QUIET {
                known.unlogged += 1;
                return None;
            }
            known.logged = now;
            return Some(std::mem::take(&mut known.unlogged));
        }
        if lately.len() >= MAX_PROCESSES {
            lately.retain(|_, known| now < known.logged + QUIET);
        }
        if lately.len() >= MAX_PROCESSES {
            // So many processes within so little time share one line.
            let others = lately.entry(EVERYBODY_ELSE).or_insert(Lately { logged: now, unlogged: 0 });
            others.unlogged += 1;
            return (others.unlogged == 1).then_some(0);
        }
        lately.insert(pid, Lately { logged: now, unlogged: 0 });
        Some(0)
    }
}

/// For how long further refusals of a process are only counted.
pub const QUIET: Duration = Duration::from_secs(10);

/// Processes that are remembered. Above it the log says nothing of new ones until others have been silent for [`QUIET`].
const MAX_PROCESSES: usize = 1024;

/// No process has this number.
const EVERYBODY_ELSE: i32 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_asks_again_and_again_is_logged_at_intervals_with_a_count() {
        let refusals = Refusals::default();
        assert_eq!(refusals.note(7), Some(0), "the first one at once");
        for _ in 0..1000 {
            assert_eq!(refusals.note(7), None);
        }
        assert_eq!(refusals.note(8), Some(0), "another process is another matter");
        tokio::time::advance(QUIET).await;
        assert_eq!(refusals.note(7), Some(1000));
        tokio::time::advance(QUIET).await;
        assert_eq!(refusals.note(7), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn ever_new_processes_fill_neither_the_log_nor_the_memory() {
        let refusals = Refusals::default();
        let logged = (1..100_000).filter(|pid| refusals.note(*pid).is_some()).count();
        assert_eq!(logged, MAX_PROCESSES + 1);
        assert!(refusals.lately.lock().unwrap().len() <= MAX_PROCESSES + 1);
        tokio::time::advance(QUIET).await;
        assert_eq!(refusals.note(200_000), Some(0), "room again");
    }
}
