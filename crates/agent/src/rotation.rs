//! When a credential is renewed. Pure.
//!
//! The deadline is half of the lifetime, moved by up to a tenth of it to either side. The lifetime counts from arrival:
//! certificates are backdated by ten seconds, which would leave one that lives for twelve no time at all. It is drawn once, when the
//! credential arrives, from the credential's key, and kept: drawing again at every look would make every credential
//! renew near the early end, all together. The same key has the same place after a restart and on every replica.
//!
//! Wall clocks jump. A deadline is therefore compared with the wall clock each time anyone looks, and a credential
//! that was received "in the future" (the clock went back) counts as due, because nobody will accept it yet.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vouchsafe_runtime::entropy::spread;

/// The times of one credential, all in unix seconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lifetime {
    /// First second of validity.
    pub not_before: i64,
    /// Last second of validity.
    pub not_after: i64,
    /// Renew at this time. Drawn once.
    pub renew_at: i64,
    /// This machine's time when the credential arrived.
    pub received_at: i64,
}

/// What a credential needs now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Nothing.
    Good,
    /// Renewal; it still works.
    Due,
    /// A new one at once: peers refuse it, because it expired or the clock went back to before it was issued.
    Unusable,
}

impl Lifetime {
    /// Draws the renewal time of a credential that arrived `now`. `key` names the credential.
    #[must_use]
    pub fn new(not_before: i64, not_after: i64, now: i64, key: &[u8]) -> Self {
        let start = now.clamp(not_before, not_after.max(not_before));
        let half = not_after.saturating_sub(start).max(0) / 2;
        let reach = half as f64 * SPREAD;
        let offset = (reach * (2.0 * spread(key) - 1.0)).round() as i64;
        Self {
            not_before,
            not_after,
            renew_at: start.saturating_add(half).saturating_add(offset),
            received_at: now,
        }
    }

    /// What the credential needs at `now`.
    ///
    /// An agent whose clock runs behind the server's receives credentials that are not valid *yet*; asking again
    /// would give the same. So only a clock that went back since the credential arrived makes it unusable.
    #[must_use]
    pub fn standing(&self, now: i64) -> Standing {
        let went_back = now < self.received_at.saturating_sub(STEP_BACK_TOLERANCE) && now < self.not_before;
        if now >= self.not_after || went_back {
            Standing::Unusable
        } else if now >= self.renew_at {
            Standing::Due
        } else {
            Standing::Good
        }
    }

    /// Whether the credential has ended at `now`.
    #[must_use]
    pub fn expired(&self, now: i64) -> bool {
        now >= self.not_after
    }
}

/// When X.509-SVIDs are renewed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// What must be left of an SVID's life at any time, if an operator wants more than half.
    pub availability_target: Option<Duration>,
}

impl Policy {
    /// As [`Lifetime::new`], and no later than the target allows.
    #[must_use]
    pub fn lifetime(self, (not_before, not_after): (i64, i64), now: i64, key: &[u8]) -> Lifetime {
        let lifetime = Lifetime::new(not_before, not_after, now, key);
        match self.target().filter(|_| !self.falls_back(not_before, not_after)) {
            None => lifetime,
            Some(target) => {
                let ahead = (AVAILABILITY_SPREAD * spread(key)).round() as i64;
                let by_target = not_after.saturating_sub(target).saturating_sub(ahead);
                Lifetime { renew_at: lifetime.renew_at.min(by_target), ..lifetime }
            }
        }
    }

    /// Whether a target is set that an SVID with these times lives too short for.
    #[must_use]
    pub fn falls_back(self, not_before: i64, not_after: i64) -> bool {
        let life = not_after.saturating_sub(not_before);
        self.target().is_some_and(|target| life.saturating_sub(target) <= MIN_GRACE)
    }

    fn target(self) -> Option<i64> {
        self.availability_target.map(|target| i64::try_from(target.as_secs()).unwrap_or(i64::MAX))
    }
}

/// Seconds by which renewals for an availability target are spread, to the early side.
const AVAILABILITY_SPREAD: f64 = 600.0;

