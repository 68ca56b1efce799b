//! When the server last confirmed what is held, while nothing changes.
//!
//! The state is written when it changes, and may then stand for weeks. So that an agent that was killed knows afterwards how old
//! it is, the time goes to a file of its own, of a few bytes, at most every [`MARK_EVERY`]. It counts for the state of the same
//! position only.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tracing::debug;
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_lastgood::{SealKey, SealedFile, Version};

/// When the server confirmed a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Confirmed {
    /// The entries, and everything of the own trust domain.
    pub at: SystemTime,
    /// All bundles, those of other trust domains among them.
    pub bundles: Option<SystemTime>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct Mark(SealedFile);

impl Mark {
    /// The file, if the key manager has a key for it.
    #[must_use]
    pub fn open(data_dir: &Path, key_manager: &dyn KeyManager) -> Option<Self> {
        let key = SealKey::new(*key_manager.seal_key(KIND)?);
        Some(Self(SealedFile::open(data_dir.join(FILE), key, MAX_BYTES, KIND)))
    }

    /// What was marked last, if that was the state of this version. Blocks on the disk.
    #[must_use]
    pub fn restore(&self, version: Version) -> Option<Confirmed> {
        let restored = self.0.restore::<Option<Duration>>();
        let restored = restored.inspect_err(|error| debug!(%error, "a confirmation is not known any more"));
        let restored = restored.ok()?.filter(|restored| restored.version == version)?;
        let bundles = restored.value.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        Some(Confirmed { at: restored.confirmed_at, bundles })
    }

    /// Notes that the state of this version was confirmed. Best effort: what is lost is the age. Blocks on the disk.
    pub fn save(&self, version: Version, confirmed: Confirmed) {
        let bundles = confirmed.bundles.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        if let Err(error) = self.0.save(version, confirmed.at, &bundles) {
            debug!(%error, "cannot note that the state was confirmed");
        }
    }

    /// Takes it away. Blocks on the disk.
    pub fn remove(&self) {
        // Without the state it means nothing.
        drop(self.0.remove());
    }
}

/// How much longer ago than it was a confirmation may seem after the agent was killed.
pub const MARK_EVERY: Duration = Duration::from_secs(60);

const FILE: &str = "agent-confirmed.sealed";

const KIND: &str = "agent-confirmed";

const MAX_BYTES: u64 = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_for_the_state_that_it_was_made_for() {
        let dir = tempfile::tempdir().unwrap();
        let mark = || {
            let file = SealedFile::open(dir.path().join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
            Mark(file)
        };
        let at = |position| Version { epoch: 1, position };
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(mark().restore(at(3)).is_none());
        let writer = mark();
        for (seconds, bundles) in [(10, Some(second(9))), (70, None)] {
            let confirmed = Confirmed { at: second(seconds), bundles };
            writer.save(at(3), confirmed);
            assert_eq!(mark().restore(at(3)), Some(confirmed));
            assert!(mark().restore(at(4)).is_none() && mark().restore(at(2)).is_none());
        }
    }
}
