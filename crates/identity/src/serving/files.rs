//! A web server's certificate in files that something else renews.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{error, info};
use zeroize::Zeroizing;

use super::{CertificateCell, CertificateError};

/// Where the files are, and how often they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM, leaf first.
    pub cert_file: PathBuf,
    /// Its private key in PEM.
    pub key_file: PathBuf,
    /// How often both are read again.
    pub sync_interval: Duration,
}

impl CertificateFiles {
    /// Reads both.
    ///
    /// # Errors
    ///
    /// [`FilesError`] names the file.
    pub fn load(&self) -> Result<CertificateCell, FilesError> {
        let (chain, key) = self.read()?;
        CertificateCell::from_pem(&chain, &key).map_err(|source| self.unusable(source))
    }

    /// Keeps `cell` at what the files have, for ever. Files that cannot be used leave the certificate as it is, and the
    /// log says so.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn watch(&self, cell: &CertificateCell) {
        info!(interval = ?self.sync_interval, "Started watching certificate files");
        loop {
            tokio::time::sleep(self.sync_interval).await;
            let replaced = self
                .read()
                .and_then(|(chain, key)| cell.replace(&chain, &key).map_err(|source| self.unusable(source)));
            match replaced {
                Ok(true) => info!("Loaded provided certificate with success"),
                Ok(false) => {}
                Err(cause) => error!(
                    error = &cause as &dyn std::error::Error,
                    "Failed to load certificate; still serving the one before"
                ),
            }
        }
    }

    /// The chain and the key, which is wiped after use.
    fn read(&self) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), FilesError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| FilesError::File { path: path.to_owned(), source })
        };
        Ok((read(&self.cert_file)?, Zeroizing::new(read(&self.key_file)?)))
    }

    fn unusable(&self, source: CertificateError) -> FilesError {
        FilesError::Certificate { path: self.cert_file.clone(), source }
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("cannot serve the certificate in {}", path.display())]
    Certificate {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
}
