//! When one state may replace another. Pure.

use serde::{Deserialize, Serialize};

/// A place in the history of a source.
///
/// Within an epoch positions only grow. An epoch is one life of a source (a database, a server process): positions of
/// two epochs do not compare, so only a complete list may start a new one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Version {
    /// Identifies the life of the source.
    pub epoch: u64,
    /// Grows with every change within the epoch.
    pub position: u64,
}

/// What an offer did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offered {
    /// The offered state is held now.
    Replaced,
    /// The held state has the same version; it counts as confirmed just now.
    Confirmed,
}

/// The offered state is older than the held one and was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("offered state at {offered:?} is behind the held state at {held:?}; keeping what is held")]
pub struct Stale {
    /// The version that stays.
    pub held: Version,
    /// The version that was refused.
    pub offered: Version,
}

/// Whether the source vouches that an offer is all there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// Reached from the held state by a contiguous series of changes.
    Contiguous,
    /// A complete list.
    Complete,
}

impl Version {
    /// Decides about an offer at version `offered` while `self` is held.
    ///
    /// # Errors
    ///
    /// [`Stale`] for a smaller position of the same epoch, and for another epoch without a complete list.
    pub fn decide(self, offered: Self, extent: Extent) -> Result<Offered, Stale> {
        let stale = Stale { held: self, offered };
        if self.epoch != offered.epoch {
            return if extent == Extent::Complete { Ok(Offered::Replaced) } else { Err(stale) };
        }
        match offered.position.cmp(&self.position) {
            std::cmp::Ordering::Less => Err(stale),
            std::cmp::Ordering::Equal => Ok(Offered::Confirmed),
            std::cmp::Ordering::Greater => Ok(Offered::Replaced),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rule() {
        let held = Version { epoch: 1, position: 5 };
        let check = |epoch, position, extent, expected: Option<Offered>| {
            assert_eq!(held.decide(Version { epoch, position }, extent).ok(), expected);
        };
        check(1, 6, Extent::Contiguous, Some(Offered::Replaced));
        check(1, 5, Extent::Contiguous, Some(Offered::Confirmed));
        check(1, 4, Extent::Contiguous, None);
        check(1, 4, Extent::Complete, None);
        check(2, 1, Extent::Contiguous, None);
        check(2, 1, Extent::Complete, Some(Offered::Replaced));
    }

    proptest! {
        #[test]
        fn positions_of_an_epoch_never_fall(offers in prop::collection::vec((0_u64..3, 0_u64..9, any::<bool>()), 0..60)) {
            let mut held = Version::default();
            for (epoch, position, complete) in offers {
                let offered = Version { epoch, position };
                let extent = if complete { Extent::Complete } else { Extent::Contiguous };
                if held.decide(offered, extent).is_ok() {
                    prop_assert!(offered.epoch != held.epoch || offered.position >= held.position);
                    prop_assert!(offered.epoch == held.epoch || complete);
                    held = offered;
                }
            }
        }
    }
}
