//! The kernel's mounts.

use std::io;
use std::os::fd::AsFd;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::target::{Directory, Target};

/// What is done to mounts. Behind a trait because it takes root.
pub trait Mounts: Send + Sync + 'static {
    /// How `directory`, which is at `target`, is mounted there, if it is.
    ///
    /// # Errors
    ///
    /// What the system said.
    fn mounted(&self, target: &Target, directory: &Directory) -> io::Result<Option<Mounted>>;

    /// Shows `source` at `target`, which is a directory, read-only.
    ///
    /// # Errors
    ///
    /// What the system said; then nothing new is mounted.
    fn bind(&self, source: &Directory, target: &Target) -> io::Result<()>;

    /// Ends the topmost mount at `target`.
    ///
    /// # Errors
    ///
    /// What the system said.
    fn unmount(&self, target: &Target) -> io::Result<()>;
}

/// A mount that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Whether nobody can write through it.
    pub read_only: bool,
}

/// The mounts of this process's namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelMounts;

impl Mounts for KernelMounts {
    fn mounted(&self, target: &Target, directory: &Directory) -> io::Result<Option<Mounted>> {
        if !target.is_mount(directory)? {
            return Ok(None);
        }
        let flags = fstatvfs(directory)?.flags();
        Ok(Some(Mounted { read_only: flags.contains(FsFlags::ST_RDONLY) }))
    }

    /// A bind mount takes no flags of its own when it is made, so it is made and then changed. Nobody has the volume yet.
    /// Where mounts are propagated to the host, the host's copy has the flags that `source` has: mount it read-only into
    /// the driver's own container.
    fn bind(&self, source: &Directory, target: &Target) -> io::Result<()> {
        let directory = target.directory().map_err(io::Error::other)?;
        let directory = directory.ok_or(io::ErrorKind::NotFound)?;
        mount(Some(&source.pinned()), &directory.pinned(), NONE, MsFlags::MS_BIND, NONE)?;
        drop(directory);
        let restrict = || {
            let shown = target.directory().map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
            mount(NONE, &shown.pinned(), NONE, RESTRICTED, NONE)?;
            match fstatvfs(shown.as_fd())?.flags().contains(FsFlags::ST_RDONLY) {
                true => Ok(()),
                false => Err(io::Error::other("the mount did not become read-only")),
            }
        };
        restrict().inspect_err(|_: &io::Error| {
            if let Err(error) = self.unmount(target) {
                tracing::error!(%error, target = %target.path().display(), "Cannot take back a mount");
            }
        })
    }

    fn unmount(&self, target: &Target) -> io::Result<()> {
        Ok(umount2(&target.pinned(), MntFlags::UMOUNT_NOFOLLOW)?)
    }
}

const NONE: Option<&str> = None;
/// Of a socket nobody needs more than to see it and connect.
const RESTRICTED: MsFlags = MsFlags::MS_BIND
    .union(MsFlags::MS_REMOUNT)
    .union(MsFlags::MS_RDONLY)
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
