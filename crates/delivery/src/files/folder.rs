//! Contents to disk, whole or not at all.
//!
//! A file is written beside its place under another name, made readable to whom its mode says before there is anything
//! in it, flushed, and then renamed. All files of a set are written before the first is renamed, so a full disk leaves the
//! old set. Whenever the process ends, each name shows one whole file, old or new; what is left beside them is removed by the
//! next write.
//!
//! With [`Replacement::WholeFolder`] the set changes in one step: the names are links into `..data`, which is a link to a
//! directory that is written anew and then put in place of the old one, as the kubelet does in its volumes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use vouchsafe_runtime::class::Class;
use zeroize::Zeroizing;

use super::render::File;
use super::settings::Replacement;

/// Where the files are. Its operations block.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    replacement: Replacement,
    /// Every name that will ever be written.
    names: Vec<String>,
}

/// Whether there was anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The disk had it already.
    Already,
    /// Files were replaced.
    Changed,
}

impl Folder {
    /// The folder at `path`, which will have files of these names.
    #[must_use]
    pub fn new(path: PathBuf, replacement: Replacement, names: Vec<String>) -> Self {
        Self { path, replacement, names }
    }

    /// Replaces what differs from `files`, in their order.
    ///
    /// # Errors
    ///
    /// What the system said, with the file. The old set is as it was, unless a rename failed.
    pub fn put(&self, files: &[File]) -> Result<Written, WriteError> {
        let differing: Vec<&File> = files.iter().filter(|file| !self.has(file)).collect();
        let written = match self.replacement {
            _ if differing.is_empty() => Ok(Written::Already),
            Replacement::EachFile => self.put_each(&differing).map(|()| Written::Changed),
            Replacement::WholeFolder => self.put_all(files).map(|()| Written::Changed),
        };
        // Old keys are in them. Best effort: the next write tries again.
        drop(self.remove_old_generations());
        written
    }

