//! The SHA-256 digest of a program file, remembered for as long as the file does not change.
//!
//! Whoever starts a program decides how large its file is, so reading one is bounded by [`DIGEST_DEADLINE`]; a file that
//! takes longer is remembered as such and not read again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::time::Instant;

/// Digests by file identity. A file that is written to gets another change time, which nobody but root can set.
#[derive(Debug, Default)]
pub struct Digests {
    known: Mutex<HashMap<FileId, Option<String>>>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A program file that was opened, and may be read.
#[derive(Debug)]
pub struct Program {
    file: File,
    id: FileId,
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The file cannot be read.
    #[error("SHA256 digest: cannot read the file")]
    Read(#[source] io::Error),
    /// The file is larger than the configured limit.
    #[error("SHA256 digest: workload {path} exceeds size limit ({size} > {limit})")]
    TooLarge {
        /// Which file.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// `workload_size_limit`.
        limit: u64,
    },
    /// Reading it took too long.
    #[error("SHA256 digest: {size} bytes cannot be read within {DIGEST_DEADLINE:?}; set workload_size_limit")]
    TooSlow {
        /// The file's size in bytes.
        size: u64,
    },
}

impl Program {
    /// Opens the file at `path`. `limit` in bytes; 0 for none. Blocks.
    ///
    /// # Errors
    ///
    /// [`DigestError`]; a retry makes sense only after the file or the limit changed.
    pub fn open(path: &Path, limit: u64) -> Result<Self, DigestError> {
        let file = File::open(path).map_err(DigestError::Read)?;
        let metadata = file.metadata().map_err(DigestError::Read)?;
        if limit > 0 && metadata.size() > limit {
            let path = path.display().to_string();
            return Err(DigestError::TooLarge { path, size: metadata.size(), limit });
        }
        let id = FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        Ok(Self { file, id })
    }
}

impl Digests {
    /// The digest of `program`, lower-case hexadecimal, if it is known.
    ///
    /// # Errors
    ///
    /// [`DigestError::TooSlow`] when it was read before and took too long.
    pub fn known(&self, program: &Program) -> Result<Option<String>, DigestError> {
        match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&program.id) {
            Some(None) => Err(DigestError::TooSlow { size: program.id.size }),
            digest => Ok(digest.cloned().flatten()),
        }
    }

    /// As [`Digests::known`], and reads the file if need be. Blocks for at most [`DIGEST_DEADLINE`].
    ///
    /// # Errors
    ///
    /// [`DigestError`].
    pub fn read(&self, program: Program) -> Result<String, DigestError> {
        self.read_until(program, Instant::now() + DIGEST_DEADLINE)
    }

    fn read_until(&self, mut program: Program, end: Instant) -> Result<String, DigestError> {
        if let Some(known) = self.known(&program)? {
            return Ok(known);
        }
        let digest = read_digest(&mut program.file, end).map_err(DigestError::Read)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(program.id, digest.clone());
        digest.ok_or(DigestError::TooSlow { size: program.id.size })
    }
}

/// `None` when `end` comes first.
fn read_digest(file: &mut File, end: Instant) -> io::Result<Option<String>> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    while Instant::now() < end {
        match file.read(&mut buffer)? {
            0 => {
                return Ok(Some(
                    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
                ));
            }
            read => context.update(&buffer[..read]),
        }
    }
    Ok(None)
}

/// Files whose digest is remembered; above it all are forgotten.
const MAX_KNOWN: usize = 256;

const BUFFER: usize = 64 * 1024;

/// How long one file is read at most. The caller has left by then, but its next request finds the digest.
pub const DIGEST_DEADLINE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digests: &Digests, path: &Path, limit: u64) -> Result<String, DigestError> {
        digests.read(Program::open(path, limit)?)
    }

    #[test]
    fn a_file_that_changes_gets_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let digests = Digests::default();
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digests.known(&Program::open(&path, 0).unwrap()).unwrap(), None);
        assert_eq!(digest(&digests, &path, 0).unwrap(), abc);
        assert_eq!(digest(&digests, &path, 3).unwrap(), abc);
        assert_eq!(digests.known(&Program::open(&path, 0).unwrap()).unwrap().as_deref(), Some(abc));
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(digest(&digests, &path, 0).unwrap(), abc);
    }

    #[test]
    fn a_file_above_the_limit_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "abc").unwrap();
        let error = digest(&Digests::default(), &path, 2).unwrap_err().to_string();
        assert_eq!(error, format!("SHA256 digest: workload {} exceeds size limit (3 > 2)", path.display()));
    }

    #[test]
    fn a_file_that_never_ends_is_given_up_and_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        // Sparse: it costs its owner nothing.
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        let digests = Digests::default();
        let program = || Program::open(&path, 0).unwrap();
        let error = digests.read_until(program(), Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, DigestError::TooSlow { size } if size == 1 << 42), "{error}");
        assert!(digests.known(&program()).is_err());
        assert!(digests.read(program()).is_err());
    }
}
