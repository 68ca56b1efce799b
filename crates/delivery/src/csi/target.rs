//! A path from the kubelet, walked without following links.
//!
//! The path is opened directory by directory, each below the one before and none through a symbolic link. What is done
//! afterwards is done relative to the directory that was found, so that nobody can put another one in its place.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use vouchsafe_runtime::class::Class;

/// The place of a volume: a name in a directory that exists.
#[derive(Debug)]
pub struct Target {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Target {
    /// Walks to the directory that has the volume.
    ///
    /// # Errors
    ///
    /// A path that is not absolute and plain, or what the system said; [`TargetError::Missing`] if the directory is not there.
    pub fn open(path: &str) -> Result<Self, TargetError> {
        let (folder, name) = split(path)?;
        let failed = |errno| match errno {
            Errno::ENOENT => TargetError::Missing { path: path.to_owned() },
            Errno::ENOTDIR | Errno::ELOOP => TargetError::Link { path: path.to_owned() },
            errno => TargetError::Failed {
                step: "open the directory of",
                path: path.to_owned(),
                source: errno.into(),
            },
        };
        let mut parent = open("/", DIRECTORY, Mode::empty()).map_err(failed)?;
        for part in folder {
            parent = openat(&parent, part, DIRECTORY, Mode::empty()).map_err(failed)?;
        }
        Ok(Self { parent, name: name.to_owned(), path: path.into() })
    }

    /// As the kubelet gave it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The volume's directory, if it is there.
    ///
    /// # Errors
    ///
    /// [`TargetError::Link`] if something else is there, or what the system said.
    pub fn directory(&self) -> Result<Option<Directory>, TargetError> {
        match openat(&self.parent, self.name.as_os_str(), DIRECTORY, Mode::empty()) {
            Ok(fd) => Directory::of(fd).map(Some).map_err(|source| self.failed("look at", source)),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => Err(TargetError::Link { path: self.shown() }),
            Err(errno) => Err(self.failed("open", errno.into())),
        }
    }

    /// Makes the volume's directory, unless it is there.
    ///
    /// # Errors
    ///
    /// As [`Target::directory`].
    pub fn create(&self) -> Result<Directory, TargetError> {
        match mkdirat(&self.parent, self.name.as_os_str(), Mode::from_bits_truncate(TARGET_MODE)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(self.failed("make", errno.into())),
        }
        let made = self.directory()?;
        made.ok_or_else(|| self.failed("make", io::Error::from(io::ErrorKind::NotFound)))
    }

    /// Removes the volume's directory, which must be empty and not a mount.
    ///
    /// # Errors
    ///
    /// What the system said. Nothing in it is ever removed.
    pub fn remove(&self) -> Result<(), TargetError> {
        match unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", errno.into())),
        }
    }

    /// A path that leads to the volume and through nothing that could be exchanged.
    #[must_use]
    pub fn pinned(&self) -> PathBuf {
        pinned(self.parent.as_fd()).join(&self.name)
    }

    /// Whether something is mounted on the volume's directory: then it is on another mount than the directory it is in.
    ///
    /// # Errors
    ///
    /// `/proc` is not there.
    pub fn is_mount(&self, directory: &Directory) -> io::Result<bool> {
        Ok(mount_id(self.parent.as_fd())? != mount_id(directory.as_fd())?)
    }

    fn failed(&self, step: &'static str, source: io::Error) -> TargetError {
        TargetError::Failed { step, path: self.shown(), source }
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// Device and inode.
    identity: (u64, u64),
}

impl Directory {
    /// Opens the operator's directory, through links if that is how it is given.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    fn of(fd: OwnedFd) -> io::Result<Self> {
        let found = fstat(&fd)?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(Self { fd, identity: (found.st_dev, found.st_ino) })
    }

