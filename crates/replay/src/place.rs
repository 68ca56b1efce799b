//! The directory of one run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vouchsafe_testkit::ports;

use crate::error::{Doing, Error};

/// A new directory, which goes with the value. Short, because a socket's path has room for 107 bytes.
pub(crate) struct Place(TempDir);

impl Place {
    /// Other users may pass through it: PostgreSQL does not run as root.
    pub(crate) fn new(keep: bool) -> Result<Self, Error> {
        let mut folder =
            tempfile::Builder::new().prefix("vr").tempdir_in("/tmp").doing("make a directory in /tmp")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).doing("open the directory")?;
        folder.disable_cleanup(keep);
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new folder in it.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.path().join(name);
        fs::create_dir(&folder).doing(format!("make {}", folder.display()))?;
        Ok(folder)
    }
}

/// A TCP port on which nobody listens, and which nobody else is given.
pub(crate) fn free_port() -> Result<u16, Error> {
    ports::take().doing("find a free port")
}
