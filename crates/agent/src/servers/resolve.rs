//! From what is configured to addresses. Pure but for the question itself.
//!
//! A name that cannot be resolved, or resolves to nothing, removes nobody. An address that a good answer leaves out is
//! kept for [`KEEP_MISSING`]: many name servers tell a part of a long list at a time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use vouchsafe_transport::connect::host;
use vouchsafe_transport::net::Network;

/// One configured server: `host:port`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seed {
    /// As it is configured; what the server is called in the handshake.
    pub authority: String,
    /// The address, if it is not a name.
    fixed: Option<SocketAddr>,
}

/// A server of the list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Where it is.
    pub address: SocketAddr,
    /// Which seed stands for it.
    pub seed: usize,
    /// Since when good answers leave it out.
    pub missing: Option<Instant>,
}

impl Seed {
    /// `host:port`, with brackets around an IPv6 address. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = host(text)?;
        let (_, port) = text.rsplit_once(':')?;
        let (address, port) = (name.parse::<IpAddr>().ok(), port.parse().ok()?);
        let fixed = address.map(|address| SocketAddr::new(address, port));
        Some(Self { authority: text.to_owned(), fixed })
    }

    /// Whether somebody must be asked where it is.
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.fixed.is_none()
    }

    /// Its addresses. Takes at most [`RESOLVE_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// One line that says why there are none.
    pub async fn addresses(&self, network: &Network) -> Result<Vec<SocketAddr>, String> {
        if let Some(address) = self.fixed {
            return Ok(vec![address]);
        }
        let name = &self.authority;
        match timeout(RESOLVE_TIMEOUT, network.resolve(name)).await {
            Err(_) => Err(format!("no answer about {name} within {} s", RESOLVE_TIMEOUT.as_secs())),
            Ok(Err(error)) => Err(format!("cannot resolve {name}: {error}")),
            Ok(Ok(addresses)) if addresses.is_empty() => Err(format!("{name} has no address")),
            Ok(Ok(addresses)) => Ok(addresses),
        }
    }
}

/// The list after the seeds `answers` names were resolved to these addresses. `rank` is an agent's order of servers.
#[must_use]
pub fn merge(
    held: &[Listed],
    answers: &[(usize, Vec<SocketAddr>)],
    rank: impl Fn(SocketAddr) -> f64,
    now: Instant,
) -> Vec<Listed> {
    let mut list: Vec<Listed> = Vec::new();
    for (seed, addresses) in answers {
        for address in addresses {
            if !list.iter().any(|known| known.address == *address) {
                list.push(Listed { address: *address, seed: *seed, missing: None });
            }
        }
    }
    for known in held {
        if list.iter().any(|listed| listed.address == known.address) {
            continue;
        }
        let asked = answers.iter().any(|(seed, _)| *seed == known.seed);
        let missing = if asked { known.missing.or(Some(now)) } else { known.missing };
        if missing.is_none_or(|since| now.saturating_duration_since(since) < KEEP_MISSING) {
            list.push(Listed { missing, ..*known });
        }
    }
    list.sort_by(|a, b| {
        let missing = a.missing.is_some().cmp(&b.missing.is_some());
        missing.then_with(|| rank(b.address).total_cmp(&rank(a.address))).then(a.address.cmp(&b.address))
    });
    list.truncate(MAX_SERVERS);
    list
}

/// Servers that are kept; of more, those that are first for this agent.
pub const MAX_SERVERS: usize = 32;

/// An address that good answers leave out is kept for so long.
pub const KEEP_MISSING: Duration = Duration::from_secs(300);

/// Names are resolved again after about this time.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(60);

/// After a server failed they are resolved at once, but not sooner than this after the last time.
pub const RESOLVE_GAP: Duration = Duration::from_secs(5);

/// How long resolving a name may take.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 8081))
    }

    fn addresses(list: &[Listed]) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = list.iter().map(|listed| listed.address).collect();
        addresses.sort_unstable();
        addresses
    }

    #[test]
    fn host_and_port_make_a_seed_and_nothing_else_does() {
        for (text, name) in [("a.example:8081", true), ("10.0.0.1:1", false), ("[::1]:8081", false)] {
            assert_eq!(Seed::parse(text).unwrap().is_name(), name, "{text}");
        }
        for text in ["", "a", ":1", "a:", "a:x", "a:70000"] {
            assert_eq!(Seed::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        let seed = Seed::parse("[::1]:8081").unwrap();
        assert_eq!(seed.addresses(&Network::default()).await.unwrap(), ["[::1]:8081".parse().unwrap()]);
    }

    #[test]
    fn an_address_that_answers_leave_out_goes_after_minutes_and_one_nobody_could_ask_about_stays() {
        let start = Instant::now();
        let rank = |_| 0.0;
        let both = merge(&[], &[(0, vec![address(1), address(2)]), (1, vec![address(3)])], rank, start);
        assert_eq!(addresses(&both), [address(1), address(2), address(3)]);
        // Seed 1 gives no answer for an hour.
        let hour = start + Duration::from_secs(3600);
        let one = merge(&both, &[(0, vec![address(1)])], rank, hour);
        assert_eq!(one.len(), 3, "left out for the first time");
        assert_eq!(
            merge(&one, &[], rank, hour + 2 * KEEP_MISSING).len(),
            2,
            "it was missing before nobody could be asked"
        );
        let back = merge(&one, &[(0, vec![address(1), address(2)])], rank, hour + KEEP_MISSING / 2);
        assert!(back.iter().all(|listed| listed.missing.is_none()));
        let gone = merge(&one, &[(0, vec![address(1)])], rank, hour + KEEP_MISSING);
        assert_eq!(addresses(&gone), [address(1), address(3)]);
    }

    proptest! {
        #[test]
        fn the_list_is_bounded_and_answers_go_before_what_is_missing(
            held in prop::collection::vec(0_u16..200, 0..60),
            answer in prop::collection::vec(0_u16..200, 1..60),
        ) {
            let now = Instant::now();
            let rank = |address: SocketAddr| crate::servers::choice::rank("agent", address);
            let list = |numbers: Vec<u16>| numbers.into_iter().map(address).collect::<Vec<_>>();
            let held = merge(&[], &[(0, list(held))], rank, now);
            let wanted = list(answer);
            let merged = merge(&held, &[(0, wanted.clone())], rank, now);
            prop_assert!(merged.len() <= MAX_SERVERS);
            let distinct: std::collections::HashSet<_> = wanted.iter().collect();
            let present = distinct.iter().filter(|address| merged.iter().any(|l| l.address == ***address)).count();
            prop_assert_eq!(present, distinct.len().min(MAX_SERVERS));
            prop_assert_eq!(addresses(&merged).windows(2).filter(|pair| pair[0] == pair[1]).count(), 0);
        }
    }
}
