//! The SHA-256 digest of a program file, remembered for as long as the file does not change.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

/// Digests by file identity. A file that is written to gets another change time, which nobody but root can set.
#[derive(Debug, Default)]
pub struct Digests {
    known: Mutex<HashMap<FileId, String>>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
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
}

impl Digests {
    /// The digest of the file at `path`, lower-case hexadecimal. `limit` in bytes; 0 for none. Blocks.
    ///
    /// # Errors
    ///
    /// [`DigestError`]; a retry makes sense only after the file or the limit changed.
    pub fn of(&self, path: &Path, limit: u64) -> Result<String, DigestError> {
        let mut file = File::open(path).map_err(DigestError::Read)?;
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
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(known.clone());
        }
        let digest = read_digest(&mut file).map_err(DigestError::Read)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(id, digest.clone());
        Ok(digest)
    }
}

fn read_digest(file: &mut File) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Files whose digest is remembered; above it all are forgotten.
const MAX_KNOWN: usize = 256;

const BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_gets_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let digests = Digests::default();
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digests.of(&path, 0).unwrap(), abc);
        assert_eq!(digests.of(&path, 3).unwrap(), abc);
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(digests.of(&path, 0).unwrap(), abc);
    }

    #[test]
    fn a_file_above_the_limit_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "abc").unwrap();
        let error = Digests::default().of(&path, 2).unwrap_err().to_string();
        assert_eq!(error, format!("SHA256 digest: workload {} exceeds size limit (3 > 2)", path.display()));
    }
}
