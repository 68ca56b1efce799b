//! Which server an agent uses. Pure.
//!
//! Servers whose score is within [`MARGIN`] of the best are equals. Among equals an agent keeps the one that it has; if it
//! has none of them, it takes the one that is first for it by rendezvous hashing of (agent, server), so that agents spread
//! evenly, each keeps its place when others come and go, and the agents of a server that dies spread over those that are left.
//!
//! An agent leaves a server that is only slower than others at most once per [`MIN_STAY`]; one that fails, at once. It comes
//! back to its own place when that has been one of the equals for [`HOME_AFTER`], at a moment that differs between agents.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_runtime::entropy::spread;

/// A server that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Where it is.
    pub address: SocketAddr,
    /// See [`super::score`].
    pub score: f64,
    /// Whether its last call failed.
    pub failing: bool,
    /// Its place for this agent, 0 to 1; see [`rank`].
    pub rank: f64,
    /// The last time that something was wrong with it, or that it became known.
    pub troubled: Instant,
}

/// The server in use.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    /// Where it is.
    pub address: SocketAddr,
    /// Since when it is used.
    pub since: Instant,
}

/// The place of a server for an agent: the highest one wins.
#[must_use]
pub fn rank(agent: &str, address: SocketAddr) -> f64 {
    spread(format!("{agent}\n{address}").as_bytes())
}

/// The server to use now; `None` if there is none.
#[must_use]
pub fn choose(candidates: &[Candidate], current: Option<Current>, now: Instant) -> Option<SocketAddr> {
    let home = first(candidates)?;
    let Some(current) = current else { return Some(home.address) };
    let Some(held) = candidates.iter().find(|candidate| candidate.address == current.address) else {
        return Some(home.address);
    };
    let stayed = now.saturating_duration_since(current.since);
    let stays = match is_equal(held, best(candidates)) {
        true => {
            let wait = HOME_AFTER.mul_f64(1.0 + home.rank);
            stayed < wait || now.saturating_duration_since(home.troubled) < wait
        }
        false => !held.failing && stayed < MIN_STAY,
    };
    Some(if stays { held.address } else { home.address })
}

/// The one to try next: the first of the equals.
#[must_use]
pub fn first(candidates: &[Candidate]) -> Option<&Candidate> {
    let best = best(candidates);
    candidates
        .iter()
        .filter(|candidate| is_equal(candidate, best))
        .max_by(|a, b| a.rank.total_cmp(&b.rank).then(b.address.cmp(&a.address)))
}

fn best(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.score).fold(0.0, f64::max)
}

fn is_equal(candidate: &Candidate, best: f64) -> bool {
    candidate.score >= best - MARGIN
}

/// Servers whose scores differ by less are equally good.
pub const MARGIN: f64 = 0.15;

/// Shortest time between two moves to a faster server.
pub const MIN_STAY: Duration = Duration::from_secs(60);

/// An agent's own place must have been good for so long, up to twice, before it comes back.
pub const HOME_AFTER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 8081))
    }

    fn candidates(agent: &str, scores: &[f64], troubled: Instant) -> Vec<Candidate> {
        let candidate = |(n, score): (usize, &f64)| {
            let address = address(u8::try_from(n).unwrap());
            Candidate { address, score: *score, failing: false, rank: rank(agent, address), troubled }
        };
        scores.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn five_thousand_agents_spread_over_equal_servers_and_those_of_a_dead_one_over_the_rest() {
        let now = Instant::now();
        let count = |scores: &[f64]| {
            let mut counts: HashMap<SocketAddr, usize> = HashMap::new();
            let mut places = Vec::new();
            for n in 0..5_000 {
                let agent = format!("spiffe://example.org/spire/agent/x509pop/{n}");
                let place = choose(&candidates(&agent, scores, now), None, now).unwrap();
                *counts.entry(place).or_default() += 1;
                places.push(place);
            }
            (counts, places)
        };
        let (three, before) = count(&[0.99, 0.97, 0.9]);
        assert!(three.len() == 3 && three.values().all(|n| (1_550..1_790).contains(n)), "{three:?}");
        let (two, after) = count(&[0.99, 0.2, 0.9]);
        assert!(two.len() == 2 && two.values().all(|n| (2_350..2_650).contains(n)), "{two:?}");
        let dead = address(1);
        let needless = before.iter().zip(&after).filter(|(b, a)| **b != dead && b != a).count();
        assert_eq!(needless, 0, "agents moved that had no reason to");
    }

    #[test]
    fn a_little_slower_is_no_reason_to_move_and_much_slower_is_one_at_most_once_a_minute() {
        let start = Instant::now();
        let current = Some(Current { address: address(0), since: start });
        let at = |scores: &[f64], seconds| {
            let now = start + Duration::from_secs(seconds);
            choose(&candidates("a", scores, now), current, now).unwrap()
        };
        assert_eq!(at(&[0.85, 0.99], 200), address(0));
        assert_eq!(at(&[0.5, 0.99], 59), address(0));
        assert_eq!(at(&[0.5, 0.99], 61), address(1));
    }

    #[test]
    fn a_server_that_fails_is_left_at_once() {
        let now = Instant::now();
        let mut two = candidates("a", &[0.49, 0.99], now);
        two[0].failing = true;
        let current = Current { address: address(0), since: now };
        assert_eq!(choose(&two, Some(current), now), Some(address(1)));
        assert_eq!(choose(&two[..1], Some(current), now), Some(address(0)), "there is no other");
        assert_eq!(choose(&two[1..], Some(current), now), Some(address(1)), "it is gone");
        assert_eq!(choose(&[], Some(current), now), None);
    }

    #[test]
    fn an_agent_comes_back_to_its_own_place_when_that_was_good_for_minutes() {
        let start = Instant::now();
        let agent =
            (0..).map(|n| n.to_string()).find(|agent| rank(agent, address(0)) > rank(agent, address(1)));
        let agent = agent.unwrap();
        let current = Some(Current { address: address(1), since: start });
        let at = |seconds| {
            let now = start + Duration::from_secs(seconds);
            choose(&candidates(&agent, &[0.99, 0.99], start), current, now).unwrap()
        };
        assert_eq!((at(299), at(600)), (address(1), address(0)));
        let now = start + Duration::from_secs(10_000);
        let lately = now - Duration::from_secs(200);
        assert_eq!(choose(&candidates(&agent, &[0.99, 0.99], lately), current, now), Some(address(1)));
    }

    proptest! {
        /// The one that was chosen is chosen again as long as nothing changes, and is never far behind the best for long.
        #[test]
        fn a_choice_holds(scores in prop::collection::vec(0.0_f64..1.0, 1..32), agent: u64, held in 0_usize..32) {
            let start = Instant::now();
            let now = start + MIN_STAY;
            let all = candidates(&agent.to_string(), &scores, now);
            let current = Current { address: all[held % all.len()].address, since: start };
            let chosen = choose(&all, Some(current), now).unwrap();
            let again = choose(&all, Some(Current { address: chosen, since: now }), now).unwrap();
            prop_assert_eq!(chosen, again);
            let score = all.iter().find(|candidate| candidate.address == chosen).unwrap().score;
            prop_assert!(score >= best(&all) - MARGIN);
        }
    }
}
