//! What the daemons said of containers, within bounds. Pure.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_types::selector::Selector;

use super::{Found, Place};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    held: HashMap<Place, Held>,
}

#[derive(Debug)]
struct Held {
    found: Found,
    at: Instant,
    used: Instant,
}

impl Remembered {
    /// What was said of a container, and when.
    pub(super) fn recall(&mut self, place: &Place, now: Instant) -> Option<(Found, Instant)> {
        let held = self.held.get_mut(place)?;
        held.used = now;
        Some((Arc::clone(&held.found), held.at))
    }

    /// Remembers `found`. For the room that it needs go those of the daemon that has most, longest unused first.
    pub(super) fn remember(&mut self, place: &Place, found: &Found, now: Instant) {
        self.held.retain(|each, held| now < held.used + FORGET && each != place);
        while self.held.len() >= MAX_KNOWN || self.weight() + weight(found) > MAX_BYTES {
            let Some(oldest) = self.oldest_of_the_largest() else { break };
            self.held.remove(&oldest);
        }
        self.held.insert(place.clone(), Held { found: Arc::clone(found), at: now, used: now });
    }

    fn oldest_of_the_largest(&self) -> Option<Place> {
        let mut weights: HashMap<&Path, usize> = HashMap::new();
        for (place, held) in &self.held {
            *weights.entry(&place.socket).or_default() += weight(&held.found);
        }
        let (largest, _) = weights.into_iter().max_by_key(|(_, weight)| *weight)?;
        let of_largest = self.held.iter().filter(|(place, _)| *place.socket == *largest);
        of_largest.min_by_key(|(_, held)| held.used).map(|(place, _)| place.clone())
    }

    fn weight(&self) -> usize {
        self.held.values().map(|held| weight(&held.found)).sum()
    }
}

/// Bytes of memory that selectors take, roughly.
pub(super) fn weight(found: &[Selector]) -> usize {
    512 + found.iter().map(|selector| selector.as_str().len() + 64).sum::<usize>()
}

/// A container that nobody asked for in so long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// Containers that are remembered. Above it one of the daemon with most of them goes.
const MAX_KNOWN: usize = 1024;

/// Bytes that are remembered of all containers. Above it as many go as must.
const MAX_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(socket: &str, id: usize) -> Place {
        Place { socket: socket.into(), id: id.to_string() }
    }

    #[test]
    fn containers_that_nobody_asks_for_are_forgotten() {
        let (mut remembered, start) = (Remembered::default(), Instant::now());
        let found: Found = Arc::from([]);
        for id in 0..2 * MAX_KNOWN {
            remembered.remember(&place("/s", id), &found, start);
        }
        assert_eq!(remembered.held.len(), MAX_KNOWN);
        remembered.remember(&place("/s", 0), &found, start + FORGET);
        assert_eq!(remembered.held.len(), 1);
    }

    #[test]
    fn a_daemon_that_says_much_of_many_containers_pushes_out_its_own() {
        let (mut remembered, start) = (Remembered::default(), Instant::now());
        let small: Found = Arc::from([Selector::parse("docker:label:a:b").unwrap()]);
        remembered.remember(&place("/docker", 0), &small, start);
        let value = "x".repeat(200);
        let selector = |n| Selector::new("docker", &format!("label:{n}:{value}")).unwrap();
        let large: Found = (0..900).map(selector).collect();
        for id in 0..200 {
            let now = start + Duration::from_millis(1 + id as u64);
            remembered.remember(&place("/liar", id), &large, now);
        }
        assert!(remembered.weight() <= MAX_BYTES);
        assert!(
            remembered.recall(&place("/docker", 0), start).is_some(),
            "of another daemon, and the oldest"
        );
        assert!(remembered.recall(&place("/liar", 199), start).is_some(), "the newest");
        assert!(remembered.recall(&place("/liar", 0), start).is_none());
    }
}