    /// Whether it is the same directory, seen through whatever mount.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// A path that leads to it, whatever happens to its name.
    #[must_use]
    pub fn pinned(&self) -> PathBuf {
        pinned(self.as_fd())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The directories to walk through and the last name of a plain absolute path.
fn split(path: &str) -> Result<(Vec<&OsStr>, &OsStr), TargetError> {
    let refuse = |reason| TargetError::Refused { reason };
    if path.len() > MAX_PATH {
        return Err(refuse("it is too long"));
    }
    if path.contains('\0') {
        return Err(refuse("it has a NUL in it"));
    }
    let mut parts = Path::new(path).components();
    if parts.next() != Some(Component::RootDir) {
        return Err(refuse("it is not absolute"));
    }
    let mut names = Vec::new();
    for part in parts {
        match part {
            Component::Normal(name) => names.push(name),
            _ => return Err(refuse("it has .. in it")),
        }
    }
    let name = names.pop().ok_or_else(|| refuse("it is the root directory"))?;
    Ok((names, name))
}

/// Whether the kubelet would have a volume there: `<pods>/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
///
/// # Errors
///
/// [`TargetError::Refused`].
pub(super) fn check_within(path: &str, pods: &Path) -> Result<(), TargetError> {
    let below = Path::new(path).strip_prefix(pods).ok();
    let parts: Option<Vec<&str>> = below.and_then(|below| {
        below.components().map(|part| Some(part.as_os_str().to_str()?).filter(|part| *part != "..")).collect()
    });
    match parts.as_deref() {
        Some([_uid, "volumes", "kubernetes.io~csi", _name, "mount"]) => Ok(()),
        _ => Err(TargetError::Refused { reason: "it is no volume of a Pod in the kubelet's directory" }),
    }
}

fn pinned(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let line = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = line.and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel does not say on which mount a directory is"))
}

/// Why a target path is not used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The path itself.
    #[error("the path of the volume cannot be used: {reason}")]
    Refused {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The directory that has it does not exist.
    #[error("there is no directory for {path}")]
    Missing {
        /// The path.
        path: String,
    },
    /// Something in it is no directory.
    #[error("{path} leads through a symbolic link, or over something else that is no directory")]
    Link {
        /// The path.
        path: String,
    },
    /// A system call failed.
    #[error("cannot {step} {path}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl TargetError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. } | Self::Missing { .. } | Self::Link { .. } => Class::Caller,
            Self::Failed { .. } => Class::Permanent,
        }
    }
}

/// Only a place in the tree: nothing can be read through it.
const DIRECTORY: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// Mode of a volume's directory, which is seen while nothing is mounted on it.
const TARGET_MODE: u32 = 0o755;
/// Longest path that Linux takes, with its closing zero.
const MAX_PATH: usize = 4095;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn check(path: &str, expected: &str) {
        let error = split(path).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{path:?}: {error}");
    }

    #[test]
    fn only_plain_absolute_paths_are_walked() {
        check("", "it is not absolute");
        check("var/lib", "it is not absolute");
        check("/", "it is the root directory");
        check("/a/../b", "it has .. in it");
        check("/a/..", "it has .. in it");
        check("/a\0b", "it has a NUL in it");
        check(&format!("/{}", "x".repeat(MAX_PATH)), "it is too long");
        let (folder, name) = split("/a//b/./c/").unwrap();
        assert_eq!((folder, name), (vec![OsStr::new("a"), OsStr::new("b")], OsStr::new("c")));
    }

    #[test]
    fn a_link_anywhere_in_the_path_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir(real.join("pods")).unwrap();
        symlink(real.join("pods"), real.join("link")).unwrap();
        let through = Target::open(real.join("link/mount").to_str().unwrap());
        assert!(matches!(through, Err(TargetError::Link { .. })), "{through:?}");
        symlink("/etc", real.join("pods/mount")).unwrap();
        let last = Target::open(real.join("pods/mount").to_str().unwrap()).unwrap();
        assert!(matches!(last.directory(), Err(TargetError::Link { .. })));
        assert!(matches!(last.create(), Err(TargetError::Link { .. })));
        assert!(last.remove().is_err());
        assert!(Path::new("/etc").exists());
    }

    #[test]
    fn a_directory_is_made_once_with_its_mode_and_removed_only_when_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("mount");
        let target = Target::open(path.to_str().unwrap()).unwrap();
        assert!(target.directory().unwrap().is_none());
        let made = target.create().unwrap();
        assert!(made.is(&target.create().unwrap()));
        assert!(!target.is_mount(&made).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(path.join("precious"), "x").unwrap();
        assert!(target.remove().is_err());
        assert!(path.join("precious").exists());
        fs::remove_file(path.join("precious")).unwrap();
        target.remove().unwrap();
        target.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_missing_parent_is_told_from_everything_else() {
        let missing = Target::open("/nonexistent-folder/pods/mount");
        assert!(matches!(missing, Err(TargetError::Missing { .. })), "{missing:?}");
    }

    #[test]
    fn the_root_of_another_mount_is_a_mount() {
        let proc = Target::open("/proc").unwrap();
        let directory = proc.directory().unwrap().unwrap();
        assert!(proc.is_mount(&directory).unwrap());
    }
}
