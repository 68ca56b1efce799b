//! The held value.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use crate::version::{Extent, Offered, Stale, Version};

/// Holds the newest good state of one source. Readers never wait; writers are serialized.
#[derive(Debug)]
pub struct Store<T> {
    held: ArcSwapOption<Held<T>>,
    writing: Mutex<()>,
}

/// A state, and how good it is.
#[derive(Debug)]
pub struct Held<T> {
    /// The state.
    pub value: Arc<T>,
    /// Its place in the history of its source.
    pub version: Version,
    /// When the source last said that this is the newest.
    pub confirmed_at: SystemTime,
    /// Where it came from, in words for a person: `"server 10.0.0.1:8081"`, `"file"`.
    pub source: Arc<str>,
}

impl<T> Store<T> {
    /// A store that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { held: ArcSwapOption::empty(), writing: Mutex::new(()) }
    }

    /// What is held, if anything is.
    #[must_use]
    pub fn load(&self) -> Option<Arc<Held<T>>> {
        self.held.load_full()
    }

    /// Offers a state that follows the held one by a contiguous series of changes. The first offer is always accepted.
    ///
    /// # Errors
    ///
    /// [`Stale`]: the offer is older than what is held, or of another epoch. Retrying does not help; a complete list
    /// does.
    pub fn offer(&self, value: T, version: Version, source: &str, now: SystemTime) -> Result<Offered, Stale> {
        self.decide(value, version, Extent::Contiguous, source, now)
    }

    /// Offers a complete list, which may start a new epoch.
    ///
    /// # Errors
    ///
    /// [`Stale`]: the list is older than what is held.
    pub fn offer_complete(
        &self,
        value: T,
        version: Version,
        source: &str,
        now: SystemTime,
    ) -> Result<Offered, Stale> {
        self.decide(value, version, Extent::Complete, source, now)
    }

    fn decide(
        &self,
        value: T,
        version: Version,
        extent: Extent,
        source: &str,
        now: SystemTime,
    ) -> Result<Offered, Stale> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.load_full();
        let offered = match &held {
            None => Offered::Replaced,
            Some(held) => held.version.decide(version, extent)?,
        };
        let value = match (offered, held) {
            (Offered::Confirmed, Some(held)) => held.value.clone(),
            _ => Arc::new(value),
        };
        self.held.store(Some(Arc::new(Held { value, version, confirmed_at: now, source: source.into() })));
        Ok(offered)
    }
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(position: u64) -> Version {
        Version { epoch: 1, position }
    }

    #[test]
    fn an_older_offer_leaves_the_held_state_alone() {
        let store = Store::new();
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(store.offer("first", at(5), "a", now), Ok(Offered::Replaced));
        assert_eq!(store.offer("older", at(4), "b", now), Err(Stale { held: at(5), offered: at(4) }));
        assert_eq!(*store.load().unwrap().value, "first");
    }

    #[test]
    fn the_same_version_confirms_without_replacing() {
        let store = Store::new();
        let (then, now) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        store.offer("first", at(5), "a", then).unwrap();
        assert_eq!(store.offer("again", at(5), "b", now), Ok(Offered::Confirmed));
        let held = store.load().unwrap();
        assert_eq!((*held.value, held.confirmed_at, &*held.source), ("first", now, "b"));
    }
}
