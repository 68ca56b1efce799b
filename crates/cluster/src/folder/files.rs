//! How files are called, and writing them whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::document::Id;

pub(crate) fn is_manifest(path: &Path) -> bool {
    let is_known = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
    is_known && !ends_with(path, STATUS)
}

/// Whether this program wrote the manifest.
pub(crate) fn is_own(path: &Path) -> bool {
    ends_with(path, OWN)
}

/// Where the status of the objects of a manifest is.
pub(crate) fn status_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(STATUS);
    name.into()
}

/// Where an object is written that no manifest of people's gives.
pub(crate) fn own_file(root: &Path, id: &Id) -> Result<PathBuf, String> {
    let namespace = id.name.namespace.as_deref().unwrap_or("");
    let name = format!("{}.{namespace}.{}{OWN}", id.kind.to_lowercase(), id.name.name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if name.len() > MAX_NAME || !name.bytes().all(is_plain) {
        return Err(format!("{} is no name that a file can have", id.name));
    }
    Ok(root.join(name))
}

/// Replaces a file whole or not at all. Only its owner can read it.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default();
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let new = folder.join(hidden);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(folder)?.sync_all()
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(end.as_bytes()))
}

const STATUS: &str = ".status.yaml";
const OWN: &str = ".applied.yaml";

/// The longest file name, with room for what surrounds it while it is written.
const MAX_NAME: usize = 240;
