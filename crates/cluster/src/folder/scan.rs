//! Which files there are, and what they give. Blocking.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;

use super::Problem;
use super::document::{self, Document, Id};
use super::files::{is_manifest, is_own, status_of};

/// What was found in the folder until now.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// In order of their paths.
    pub(crate) files: BTreeMap<PathBuf, File>,
    pub(crate) looked: Option<Instant>,
}

/// One manifest.
#[derive(Debug, Default)]
pub(crate) struct File {
    stamp: Option<Stamp>,
    /// As it last could be read.
    pub(crate) documents: Vec<Document>,
    /// The status of its objects, from the file beside it.
    pub(crate) statuses: BTreeMap<Id, Value>,
    status_stamp: Option<Stamp>,
    problem: Option<String>,
    /// Whether it could ever be read.
    pub(crate) is_known: bool,
    /// Since when it is not there any more.
    pub(crate) gone: Option<Instant>,
}

/// Changes when a file does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    modified: SystemTime,
    size: u64,
    inode: u64,
}

impl Scanner {
    /// Looks at every file; reads what changed. Gives what is wrong with files.
    ///
    /// # Errors
    ///
    /// When not every file can be seen. Then nothing changes: not to see a file is not to see it gone.
    pub(crate) fn look(&mut self, root: &Path, now: SystemTime) -> Result<Vec<Problem>, Problem> {
        let mut found = Vec::new();
        list(root, 0, &mut found).map_err(|(path, error)| Problem { path, detail: error.to_string() })?;
        let at = Instant::now();
        self.files.retain(|path, file| found.binary_search(path).is_ok() || !file.is_gone_for_good(path, at));
        let mut problems = Vec::new();
        for path in found {
            let file = self.files.entry(path.clone()).or_default();
            file.gone = None;
            file.look(&path, now);
            if let Some(detail) = &file.problem {
                problems.push(Problem { path, detail: detail.clone() });
            }
        }
        Ok(problems)
    }
}

impl File {
    fn look(&mut self, path: &Path, now: SystemTime) {
        match stamp(path) {
            Err(error) => self.problem = Some(error.to_string()),
            Ok(stamp) if self.stamp == Some(stamp) => {}
            Ok(stamp) if self.stamp.is_some() && !is_own(path) && !stamp.has_settled(now) => {}
            Ok(stamp) => match read(path) {
                // It is read again at each look: what permits to read it does not change its stamp.
                Err(error) => self.problem = Some(error.to_string()),
                Ok(text) => {
                    self.stamp = Some(stamp);
                    match text.and_then(|text| document::parse(&text)) {
                        Ok(documents) => {
                            (self.documents, self.problem, self.is_known) = (documents, None, true);
                        }
                        Err(detail) => self.problem = Some(detail),
                    }
                }
            },
        }
        let beside = status_of(path);
        let beside_stamp = stamp(&beside).ok();
        if self.status_stamp != beside_stamp {
            self.status_stamp = beside_stamp;
            let text = read(&beside).ok().and_then(Result::ok);
            let documents = text.and_then(|text| document::parse(&text).ok()).unwrap_or_default();
            let status = |document: Document| (document.id, document.value["status"].clone());
            self.statuses = documents.into_iter().map(status).collect();
        }
    }
}

impl File {
    /// Whether it stays away: not at the first look that misses it. What this program wrote is removed by nobody else.
    fn is_gone_for_good(&mut self, path: &Path, now: Instant) -> bool {
        let since = *self.gone.get_or_insert(now);
        is_own(path) || now.duration_since(since) >= GONE
    }
}

impl Stamp {
    fn has_settled(&self, now: SystemTime) -> bool {
        // A file from the future is as settled as it gets.
        now.duration_since(self.modified).map_or(true, |age| age >= SETTLED)
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path)?;
    Ok(Stamp { modified: meta.modified()?, size: meta.size(), inode: meta.ino() })
}

/// The text of a file, or what is wrong with what is in it.
fn read(path: &Path) -> io::Result<Result<String, String>> {
    let mut content = Vec::new();
    let limit = MAX_FILE as u64 + 1;
    fs::File::open(path)?.take(limit).read_to_end(&mut content)?;
    if content.len() > MAX_FILE {
        return Ok(Err(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8(content).map_err(|error| error.to_string()))
}

/// The manifests below `folder`, in order. Hidden ones do not count: that is where kubelet keeps the versions of a volume.
fn list(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let at = |error| (folder.to_owned(), error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(at)? {
        entries.push(entry.map_err(at)?);
        if entries.len() > MAX_FILES {
            return Err(at(io::Error::other(format!("more than {MAX_FILES} files"))));
        }
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(at)?.is_dir() {
            if depth < MAX_DEPTH {
                list(&path, depth + 1, found)?;
            }
        } else if is_manifest(&path) {
            found.push(path);
        }
    }
    if depth == 0 {
        found.sort_unstable();
    }
    if found.len() > MAX_FILES {
        return Err(at(io::Error::other(format!("more than {MAX_FILES} manifests"))));
    }
    Ok(())
}

/// A file that was changed less than this ago may still be being written.
const SETTLED: Duration = Duration::from_millis(300);

/// A file that was not there for less than this may be on its way back. Longer than looks are apart at the least.
const GONE: Duration = Duration::from_millis(900);

/// The largest manifest that is read. Of a larger one the objects that it gave last stay.
const MAX_FILE: usize = 4 * 1024 * 1024;

/// The most manifests. With more, nothing is read any more and what is held stays.
const MAX_FILES: usize = 10_000;

/// How deep folders lie in folders; what is deeper is not looked at.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use nix::unistd::{Uid, setfsuid};

    use super::*;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

    #[test]
    fn a_file_that_may_not_be_read_is_read_once_it_may() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, MAP).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let mut scanner = Scanner::default();
        let mut look = || {
            // Of this thread only: root may read everything.
            setfsuid(Uid::from_raw(65_534));
            let problems = scanner.look(folder.path(), SystemTime::UNIX_EPOCH).unwrap();
            setfsuid(Uid::current());
            (problems.len(), scanner.files[&path].documents.len(), scanner.files[&path].is_known)
        };
        assert_eq!(look(), (1, 0, false));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(look(), (0, 1, true));
    }
}
