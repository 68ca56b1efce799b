//! A lease, where a folder stands for a cluster: one process of this machine holds a lock. Blocking.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::kind::Name;

/// The lock file of a lease.
pub(crate) fn file_of(name: &Name) -> String {
    let namespace = name.namespace.as_deref().unwrap_or("default");
    format!(".{namespace}.{}.lease", name.name).replace('/', "_")
}

/// The lock, or `None` when another process has it. Where no file can be made, it is the folder itself that is locked.
pub(crate) fn take(root: &Path, file: &str) -> io::Result<Option<Flock<File>>> {
    let opened =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(root.join(file));
    let opened = match opened {
        Ok(opened) => opened,
        Err(_) => File::open(root)?,
    };
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}
