//! Temporary directories for tests.
//!
//! Policy: they are in memory where there is room. What is tested flushes what it writes to stable storage and gives
//! up after some seconds; a disk that is busy with what was just compiled makes one flush last longer than that. A crash
//! of a process loses nothing there, and no test cuts the power. They are short too: a socket's path has
//! room for 107 bytes.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// A new directory. It goes with the value.
///
/// # Panics
///
/// When there is no room for one.
#[must_use]
#[expect(clippy::expect_used, reason = "a test cannot go on without its directory")]
pub fn folder(prefix: &str) -> TempDir {
    let memory = Path::new("/dev/shm");
    let room =
        statvfs(memory).map_or(0, |file_system| file_system.blocks_available() * file_system.fragment_size());
    let builder = || tempfile::Builder::new().prefix(prefix).to_owned();
    let made = (room >= ROOM).then(|| builder().tempdir_in(memory));
    made.and_then(Result::ok).unwrap_or_else(|| builder().tempdir_in("/tmp").expect("a temporary directory"))
}

/// Bytes that must be free: what a dozen tests need at a time.
const ROOM: u64 = 512 * 1024 * 1024;
