//! Which statuses are not to be written for a while.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// By a kind, or a kind and an object's name.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    held: HashMap<String, Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    times: u32,
}

impl Pauses {
    /// Until when one of `keys` is not written.
    pub(super) fn of(&self, keys: &[&str], now: Instant) -> Option<Instant> {
        let held = keys.iter().filter_map(|key| self.held.get(*key)).map(|pause| pause.until);
        held.filter(|until| *until > now).max()
    }

    /// A write failed, and may work later: `asked` is how long the API server wants to be left alone. Gives the end of the
    /// pause, and whether it is the first in a row.
    pub(super) fn add(&mut self, key: &str, asked: Option<Duration>, now: Instant) -> (Instant, bool) {
        let times = self.held.get(key).map_or(0, |pause| pause.times);
        let grown = SHORTEST.saturating_mul(1 << times.min(MAX_DOUBLINGS));
        self.set(key, asked.unwrap_or(grown), now)
    }

    /// A write failed, and works only when a person has changed something.
    pub(super) fn add_longest(&mut self, key: &str, now: Instant) -> (Instant, bool) {
        self.set(key, LONGEST, now)
    }

    fn set(&mut self, key: &str, lasts: Duration, now: Instant) -> (Instant, bool) {
        if self.held.len() >= MAX_PAUSES {
            self.held.retain(|_, pause| pause.until > now);
        }
        let until = now + lasts.clamp(SHORTEST, LONGEST);
        let times = self.held.get(key).map_or(0, |pause| pause.times);
        self.held.insert(key.to_owned(), Pause { until, times: times.saturating_add(1) });
        (until, times == 0)
    }

    /// A write of these worked.
    pub(super) fn end(&mut self, keys: &[&str]) {
        for key in keys {
            self.held.remove(*key);
        }
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
const MAX_DOUBLINGS: u32 = 9;
/// From this many on those that have ended are forgotten.
const MAX_PAUSES: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_fails_is_left_alone_for_longer_and_longer() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let mut lasted = Vec::new();
        for n in 0..12 {
            let (until, is_first) = pauses.add("k", None, now);
            assert_eq!(is_first, n == 0, "it is said once");
            assert_eq!(pauses.of(&["k", "k x"], now), Some(until));
            lasted.push((until - now).as_secs());
        }
        assert_eq!(lasted, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(pauses.of(&["other"], now), None);
        pauses.end(&["k"]);
        assert_eq!(pauses.of(&["k"], now), None);
        assert_eq!(pauses.add("k", None, now).0 - now, SHORTEST, "it begins anew");
    }

    #[test]
    fn a_pause_is_as_long_as_the_api_server_asks_or_minutes_where_a_person_must_act() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        assert_eq!(pauses.add("k", Some(Duration::from_secs(7)), now).0 - now, Duration::from_secs(7));
        assert_eq!(pauses.add("k", Some(Duration::from_secs(9_000)), now).0 - now, LONGEST);
        assert_eq!(pauses.add_longest("k x", now).0 - now, LONGEST);
        assert_eq!(pauses.of(&["k y"], now), None, "another object of the kind");
    }
}
