//! How sure it is that the read model is all there is: when that was confirmed last, and by which look at the database.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// When the read model was last known to be all there is, and by which look. Looks are counted: a look that began after
/// something was seen knows of all that was written before it, whatever the clocks say.
#[derive(Debug)]
pub(crate) struct Confirmed {
    /// In Unix seconds.
    at: AtomicI64,
    begun: AtomicU64,
    done: watch::Sender<u64>,
    asked: Notify,
}

impl Confirmed {
    pub(crate) fn new(at: i64) -> Self {
        Self {
            at: AtomicI64::new(at),
            begun: AtomicU64::new(0),
            done: watch::Sender::new(0),
            asked: Notify::new(),
        }
    }

    /// When the read model was last known to be all there is, in Unix seconds.
    pub(crate) fn load(&self) -> i64 {
        self.at.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self, at: i64) {
        self.at.store(at, Ordering::Relaxed);
    }

    /// A look at the database begins; returns its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The look of this number has ended, and the read model has what it found.
    pub(crate) fn end(&self, look: u64) {
        self.done.send_replace(look);
    }

    /// The number of the look that began last.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// The number of the last look whose findings the read model has, now and whenever there is another.
    pub(crate) fn done(&self) -> watch::Receiver<u64> {
        self.done.subscribe()
    }

    /// Asks for a look soon.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until somebody asks for a look.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}
