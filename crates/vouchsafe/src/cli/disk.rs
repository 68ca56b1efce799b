//! Files that commands write.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file that everybody may read.
pub(super) fn write_public(path: &Path, contents: &[u8]) -> io::Result<()> {
    write(path, contents, 0o644)
}

/// Writes a file that only its owner may read. One that exists gets the narrow mode too, before the contents.
pub(super) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    write(path, contents, 0o600)
}

fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    if mode == 0o600 {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    file.write_all(contents)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_is_narrow_even_if_it_was_wide_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        write_public(&path, b"old and longer").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
