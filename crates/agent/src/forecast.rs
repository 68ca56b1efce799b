//! How many X.509-SVIDs expire unrenewed in the next day, as renewing goes now. Pure.
//!
//! Counted are SVIDs that are held and valid `now` and that will at some time in `(now, now + horizon]` have ended without
//! a successor. What each SVID needs and when is known: its stored renewal time and its end. What is measured is the
//! [`Capacity`]:
//!
//! * [`Capacity::Ample`]: renewing keeps up (nothing is due for longer than [`BEHIND_AFTER`]). Nothing expires: 0.
//! * [`Capacity::None`]: the server does not answer, or the last batch failed. Everything that ends in time counts.
//! * [`Capacity::PerSecond`]: renewing lags behind, and so many per second get through. The agent asks for what ends
//!   soonest first, so the day ahead is played through in that order: each SVID is taken up when it is due and the one
//!   before is done, which takes `1 / capacity`; one that is not done at its end counts, once; each renewed one falls due
//!   again after as long as before. Only the overflow counts.
//!
//! SVIDs that the server refuses one by one count whatever the capacity, if they end in time.
//!
//! Playing through is bounded: with more renewals ahead than [`MAX_STEPS`], every k-th SVID in the order of their ends
//! stands for k of them, at a k-th of the capacity.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::rotation::Lifetime;

/// How many renewals get through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Capacity {
    /// As many as fall due.
    Ample,
    /// So many per second.
    PerSecond(f64),
    /// None.
    None,
}

/// How far ahead the forecast looks.
pub const HORIZON: Duration = Duration::from_secs(24 * 3600);

/// Renewing lags behind when something is due for longer than this. Batches and their retries take seconds.
pub const BEHIND_AFTER: Duration = Duration::from_secs(30);

/// Renewals that are played through at most. About ten milliseconds.
const MAX_STEPS: f64 = 50_000.0;

/// An SVID that is held.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its times.
    pub lifetime: Lifetime,
    /// The server does not issue its successor, for a reason of its own.
    pub refused: bool,
}

/// SVIDs that expire unrenewed within [`HORIZON`]; see the module. Only a backlog takes memory to play through.
#[must_use]
pub fn unrenewed(now: i64, held: impl Iterator<Item = Held> + Clone, capacity: Capacity) -> usize {
    let end = now.saturating_add(i64::try_from(HORIZON.as_secs()).unwrap_or(i64::MAX));
    let ends_in_time = |held: &Held| held.lifetime.not_after > now && held.lifetime.not_after <= end;
    let refused = held.clone().filter(|held| held.refused).filter(ends_in_time).count();
    let others = held.filter(|held| !held.refused);
    refused
        + match capacity {
            Capacity::Ample => 0,
            Capacity::None => others.filter(ends_in_time).count(),
            Capacity::PerSecond(rate) if rate <= 0.0 => others.filter(ends_in_time).count(),
            Capacity::PerSecond(rate) => overflow(now, end, others.map(|held| held.lifetime).collect(), rate),
        }
}

/// One SVID while the day is played through. Times are microseconds from now.
#[derive(Clone, Copy, Debug)]
struct Turn {
    due: i64,
    end: i64,
    /// From one renewal to the next, and from a renewal to the end.
    interval: i64,
    life: i64,
    counted: bool,
}

fn overflow(now: i64, end: i64, mut lifetimes: Vec<Lifetime>, rate: f64) -> usize {
    lifetimes.sort_unstable_by_key(|lifetime| lifetime.not_after);
    let horizon = end.saturating_sub(now);
    let every = (steps(&lifetimes, horizon as f64, rate) / MAX_STEPS).ceil().max(1.0);
    let turns = lifetimes.iter().step_by(every as usize).map(|lifetime| turn(now, lifetime)).collect();
    let takes = (every / rate * SECOND as f64).ceil() as i64;
    let counted = play(turns, horizon.saturating_mul(SECOND), takes) * every as usize;
    counted.min(lifetimes.len())
}

fn turn(now: i64, lifetime: &Lifetime) -> Turn {
    let start = lifetime.received_at.clamp(lifetime.not_before, lifetime.renew_at.max(lifetime.not_before));
    let from = |start: i64, time: i64| time.saturating_sub(start).saturating_mul(SECOND);
    Turn {
        due: from(now, lifetime.renew_at).max(0),
        end: from(now, lifetime.not_after),
        interval: from(start, lifetime.renew_at).max(SECOND),
        life: from(start, lifetime.not_after).max(SECOND),
        // One that has ended already does not expire any more, but is renewed before all others.
        counted: lifetime.not_after <= now,
    }
}

/// How many renewals lie ahead, roughly.
fn steps(lifetimes: &[Lifetime], horizon: f64, rate: f64) -> f64 {
    let each = |lifetime: &Lifetime| 1.0 + horizon * SECOND as f64 / turn(0, lifetime).interval as f64;
    lifetimes.iter().map(each).sum::<f64>().min(rate * horizon + lifetimes.len() as f64)
}

