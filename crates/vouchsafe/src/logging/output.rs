//! Where log lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Mode of a log file that is created.
const FILE_MODE: u32 = 0o640;

/// The standard stream that takes lines when there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, as SPIRE.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A sink of whole lines. A line that cannot be written is lost: there is nobody to tell.
#[derive(Debug)]
pub struct Output {
    path: Option<PathBuf>,
    sink: Mutex<Sink>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    File(File),
    #[cfg(test)]
    Memory(Vec<u8>),
}

impl Output {
    pub(super) fn stream(stream: Stream) -> Self {
        let sink = match stream {
            Stream::Stdout => Sink::Stdout,
            Stream::Stderr => Sink::Stderr,
        };
        Self { path: None, sink: Mutex::new(sink) }
    }

    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self { path: Some(path.to_owned()), sink: Mutex::new(Sink::File(file)) })
    }

    /// Opens the file anew, for a log that was moved away. Without a file nothing happens.
    ///
    /// # Errors
    ///
    /// The file cannot be opened; lines still go to the one that is open.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open(path)?;
        *self.lock() = Sink::File(file);
        Ok(())
    }

    pub(super) fn write_line(&self, line: &str) {
        let written = match &mut *self.lock() {
            Sink::Stdout => io::stdout().write_all(line.as_bytes()),
            Sink::Stderr => io::stderr().write_all(line.as_bytes()),
            Sink::File(file) => file.write_all(line.as_bytes()),
            #[cfg(test)]
            Sink::Memory(bytes) => bytes.write_all(line.as_bytes()),
        };
        drop(written);
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn memory() -> Self {
        Self { path: None, sink: Mutex::new(Sink::Memory(Vec::new())) }
    }

    #[cfg(test)]
    pub(super) fn contents(&self) -> String {
        match &*self.lock() {
            Sink::Memory(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            _ => String::new(),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_file_is_left_behind_when_reopened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let output = Output::file(&path).unwrap();
        output.write_line("one\n");
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        output.write_line("two\n");
        output.reopen().unwrap();
        output.write_line("three\n");
        assert_eq!(std::fs::read_to_string(directory.path().join("old")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }
}
