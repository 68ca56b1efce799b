//! How long calls wait, and how much they do at once.

use std::time::Duration;

/// Longest that a write is waited for.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Longest that a read, or the next part of a streamed read, is waited for.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Longest that a load is waited for: about a million entries.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(120);
/// Longest that a restore is waited for.
pub const RESTORE_DEADLINE: Duration = Duration::from_secs(600);
/// Most objects that one transaction prunes, so that other writes get their turn in between.
pub const MAX_PRUNED: usize = 1000;
/// Most events that one transaction prunes: few enough for [`WRITE_DEADLINE`].
pub(super) const MAX_CHANGES_PRUNED: usize = 20_000;
/// What callers are told to wait after [`Error::Unavailable`].
pub const RETRY_AFTER: Duration = Duration::from_secs(2);
