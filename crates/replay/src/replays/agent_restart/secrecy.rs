//! What another user and a thief of the disk find in an agent's data directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use nix::unistd::geteuid;
use tokio::process::Command;

use crate::error::{Doing, Error};
use crate::measure::Measured;
use crate::place::Place;

/// What was found.
pub(super) struct Found {
    files: usize,
    /// Files that another user could read.
    readable: usize,
    /// Private keys of workloads that are in a file as they are, in hexadecimal or in base64.
    in_clear: usize,
    keys: usize,
}

/// Looks at every file in `data` for the private keys `keys` (PKCS #8), and as another user.
pub(super) async fn look(place: &Place, data: &Path, keys: &[Vec<u8>]) -> Result<Found, Error> {
    let files = files(data)?;
    let open = place.folder("open")?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).doing("open a directory")?;
    let control = open.join("control");
    fs::write(&control, "anybody may read this").doing("write a file")?;
    fs::set_permissions(&control, fs::Permissions::from_mode(0o644)).doing("open a file")?;
    if !as_nobody(&control).await? {
        return Err(Error::setup("read a file as nobody", "not even an open one can be read"));
    }
    let (mut readable, mut in_clear) = (0, 0);
    for (number, file) in files.iter().enumerate() {
        // The directory keeps others out already; here it is the file's own mode that counts.
        let link = open.join(number.to_string());
        fs::hard_link(file, &link).doing("link a file")?;
        readable += usize::from(as_nobody(file).await? || as_nobody(&link).await?);
        let bytes = fs::read(file).doing("read a file of the agent")?;
        in_clear += keys.iter().filter(|key| holds(&bytes, key)).count();
    }
    Ok(Found { files: files.len(), readable, in_clear, keys: keys.len() })
}

impl Found {
    pub(super) fn figures(&self) -> [Measured; 3] {
        let Self { files, readable, in_clear, keys } = self;
        [
            Measured::told("files", "files in the agent's data directory", "", *files as f64),
            Measured::never("readable", "of them readable to another uid", *readable),
            Measured::never("keys_in_clear", format!("of {keys} workload keys, in clear on disk"), *in_clear),
        ]
    }
}

/// Whether the user `nobody` can read `file`.
async fn as_nobody(file: &Path) -> Result<bool, Error> {
    let mut command = if geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
        command
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "-u", "nobody"]);
        command
    };
    command.arg("cat").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().await.doing("become the user nobody (run this as root)")?.success())
}

fn files(of: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for item in fs::read_dir(of).doing(format!("list {}", of.display()))? {
        let item = item.doing("list a directory")?;
        let kind = item.file_type().doing("look at a file")?;
        if kind.is_dir() {
            found.extend(files(&item.path())?);
        } else if kind.is_file() {
            found.push(item.path());
        }
    }
    Ok(found)
}

/// Whether the secret part of an EC key in PKCS #8 is in `bytes`, in one of the usual ways to write it.
fn holds(bytes: &[u8], key: &[u8]) -> bool {
    let Some(secret) = secret(key) else { return true };
    let digits = hex::encode(secret);
    let written = [secret.to_vec(), digits.to_uppercase().into_bytes(), digits.into_bytes()];
    // What comes before it shifts base64 by 0, 1 or 2 bytes; at the edges its digits mix with those of the neighbours.
    let shifted = (0..3).map(|shift| {
        let digits = STANDARD_NO_PAD.encode([&vec![0; shift], secret].concat());
        digits.as_bytes()[4..digits.len() - 4].to_vec()
    });
    written.into_iter().chain(shifted).any(|written| contains(bytes, &written))
}

/// The 32 bytes after the version of an `ECPrivateKey` (RFC 5915 §3).
fn secret(key: &[u8]) -> Option<&[u8]> {
    let at = key.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    key.get(at..at + 32)
}

const BEFORE: &[u8] = &[0x02, 0x01, 0x01, 0x04, 0x20];

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let secret: Vec<u8> = (100..132).collect();
        let key = [b"before", BEFORE, &secret, b"after"].concat();
        let shifts = ["", "a", "ab"].map(|before| STANDARD.encode([before.as_bytes(), &key].concat()));
        let hex = hex::encode(&key);
        for written in [&key[..], hex.as_bytes()].into_iter().chain(shifts.iter().map(String::as_bytes)) {
            assert!(holds(&[b"\x01\x02", written].concat(), &key));
        }
        assert!(!holds(b"something else", &key));
        assert!(holds(b"", b"a key that cannot be read counts as found"));
    }
}
