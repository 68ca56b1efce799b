//! The files that TLS to the database is configured by.

use std::fs;
use std::path::PathBuf;

use vouchsafe_types::secret::SecretText;

use super::file;
use crate::postgres::settings::SettingsError;

/// Files in PEM form.
#[derive(Clone, Debug, Default)]
pub(in crate::postgres) struct Files {
    /// The system's authorities when absent.
    pub(in crate::postgres) authorities: Option<PathBuf>,
    pub(in crate::postgres) certificate: Option<PathBuf>,
    pub(in crate::postgres) key: Option<PathBuf>,
}

/// What is in [`Files`].
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Contents {
    pub(super) authorities: Option<SecretText>,
    pub(super) certificate: Option<SecretText>,
    pub(super) key: Option<SecretText>,
}

impl Files {
    /// Reads them. Blocks on the disk.
    pub(super) fn read(&self) -> Result<Contents, SettingsError> {
        let text = |path: &Option<PathBuf>| match path {
            None => Ok(None),
            Some(path) => match fs::read(path) {
                // Between the blocks there may be comments in any encoding.
                Ok(bytes) => Ok(Some(SecretText::from(
                    String::from_utf8(bytes)
                        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
                ))),
                Err(error) => Err(file(path, &error)),
            },
        };
        let (authorities, certificate) = (text(&self.authorities)?, text(&self.certificate)?);
        Ok(Contents { authorities, certificate, key: text(&self.key)? })
    }
}