    /// Removes every `..v<number>` that is not shown: those of a crash, of a write that failed halfway, and all of them once
    /// files are replaced one by one and none is shown through `..data` any more.
    fn remove_old_generations(&self) -> io::Result<()> {
        let data = self.path.join(DATA);
        let mut shown = fs::read_link(&data).ok();
        if self.replacement == Replacement::EachFile && shown.as_deref().and_then(number_of).is_some() {
            let through =
                |name: &String| fs::read_link(self.path.join(name)).is_ok_and(|to| to.starts_with(DATA));
            if self.names.iter().any(through) {
                return Ok(());
            }
            fs::remove_file(&data)?;
            shown = None;
        }
        for entry in fs::read_dir(&self.path)? {
            let name = PathBuf::from(entry?.file_name());
            if number_of(&name).is_some() && Some(&name) != shown.as_ref() {
                remove_flat(&self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Whether the disk has exactly this.
    fn has(&self, file: &File) -> bool {
        let place = self.path.join(&file.name);
        let linked = fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink());
        if linked != (self.replacement == Replacement::WholeFolder) {
            return false;
        }
        let mode = fs::metadata(&place).map(|found| found.permissions().mode() & MODE_BITS);
        mode.is_ok_and(|mode| mode == file.mode) && read(&place).is_ok_and(|found| *found == *file.content)
    }

    fn put_each(&self, files: &[&File]) -> Result<(), WriteError> {
        let mut prepared = Vec::with_capacity(files.len());
        for file in files {
            let place = self.path.join(&file.name);
            let beside = beside(&place);
            if let Err(source) = write_new(&beside, file) {
                prepared.push((beside, place.clone()));
                // Best effort: the next write removes what is left.
                prepared.iter().for_each(|(beside, _)| drop(fs::remove_file(beside)));
                return Err(WriteError { step: "write", path: place, source });
            }
            prepared.push((beside, place));
        }
        for (beside, place) in prepared {
            let renamed = fs::rename(&beside, &place);
            renamed.map_err(|source| WriteError { step: "replace", path: place.clone(), source })?;
            flush_folder_of(&place)?;
        }
        Ok(())
    }

    fn put_all(&self, files: &[File]) -> Result<(), WriteError> {
        let mut set: BTreeMap<&str, &File> = BTreeMap::new();
        let kept: Vec<File> = self.names.iter().filter_map(|name| self.kept(name)).collect();
        set.extend(kept.iter().map(|file| (file.name.as_str(), file)));
        set.extend(files.iter().map(|file| (file.name.as_str(), file)));
        let data = self.path.join(DATA);
        let old = fs::read_link(&data).ok();
        let number = old.as_deref().and_then(number_of).map_or(1, |old| old.wrapping_add(1));
        let name = format!("{GENERATION}{number}");
        let generation = self.path.join(&name);
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| WriteError { step, path, source }
        };
        remove_flat(&generation).map_err(failed("remove the leftover", &generation))?;
        fs::create_dir(&generation).map_err(failed("make", &generation))?;
        let open = fs::set_permissions(&generation, Permissions::from_mode(FOLDER_MODE));
        open.map_err(failed("set the mode of", &generation))?;
        for file in set.values() {
            let place = generation.join(&file.name);
            write_new(&place, file).map_err(failed("write", &place))?;
        }
        flush_folder_of(&generation.join(DATA))?;
        replace_link(&data, Path::new(&name))?;
        for name in set.keys() {
            let (place, to) = (self.path.join(name), Path::new(DATA).join(name));
            if fs::read_link(&place).is_ok_and(|found| found == to) {
                continue;
            }
            replace_link(&place, &to)?;
        }
        Ok(())
    }

    /// A file that an earlier set has and this one does not bring.
    fn kept(&self, name: &str) -> Option<File> {
        let place = self.path.join(DATA).join(name);
        let mode = fs::metadata(&place).ok()?.permissions().mode() & MODE_BITS;
        Some(File { name: name.to_owned(), mode, content: read(&place).ok()? })
    }
}

/// `..v7` is 7.
fn number_of(generation: &Path) -> Option<u64> {
    generation.to_str()?.strip_prefix(GENERATION)?.parse().ok()
}

/// A name beside `place` that nothing else has.
fn beside(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".new");
    place.with_file_name(name)
}

/// Writes a file that is not there, with its mode set before its content.
fn write_new(place: &Path, file: &File) -> io::Result<()> {
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody else may open it before its mode is set: who has it open keeps it.
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600 & file.mode).open(place)?;
    new.set_permissions(Permissions::from_mode(file.mode))?;
    new.write_all(&file.content)?;
    new.sync_all()
}

/// Makes `place` a link to `to`, whatever it was before.
fn replace_link(place: &Path, to: &Path) -> Result<(), WriteError> {
    let failed = |source| WriteError { step: "link", path: place.to_owned(), source };
    let beside = beside(place);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    symlink(to, &beside).and_then(|()| fs::rename(&beside, place)).map_err(failed)?;
    flush_folder_of(place)
}

fn flush_folder_of(place: &Path) -> Result<(), WriteError> {
    let folder = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flushed = fs::File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|source| WriteError { step: "flush", path: folder.to_owned(), source })
}

/// Removes a directory of ours, which has files only. What is not there is removed.
fn remove_flat(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(folder)
}

fn read(place: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = fs::File::open(place)?;
    // Room at once: a buffer that grows leaves its old selves behind.
    let length = file.metadata()?.len().min(MAX_FILE_BYTES);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct WriteError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl WriteError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Class::Permanent
            }
            _ => Class::Transient,
        }
    }
}

/// The link to the directory with the files.
const DATA: &str = "..data";
/// What the names of these directories begin with. A number follows.
const GENERATION: &str = "..v";
/// Of these directories: the files in them have modes of their own.
const FOLDER_MODE: u32 = 0o755;
const MODE_BITS: u32 = 0o7777;
/// Of a file that is compared or kept. A longer one is none of ours.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
