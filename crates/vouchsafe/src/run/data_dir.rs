//! The data directory, and the lock that keeps a second instance out.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};

/// Holds the directory until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub(super) struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Creates `path` if it is missing (mode 0700) and locks it for `part`.
    ///
    /// # Errors
    ///
    /// Names the process that has it, or what is wrong with the directory.
    pub(super) fn acquire(path: &Path, part: &str) -> anyhow::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
            format!(
                "cannot create the data directory {}; choose another one or mend its parent",
                path.display()
            )
        })?;
        let lock = path.join(format!("{part}.lock"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("cannot use the data directory {}; is it yours?", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).unwrap_or_default();
                bail!(
                    "the data directory {} is in use by another {part}{}; stop that one or choose another directory",
                    path.display(),
                    holder
                        .trim()
                        .parse::<u32>()
                        .map_or_else(|_| String::new(), |pid| format!(" (pid {pid})")),
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}", lock.display()))?;
        Ok(Self { _file: file })
    }
}

/// Creates the directory that `file` belongs in, for this user alone, if it is missing.
///
/// # Errors
///
/// Names the directory.
pub(super) fn create_parent(file: &Path) -> anyhow::Result<()> {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), create)
}

fn create(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("cannot create the directory {}; choose another one or mend its parent", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_is_refused_by_name_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDirLock::acquire(&path, "server").unwrap();
        let refused = DataDirLock::acquire(&path, "server").unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");
        DataDirLock::acquire(&path, "agent").unwrap();
        drop(first);
        DataDirLock::acquire(&path, "server").unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let refused = DataDirLock::acquire(&path, "server").unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
    }
}
