//! The lines of `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo`, within bounds.

use std::io::{BufRead, Read};

use super::LocateError;

/// Root and file system type of one mount. proc(5): six fields, optional ones, `-`, then the type, the source (which may
/// be empty) and options, each after one space.
pub(super) fn mount(line: &[u8]) -> Result<(&[u8], &[u8]), LocateError> {
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

/// Gives each line to `take`, without its end.
pub(super) fn each_line(
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
pub(super) fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(256)]).into_owned()
}

/// What a file may have.
pub(super) struct Bounds {
    pub(super) name: &'static str,
    file: u64,
}

/// Bytes of one line. A longer one fails the look-up.
const MAX_LINE: u64 = 64 * 1024;

/// One line for each hierarchy, of which the kernel has about a dozen.
pub(super) const CGROUP: Bounds = Bounds { name: "cgroup", file: 1024 * 1024 };

/// A workload may have 100,000 mounts; it does not need an identity then.
pub(super) const MOUNTINFO: Bounds = Bounds { name: "mountinfo", file: 8 * 1024 * 1024 };
