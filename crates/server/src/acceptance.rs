//! An operator's word that the database is right although it lacks what this server holds.
//!
//! It is a file in the data directory, so that it may be given while the server runs or not, and it is good for one start: the
//! server that finds it takes the database as it is, puts its last good state aside (under [`ASIDE`], should it have been
//! a mistake), and removes it. Nothing is changed in a server that runs, because its signing keys have to be made known to the
//! database that it starts with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::saved;

/// The file.
pub const FILE: &str = "datastore.accepted";
/// What is added to the name of the last good state when it is put aside.
pub const ASIDE: &str = ".before";
/// How an operator gives his word, for logs and readiness.
pub(crate) const ADVICE: &str = "to accept the database as it is, run `vouchsafe server datastore accept` on each server and \
                                 restart it";

/// Has the server that keeps its files in `data_dir` take its database as it is, when it starts the next time.
///
/// # Errors
///
/// The file cannot be written: there is no such directory, or it is somebody else's.
pub fn accept(data_dir: &Path) -> io::Result<()> {
    // Of what is there already nothing is touched: root may say it in a directory of somebody else's, who could put a link there.
    match fs::File::create_new(data_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => created?.sync_all()?,
    }
    fs::File::open(data_dir)?.sync_all()
}

/// Where an operator's word would be.
#[derive(Clone, Debug)]
pub(crate) struct Acceptance {
    data_dir: PathBuf,
}

impl Acceptance {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    pub(crate) fn is_given(&self) -> bool {
        self.data_dir.join(FILE).exists()
    }

    /// Uses it up. In this order: a crash in between leaves nothing that would contradict it. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// A file cannot be moved or removed.
    pub(crate) fn use_up(&self) -> io::Result<()> {
        let held = self.data_dir.join(saved::FILE);
        let aside = self.data_dir.join(format!("{}{ASIDE}", saved::FILE));
        for done in [fs::rename(held, aside), fs::remove_file(self.data_dir.join(FILE))] {
            match done {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_may_be_given_twice_is_good_once_and_writes_through_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let (other, held) = (folder.path().join("other"), folder.path().join(saved::FILE));
        fs::write(&other, "untouched").unwrap();
        fs::write(&held, "held").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join(FILE)).unwrap();
        accept(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");

        let word = Acceptance::new(folder.path());
        assert!(word.is_given());
        word.use_up().unwrap();
        assert!(!word.is_given() && !held.exists());
        assert_eq!(fs::read_to_string(folder.path().join("read-model.sealed.before")).unwrap(), "held");
        for _ in 0..2 {
            accept(folder.path()).unwrap();
        }
        word.use_up().unwrap();
        assert!(!word.is_given());
        assert!(accept(&folder.path().join("missing")).is_err());
    }
}
