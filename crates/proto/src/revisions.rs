//! What both sides of `vouchsafe.server.v1.Revisions` compute alike.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// The header of a `SyncAuthorizedEntries` answer that says which state of the server it shows, as [`State`] writes it.
pub const POSITION_HEADER: &str = "vouchsafe-position";

/// A state of a server: a place in the change feed of one database.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// Which database.
    pub epoch: u64,
    /// Where in its feed.
    pub position: u64,
}

impl State {
    /// Reads a [`POSITION_HEADER`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, position) = text.split_once('.')?;
        Some(Self { epoch: epoch.parse().ok()?, position: position.parse().ok()? })
    }

    /// Whether this state came before `other`. Those of different databases cannot be compared.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        self.epoch == other.epoch && self.position < other.position
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.position)
    }
}

/// Digest of entries given as (ID, revision number, time of creation), in the order of their IDs.
pub fn entries_digest<'a>(entries: impl IntoIterator<Item = (&'a str, i64, i64)>) -> Vec<u8> {
    let mut digest = Context::new(&SHA256);
    for (id, revision_number, created_at) in entries {
        digest.update(id.as_bytes());
        digest.update(&[0]);
        digest.update(&revision_number.to_be_bytes());
        digest.update(&created_at.to_be_bytes());
    }
    digest.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_an_entry_counts_and_so_does_where_it_ends() {
        let base = entries_digest([("a", 1, 2), ("b", 1, 2)]);
        for other in [
            entries_digest([("a", 1, 2)]),
            entries_digest([("a", 2, 2), ("b", 1, 2)]),
            entries_digest([("a", 1, 3), ("b", 1, 2)]),
            entries_digest([("a", 1, 2), ("c", 1, 2)]),
            entries_digest([("b", 1, 2), ("a", 1, 2)]),
            entries_digest([]),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, entries_digest([("a", 1, 2), ("b", 1, 2)]));
    }

    #[test]
    fn a_state_is_read_as_it_is_written() {
        let state = State { epoch: u64::MAX, position: 7 };
        assert_eq!(State::parse(&state.to_string()), Some(state));
        for wrong in ["", "7", "1.", ".1", "1.2.3", "a.b", "-1.2"] {
            assert_eq!(State::parse(wrong), None, "{wrong}");
        }
        assert!(State { epoch: 1, position: 6 }.is_before(State { epoch: 1, position: 7 }));
        assert!(!State { epoch: 2, position: 6 }.is_before(State { epoch: 1, position: 7 }));
    }

    /// A constant of the protocol: an agent and a server of different releases must agree.
    #[test]
    fn the_digest_of_nothing_and_of_one_entry_are_these() {
        assert_eq!(entries_digest([])[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        let mut plain = b"a\0".to_vec();
        plain.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        let expected = aws_lc_rs::digest::digest(&SHA256, &plain);
        assert_eq!(entries_digest([("a", 1, 2)]), expected.as_ref());
    }
}
