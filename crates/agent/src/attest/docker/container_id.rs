//! Which container a process is in, read from `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo`.
//!
//! The rules are SPIRE's (its "new container locator"):
//!
//! 1. the kernel writes `cgroup`, and a workload cannot forge it, so what it says counts;
//! 2. only if no path in it has a container ID, the roots of the `cgroup` and `cgroup2` mounts in `mountinfo` are looked
//!    at. A workload can arrange its own mounts, so they never override rule 1;
//! 3. a container ID is 64 hexadecimal digits that stand alone as a word (`docker-<id>.scope`, `/docker/<id>`). Of a path
//!    the last segment that has one counts;
//! 4. paths that disagree give no answer at all, because the safe thing is to choose nothing.
//!
//! Lines and files have bounds, and a line that the kernel would not write fails the whole file.

use std::io::{self, BufRead, Read};

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

/// The container ID that `paths` agree on, if they have one.
///
/// # Errors
///
/// [`LocateError::Conflict`].
pub fn in_paths<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<String>, LocateError> {
    let mut found = Agreed::default();
    paths.into_iter().try_for_each(|path| found.take(path))?;
    Ok(found.id())
}

/// The container ID that the cgroup mounts in `/proc/<pid>/mountinfo` agree on, if they have one.
///
/// # Errors
///
/// [`LocateError`]: a line that the kernel would not write, a bound exceeded, or a conflict.
pub fn in_mountinfo(mountinfo: impl BufRead) -> Result<Option<String>, LocateError> {
    let mut found = Agreed::default();
    each_line(mountinfo, MOUNTINFO, |line| {
        if line.is_empty() {
            return Ok(());
        }
        let (root, kind) = mount(line)?;
        // Who mounts all of the hierarchy sees no container in its root.
        if matches!(kind, b"cgroup" | b"cgroup2") && root != b"/" { found.take(root) } else { Ok(()) }
    })?;
    Ok(found.id())
}

/// Root and file system type of one mount. proc(5): six fields, optional ones, `-`, then the type, the source (which may
/// be empty) and options, each after one space.
fn mount(line: &[u8]) -> Result<(&[u8], &[u8]), LocateError> {
    let wrong = |problem| LocateError::Mountinfo { problem, line: shown(line) };
    let mut fields = line.split(|byte| *byte == b' ');
    let mut root = &[][..];
    let mut before = 0;
    loop {
        match fields.next() {
            None => return Err(wrong("missing separator")),
            Some(b"-") => break,
            Some(field) => {
                if before == 3 {
                    root = field;
                }
                before += 1;
            }
        }
    }
    if before < 6 {
        return Err(wrong("expected at least 6 fields before separator"));
    }
    let kind = fields.next().filter(|kind| !kind.is_empty());
    Ok((root, kind.ok_or_else(|| wrong("missing filesystem type"))?))
}

/// Rule 4, with SPIRE's reading of it: paths without an ID may come before the first one that has one, not after it.
#[derive(Debug, Default)]
struct Agreed(String);

impl Agreed {
    fn take(&mut self, path: &[u8]) -> Result<(), LocateError> {
        let id = id_in(path).unwrap_or_default();
        if !self.0.is_empty() && self.0 != id {
            return Err(LocateError::Conflict(self.0.clone(), id.to_owned()));
        }
        id.clone_into(&mut self.0);
        Ok(())
    }

    fn id(self) -> Option<String> {
        Some(self.0).filter(|id| !id.is_empty())
    }
}

/// Rule 3. A path ends where it has an empty segment, read from the back.
fn id_in(path: &[u8]) -> Option<&str> {
    path.rsplit(|byte| *byte == b'/').take_while(|segment| !segment.is_empty()).find_map(id_in_segment)
}

fn id_in_segment(segment: &[u8]) -> Option<&str> {
    // A word is a run of what a regular expression's `\b` takes for one.
    segment
        .split(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))
        .find(|word| word.len() == ID_LENGTH && word.iter().all(u8::is_ascii_hexdigit))
        .and_then(|word| std::str::from_utf8(word).ok())
}

/// Gives each line to `take`, without its end.
fn each_line(
    file: impl BufRead,
    bounds: Bounds,
    mut take: impl FnMut(&[u8]) -> Result<(), LocateError>,
) -> Result<(), LocateError> {
    let mut file = file.take(bounds.file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut file)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|source| LocateError::Read { file: bounds.name, source })?;
        if line.pop_if(|last| *last == b'\n').is_none() && (read as u64 == MAX_LINE || file.limit() == 0) {
            return Err(LocateError::TooLong { file: bounds.name });
        }
        if read == 0 {
            return Ok(());
        }
        take(&line)?;
    }
}

/// For a message, not more than is useful.
fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(256)]).into_owned()
}

struct Bounds {
    name: &'static str,
    file: u64,
}

/// Hexadecimal digits of a container ID, by convention of every runtime.
const ID_LENGTH: usize = 64;

/// Bytes of one line. A longer one fails the look-up.
const MAX_LINE: u64 = 64 * 1024;

/// One line for each hierarchy, of which the kernel has about a dozen.
const CGROUP: Bounds = Bounds { name: "cgroup", file: 1024 * 1024 };

/// A workload may have 100,000 mounts; it does not need an identity then.
const MOUNTINFO: Bounds = Bounds { name: "mountinfo", file: 8 * 1024 * 1024 };

#[cfg(test)]
mod tests;