/// A target leaves at least this many seconds of an SVID's life before its renewal, or it does not count.
const MIN_GRACE: i64 = 12 * 3600;

/// How far the renewal may move from half of the lifetime, as a part of that half.
const SPREAD: f64 = 0.1;

/// Seconds by which a clock may be set back without any credential counting as unusable.
const STEP_BACK_TOLERANCE: i64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_credential_is_renewed_once_at_its_stored_time() {
        let svid = Lifetime::new(1_000, 4_600, 1_010, b"entry");
        assert_eq!(svid.standing(svid.renew_at - 1), Standing::Good);
        assert_eq!(svid.standing(svid.renew_at), Standing::Due);
        assert_eq!(svid.standing(4_599), Standing::Due);
        assert_eq!(svid.standing(4_600), Standing::Unusable);
        assert_eq!(svid, Lifetime::new(1_000, 4_600, 1_010, b"entry"), "the same key has the same place");
    }

    #[test]
    fn a_backdated_credential_is_not_due_at_once() {
        let (not_before, now, not_after) = (990, 1_000, 1_012);
        assert!((1_005..=1_007).contains(&Lifetime::new(not_before, not_after, now, b"entry").renew_at));
    }

    #[test]
    fn a_jump_of_72_hours_either_way_asks_for_a_new_one() {
        const JUMP: i64 = 72 * 3600;
        let svid = Lifetime::new(1_000_000, 1_003_600, 1_000_010, b"entry");
        assert_eq!(svid.standing(1_000_010 + JUMP), Standing::Unusable);
        assert_eq!(svid.standing(1_000_010 - JUMP), Standing::Unusable);
        assert_eq!(svid.standing(1_000_008), Standing::Good, "a small step back is nothing");
    }

    #[test]
    fn an_availability_target_renews_sooner_where_the_lifetime_allows_it() {
        const HOUR: i64 = 3600;
        let policy = Policy { availability_target: Some(Duration::from_secs(24 * 3600)) };
        let at = |hours: i64| policy.lifetime((0, hours * HOUR), 0, b"entry").renew_at;
        let half = |hours: i64| Lifetime::new(0, hours * HOUR, 0, b"entry").renew_at;
        assert!((13 * HOUR - 600..=13 * HOUR).contains(&at(37)), "24 hours are left at hour 13: {}", at(37));
        assert_eq!(at(36), half(36), "a grace of 12 hours is not enough");
        assert!(policy.falls_back(0, 36 * HOUR) && !policy.falls_back(0, 37 * HOUR));
        assert_eq!(at(100), half(100), "half of it comes first");
        assert_eq!(Policy::default().lifetime((0, 37 * HOUR), 0, b"entry").renew_at, half(37));
        assert!(!Policy::default().falls_back(0, HOUR));
    }

    #[test]
    fn a_server_whose_clock_is_ahead_does_not_make_us_ask_for_ever() {
        let ahead = Lifetime::new(5_000, 8_600, 1_000, b"entry");
        assert_eq!(ahead.standing(1_001), Standing::Good);
    }

    #[test]
    fn a_thousand_credentials_issued_together_are_not_renewed_together() {
        let mut per_second = std::collections::HashMap::new();
        for n in 0..1_000 {
            let at = Lifetime::new(0, 3_600, 0, format!("entry-{n}").as_bytes()).renew_at;
            assert!((1_620..=1_980).contains(&at), "{at}");
            *per_second.entry(at).or_insert(0) += 1;
        }
        let busiest = per_second.values().max().copied().unwrap_or_default();
        assert!(busiest <= 12, "{busiest} in one second");
    }

    proptest! {
        #[test]
        fn the_renewal_is_always_inside_the_lifetime(start in 0_i64..1_i64 << 40, life in 2_i64..1_i64 << 32, key: u64) {
            let svid = Lifetime::new(start, start + life, start, &key.to_be_bytes());
            prop_assert!(svid.renew_at > svid.not_before - 1 && svid.renew_at < svid.not_after);
            let half = life / 2;
            prop_assert!((svid.renew_at - (start + half)).abs() <= half / 10 + 1);
        }
    }
}