/// How many of `turns` are not renewed at their end, when one renewal takes `takes`, which is more than nothing.
fn play(mut turns: Vec<Turn>, horizon: i64, takes: i64) -> usize {
    let mut waiting: BinaryHeap<_> =
        turns.iter().enumerate().map(|(which, turn)| (Reverse(turn.due), which)).collect();
    let mut due = BinaryHeap::new();
    let (mut clock, mut count) = (0_i64, 0);
    while clock < horizon {
        while let Some((Reverse(at), _)) = waiting.peek()
            && *at <= clock
            && let Some((_, which)) = waiting.pop()
        {
            due.extend(turns.get(which).map(|turn| (Reverse(turn.end), which)));
        }
        let Some((_, which)) = due.pop() else {
            let Some((Reverse(next), _)) = waiting.peek() else { break };
            clock = *next;
            continue;
        };
        let Some(turn) = turns.get_mut(which) else { continue };
        clock = clock.saturating_add(takes);
        if clock > turn.end && turn.end <= horizon && !turn.counted {
            turn.counted = true;
            count += 1;
        }
        (turn.due, turn.end) = (clock.saturating_add(turn.interval), clock.saturating_add(turn.life));
        // What ends later is never taken before what ends in time.
        if turn.end <= horizon {
            waiting.push((Reverse(turn.due), which));
        }
    }
    let left = due.into_iter().filter_map(|(_, which)| turns.get(which));
    count + left.filter(|turn| turn.end <= horizon && !turn.counted).count()
}

const SECOND: i64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600;

    /// SVIDs of `life` seconds, received one after the other over the last half of it.
    fn fleet(count: usize, life: i64) -> Vec<Held> {
        let one = |at: usize| {
            let received = -(at as i64 * life / 2 / count as i64);
            let lifetime = Lifetime::new(received, received + life, received, &at.to_be_bytes());
            Held { lifetime, refused: false }
        };
        (0..count).map(one).collect()
    }

    fn told(held: &[Held], capacity: Capacity) -> usize {
        unrenewed(0, held.iter().copied(), capacity)
    }

    /// What happens second by second, done simply: the SVID that ends soonest is renewed, `rate` of them a second.
    fn watched(held: &[Held], rate: f64, seconds: i64) -> usize {
        let mut all: Vec<_> = held.iter().map(|held| (turn(0, &held.lifetime), false)).collect();
        let mut credit = 0.0;
        for second in 0..=seconds {
            let now = second * SECOND;
            credit = (credit + rate).min(rate + 1.0);
            for (turn, expired) in &mut all {
                *expired |= turn.end <= now && turn.end > 0;
            }
            while credit >= 1.0 {
                let due = all.iter_mut().filter(|(turn, _)| turn.due <= now);
                let Some((turn, _)) = due.min_by_key(|(turn, _)| turn.end) else { break };
                (turn.due, turn.end) = (now + turn.interval, now + turn.life);
                credit -= 1.0;
            }
        }
        all.iter().filter(|(_, expired)| *expired).count()
    }

    #[test]
    fn nothing_expires_while_renewing_keeps_up() {
        assert_eq!(told(&fleet(100, HOUR), Capacity::Ample), 0);
        assert_eq!(told(&fleet(100, HOUR), Capacity::PerSecond(10.0)), 0);
    }

    #[test]
    fn everything_that_ends_within_the_day_expires_while_renewing_fails() {
        let mut held = fleet(100, HOUR);
        held.extend(fleet(50, 7 * 24 * HOUR).iter().filter(|held| held.lifetime.not_after > 24 * HOUR));
        let ended = Lifetime::new(-20, -10, -20, b"ended");
        held.push(Held { lifetime: ended, refused: false });
        assert_eq!(told(&held, Capacity::None), 100);
        assert_eq!(told(&held, Capacity::PerSecond(0.0)), 100);
    }

    #[test]
    fn one_that_the_server_refuses_expires_however_well_the_others_do() {
        let mut held = fleet(10, HOUR);
        held[3].refused = true;
        assert_eq!(told(&held, Capacity::Ample), 1);
        assert_eq!(told(&held, Capacity::None), 10);
    }

    #[test]
    fn of_a_backlog_only_what_does_not_get_through_in_time_counts() {
        // 600 SVIDs that all end in a minute, and 5 a second.
        let one = Held { lifetime: Lifetime::new(-600, 60, -600, b"all"), refused: false };
        let late = told(&[one; 600], Capacity::PerSecond(5.0));
        assert!((299..=301).contains(&late), "{late}");
    }

    #[test]
    fn the_forecast_is_what_happens_then() {
        for (count, life, rate) in [
            (300, HOUR, 0.07),
            (300, HOUR, 0.08),
            (300, HOUR, 0.09),
            (300, 4 * HOUR, 0.01),
            (50, 20 * HOUR, 0.0005),
            (200, 600, 0.3),
        ] {
            let held = fleet(count, life);
            let (told, seen) = (told(&held, Capacity::PerSecond(rate)), watched(&held, rate, 24 * HOUR));
            let off = told.abs_diff(seen) as f64 / count as f64;
            assert!(off <= 0.05, "{count} for {life} s at {rate}/s: told {told}, seen {seen}");
        }
    }

    #[test]
    fn many_svids_are_forecast_from_some_of_them() {
        let held = fleet(20_000, HOUR);
        let few = |rate: f64| told(&fleet(200, HOUR), Capacity::PerSecond(rate / 100.0)) as f64 / 200.0;
        for rate in [4.0, 5.0, 8.0] {
            let many = told(&held, Capacity::PerSecond(rate)) as f64 / 20_000.0;
            assert!((many - few(rate)).abs() <= 0.05, "{rate}: {many} and {}", few(rate));
        }
    }

    proptest! {
        #[test]
        fn more_capacity_never_lets_more_expire_and_no_more_expire_than_are_held(
            count in 1_usize..200, life in 60_i64..100_000, rate in 0.001_f64..1.0,
        ) {
            let held = fleet(count, life);
            let at = |rate| told(&held, Capacity::PerSecond(rate));
            let (slow, fast) = (at(rate), at(rate * 4.0));
            prop_assert!(fast <= slow + count / 20 + 1, "{fast} at four times the rate of {slow}");
            prop_assert!(slow <= told(&held, Capacity::None));
        }
    }
}
