//! Which container a process is in, and of which Pod, read from `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo`.
//!
//! The rules are those of SPIRE's "new container locator", but for when rule 2 holds:
//!
//! 1. the kernel writes `cgroup`, and a workload cannot forge it, so what it says counts;
//! 2. only if it names no place at all (every path is `/`: the process is in the agent's own private cgroup namespace), the
//!    roots of the `cgroup` and `cgroup2` mounts in `mountinfo` are looked at. Any other container has its path in `cgroup`,
//!    also for an agent in such a namespace (`/../../kubepods…`). A workload can arrange its own mounts, so they count
//!    neither for a process that has a place without a container (`/user.slice/…`) nor where `/` is the machine's root;
//! 3. a container ID is 64 hexadecimal digits that stand alone as a word (`docker-<id>.scope`, `/docker/<id>`). Of a path
//!    the last segment that has one counts;
//! 4. a Pod's UID is the word `pod<uid>` before the container ID, with dashes, or with underscores where systemd is the
//!    cgroup driver. Of a path the last one counts. A path with a Pod's UID overrides one without: a node that is itself
//!    a container (kind, k3s in Docker) has such beside it;
//! 5. paths that disagree otherwise give no answer at all, because the safe thing is to choose nothing.
//!
//! Lines and files have bounds, and a line that the kernel would not write fails the whole file.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use tracing::debug;

use self::lines::{CGROUP, MOUNTINFO, each_line, mount, shown};
use self::path::ids_in;

mod lines;
pub(super) mod path;

/// A container, as the kernel names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The UID of its Pod with dashes, if it was looked for and is there. Static Pods have none in their paths.
    pub pod: Option<String>,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// The container only.
    Container,
    /// The container and its Pod.
    Pod,
}

/// Where processes are listed, and what is looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Locator {
    /// `/proc`.
    pub proc_root: PathBuf,
    /// Log every cgroup and mount that is looked at, at level debug.
    pub verbose: bool,
    /// What is looked for.
    pub wanted: Wanted,
}

impl Locator {
    /// The cgroup paths of process `pid`. A process that is gone is in none.
    ///
    /// # Errors
    ///
    /// [`LocateError`].
    pub fn groups(&self, pid: i32) -> Result<Vec<Vec<u8>>, LocateError> {
        let paths = match self.open(pid, CGROUP.name)? {
            Some(file) => group_paths(file)?,
            None => Vec::new(),
        };
        if self.verbose {
            for (index, path) in paths.iter().enumerate() {
                let path = String::from_utf8_lossy(path);
                debug!(index = index + 1, total = paths.len(), %path, "PID cgroup enumerated");
            }
        }
        Ok(paths)
    }

    /// The container of process `pid`, whose cgroups are `groups`.
    ///
    /// # Errors
    ///
    /// [`LocateError`].
    pub fn container(&self, pid: i32, groups: &[Vec<u8>]) -> Result<Option<Container>, LocateError> {
        if let Some(container) = in_paths(groups.iter().map(Vec::as_slice), self.wanted)? {
            return Ok(Some(container));
        }
        if !self.is_nowhere(groups) {
            return Ok(None);
        }
        match self.open(pid, MOUNTINFO.name)? {
            Some(file) => in_mountinfo(file, self.wanted, self.verbose),
            None => Ok(None),
        }
    }

    /// Rule 2: whether the kernel says no more of a process than that it is beside the agent.
    fn is_nowhere(&self, groups: &[Vec<u8>]) -> bool {
        let namespace = || std::fs::read_link(self.proc_root.join("self/ns/cgroup")).ok();
        groups.iter().all(|path| path == b"/")
            && namespace().is_none_or(|namespace| namespace.as_os_str() != MACHINES_NAMESPACE)
    }

    /// A file of a process, if the process is there.
    fn open(&self, pid: i32, file: &'static str) -> Result<Option<BufReader<File>>, LocateError> {
        match File::open(self.proc_root.join(pid.to_string()).join(file)) {
            Ok(opened) => Ok(Some(BufReader::new(opened))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LocateError::Read { file, source }),
        }
    }
}

