//! What is done for a request, decided on what is found.
//!
//! Every operation is level-triggered: it looks at what is there and does what is missing, so the kubelet may repeat it,
//! give up in between, or come after a crash. One at a time: two requests for one target would see each other's half.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use vouchsafe_runtime::chain::Chain;
use vouchsafe_runtime::class::Class;

use super::mounts::{Mounted, Mounts};
use super::target::{self, Directory, Target, TargetError};

/// The volumes of this node. Its operations block.
#[derive(Debug)]
pub struct Volumes<M> {
    source: PathBuf,
    mounts: M,
    /// The kubelet's directory `pods`, if it is known.
    pods: Option<PathBuf>,
    turn: Mutex<()>,
}

/// Whether there was anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was so already.
    Already,
    /// It was changed.
    Changed,
}

/// How a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It shows the Workload API's directory.
    Good,
    /// It does not, and why.
    Abnormal(String),
}

impl<M: Mounts> Volumes<M> {
    /// Volumes that show `source`.
    #[must_use]
    pub fn new(source: PathBuf, mounts: M) -> Self {
        Self { source, mounts, pods: None, turn: Mutex::new(()) }
    }

    /// The same, for volumes of Pods below `pods` only.
    #[must_use]
    pub fn within(self, pods: Option<PathBuf>) -> Self {
        Self { pods, ..self }
    }

    fn target(&self, path: &str) -> Result<Target, TargetError> {
        if let Some(pods) = &self.pods {
            target::check_within(path, pods)?;
        }
        Target::open(path)
    }

    /// Has the Workload API's directory mounted at `path`, once.
    ///
    /// # Errors
    ///
    /// See [`VolumeError`]. A retry is sensible unless the path is refused.
    pub fn publish(&self, path: &str) -> Result<Done, VolumeError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let source = self.open_source()?;
        let target = self.target(path)?;
        let directory = target.create()?;
        match self.mounted(&target, &directory)? {
            Some(Mounted { read_only: true }) if directory.is(&source) => return Ok(Done::Already),
            Some(_) => {
                drop(directory);
                self.clear(&target)?;
            }
            None => drop(directory),
        }
        self.mounts.bind(&source, &target).map_err(failed("mount", &target))?;
        Ok(Done::Changed)
    }

    /// Ends what is mounted at `path` and removes the directory there.
    ///
    /// # Errors
    ///
    /// See [`VolumeError`]. What is not there is no error.
    pub fn unpublish(&self, path: &str) -> Result<Done, VolumeError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let target = match self.target(path) {
            Ok(target) => target,
            Err(TargetError::Missing { .. }) => return Ok(Done::Already),
            Err(error) => return Err(error.into()),
        };
        if target.directory()?.is_none() {
            return Ok(Done::Already);
        }
        self.clear(&target)?;
        target.remove()?;
        Ok(Done::Changed)
    }

    /// How the volume at `path` is. `None` if there is none.
    ///
    /// # Errors
    ///
    /// What the system said about the path.
    pub fn condition(&self, path: &str) -> Result<Option<Condition>, VolumeError> {
        // A directory that is open keeps its mount busy, so that nobody could end it meanwhile.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let abnormal = |why: String| Ok(Some(Condition::Abnormal(why)));
        let target = match self.target(path) {
            Ok(target) => target,
            // Nothing was ever published at a path that is refused.
            Err(TargetError::Missing { .. } | TargetError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(directory) = target.directory()? else { return Ok(None) };
        match self.mounted(&target, &directory) {
            Ok(Some(_)) => {}
            Ok(None) => return abnormal("nothing is mounted at the volume's path".to_owned()),
            Err(error) => return abnormal(Chain(&error).to_string()),
        }
        match self.open_source() {
            Ok(source) if directory.is(&source) => Ok(Some(Condition::Good)),
            Ok(_) => abnormal(
                "the volume shows a directory that is not the Workload API's any more; restart the Pod"
                    .to_owned(),
            ),
            Err(error) => abnormal(Chain(&error).to_string()),
        }
    }

    /// Ends all mounts at `target`, also those that the stock driver puts on top of each other.
    fn clear(&self, target: &Target) -> Result<(), VolumeError> {
        for _ in 0..MAX_STACKED {
            let Some(directory) = target.directory()? else { return Ok(()) };
            if self.mounted(target, &directory)?.is_none() {
                return Ok(());
            }
            // An open directory would keep its mount busy.
            drop(directory);
            self.mounts.unmount(target).map_err(failed("unmount", target))?;
        }
        let source = io::Error::other(format!("{MAX_STACKED} mounts were ended and there are more"));
        Err(failed("unmount", target)(source))
    }

    fn mounted(&self, target: &Target, directory: &Directory) -> Result<Option<Mounted>, VolumeError> {
        self.mounts.mounted(target, directory).map_err(failed("look at the mount of", target))
    }

    fn open_source(&self) -> Result<Directory, VolumeError> {
        Directory::open(&self.source)
            .map_err(|source| VolumeError::Source { path: self.source.clone(), source })
    }
}

fn failed<'a>(step: &'static str, target: &'a Target) -> impl Fn(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Mount { step, path: target.path().to_owned(), source }
}

/// Why a volume is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The path, or what is there.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The agent's directory is not there.
    #[error("the Workload API's directory {} is not there; is an agent running on this node?", path.display())]
    Source {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {step} {}", path.display())]
    Mount {
        /// What was being done.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl VolumeError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Target(error) => error.class(),
            Self::Source { .. } => Class::Transient,
            Self::Mount { .. } => Class::Permanent,
        }
    }
}

/// Mounts on top of each other that are ended in one request.
const MAX_STACKED: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock, Weak};

    use super::*;

    /// Says of each look at a mount whether somebody else could end that mount meanwhile.
    #[derive(Default)]
    struct Watched {
        volumes: OnceLock<Weak<Volumes<Arc<Watched>>>>,
        is_free: OnceLock<bool>,
    }

    impl Mounts for Arc<Watched> {
        fn mounted(&self, _: &Target, _: &Directory) -> io::Result<Option<Mounted>> {
            let volumes = self.volumes.get().and_then(Weak::upgrade).unwrap();
            self.is_free.set(volumes.turn.try_lock().is_ok()).unwrap();
            Ok(None)
        }

        fn bind(&self, _: &Directory, _: &Target) -> io::Result<()> {
            unreachable!()
        }

        fn unmount(&self, _: &Target) -> io::Result<()> {
            unreachable!()
        }
    }

    #[test]
    fn nobody_ends_a_mount_while_it_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let mounts = Arc::new(Watched::default());
        let volumes = Arc::new(Volumes::new(path.clone(), Arc::clone(&mounts)));
        mounts.volumes.set(Arc::downgrade(&volumes)).unwrap();
        let condition = volumes.condition(path.to_str().unwrap()).unwrap();
        assert!(matches!(condition, Some(Condition::Abnormal(_))));
        assert_eq!(mounts.is_free.get(), Some(&false));
    }
}