/// Why the container of a process is not known. A process that is in none is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// A file of the process cannot be read.
    #[error("cannot read {file} of the process")]
    Read {
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A line that is longer than any the kernel writes.
    #[error("{file} of the process is too long")]
    TooLong {
        /// Which file.
        file: &'static str,
    },
    /// A line of `cgroup` without its three fields.
    #[error(
        "invalid cgroup entry, contains {fields} colon separated fields but expected at least 3: {line:?}"
    )]
    Cgroup {
        /// How many it has.
        fields: usize,
        /// The line.
        line: String,
    },
    /// A line of `mountinfo` that cannot be read.
    #[error("{problem} in mountinfo line: {line}")]
    Mountinfo {
        /// What is wrong.
        problem: &'static str,
        /// The line.
        line: String,
    },
    /// The process is in two containers at once, or in one and in none.
    #[error("multiple container IDs found ({0:?}, {1:?})")]
    Conflict(String, String),
    /// The process is in two Pods at once.
    #[error("multiple pod UIDs found ({0:?}, {1:?})")]
    PodConflict(String, String),
    /// A configured pattern matched a path without an ID in it.
    #[error("a pattern matched, but no container id was found")]
    Blank,
}

/// The cgroup paths in `/proc/<pid>/cgroup`, in the kernel's order.
///
/// # Errors
///
/// [`LocateError`]: a line that the kernel would not write, or a bound exceeded.
pub fn group_paths(cgroup: impl BufRead) -> Result<Vec<Vec<u8>>, LocateError> {
    let mut paths = Vec::new();
    each_line(cgroup, CGROUP, |line| {
        // `hierarchy-ID:controller-list:cgroup-path`; a path may have colons.
        let mut fields = line.splitn(3, |byte| *byte == b':');
        match (fields.next(), fields.next(), fields.next()) {
            (Some(_), Some(_), Some(path)) => paths.push(path.to_vec()),
            (_, second, _) => {
                let fields = 1 + usize::from(second.is_some());
                return Err(LocateError::Cgroup { fields, line: shown(line) });
            }
        }
        Ok(())
    })?;
    Ok(paths)
}

/// The container that `paths` agree on, if they have one.
///
/// # Errors
///
/// [`LocateError::Conflict`] or [`LocateError::PodConflict`].
pub fn in_paths<'a>(
    paths: impl IntoIterator<Item = &'a [u8]>,
    wanted: Wanted,
) -> Result<Option<Container>, LocateError> {
    let mut found = Agreed::default();
    paths.into_iter().try_for_each(|path| found.take(path, wanted))?;
    Ok(found.container())
}

/// The container that the cgroup mounts in `/proc/<pid>/mountinfo` agree on, if they have one.
///
/// # Errors
///
/// [`LocateError`]: a line that the kernel would not write, a bound exceeded, or a conflict.
pub fn in_mountinfo(
    mountinfo: impl BufRead,
    wanted: Wanted,
    verbose: bool,
) -> Result<Option<Container>, LocateError> {
    let mut found = Agreed::default();
    each_line(mountinfo, MOUNTINFO, |line| {
        if line.is_empty() {
            return Ok(());
        }
        let (root, kind) = mount(line)?;
        // Who mounts all of the hierarchy sees no container in its root.
        if !matches!(kind, b"cgroup" | b"cgroup2") || root == b"/" {
            return Ok(());
        }
        if verbose {
            debug!(root = %String::from_utf8_lossy(root), "PID cgroup mount enumerated");
        }
        found.take(root, wanted)
    })?;
    Ok(found.container())
}

/// Rules 4 and 5, with SPIRE's reading of them: paths without an ID may come before the first one that has one, not after
/// it, unless a Pod is known by then.
#[derive(Debug, Default)]
struct Agreed {
    id: String,
    pod: String,
}

impl Agreed {
    fn take(&mut self, path: &[u8], wanted: Wanted) -> Result<(), LocateError> {
        let (id, pod) = ids_in(path, wanted);
        if !self.pod.is_empty() && pod.is_empty() {
            return Ok(());
        }
        if self.pod.is_empty() && !pod.is_empty() {
            *self = Self { id: id.to_owned(), pod };
            return Ok(());
        }
        if self.pod != pod {
            return Err(LocateError::PodConflict(std::mem::take(&mut self.pod), pod));
        }
        if !self.id.is_empty() && self.id != id {
            return Err(LocateError::Conflict(std::mem::take(&mut self.id), id.to_owned()));
        }
        id.clone_into(&mut self.id);
        Ok(())
    }

    fn container(self) -> Option<Container> {
        let pod = Some(self.pod).filter(|pod| !pod.is_empty());
        Some(self.id).filter(|id| !id.is_empty()).map(|id| Container { id, pod })
    }
}

/// The cgroup namespace of the machine itself: its number is a constant of the kernel.
const MACHINES_NAMESPACE: &str = "cgroup:[4026531835]";

#[cfg(test)]
mod tests;
