//! The agent's directory, in SPIRE's format: an agent of either kind can take over the other's.
//!
//! `agent-data.json` holds the agent's own SVID and the trust bundle (certificates only); `keys.json` is the key
//! manager's. Both are replaced atomically and readable by the agent's user alone. What cannot be written (a full disk)
//! is kept, and written by the next [`DataDir::store_again`]: the key manager's file holds only the newest keys, so an
//! old SVID would be of no use after a restart.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tracing::warn;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::class::Class;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::pem;
use vouchsafe_types::trust_domain::TrustDomain;
use vouchsafe_types::x509_svid::X509Svid;

use crate::trust::error_source;

/// The open directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Never locked while the disk is waited for.
    held: Mutex<Held>,
    /// One write at a time.
    writing: Mutex<()>,
}

/// What the file should hold, and how much of it does.
#[derive(Debug)]
struct Held {
    data: Data,
    /// Counts changes.
    version: u64,
    /// What is in the file.
    stored: u64,
}

/// How getting in contact with a server goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BootstrapState {
    /// There was a bundle before.
    pub again: bool,
    /// Since when it is tried (unix seconds); `None` when it is not.
    pub since: Option<i64>,
    /// How often it was tried.
    pub attempts: u64,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// It cannot be created.
    #[error("cannot create the data directory {path}; create it, or name another one with data_dir")]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file in it cannot be read.
    #[error("cannot read {path}; it must belong to the user that runs the agent")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file in it is not what it should be.
    #[error("{path} is not an agent's data file ({reason}); move it away to attest anew")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// In what way.
        reason: String,
    },
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DataDirError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Create { .. } | Self::Read { .. } | Self::Malformed { .. } => Class::Permanent,
            // A full disk may be emptied.
            Self::Write { .. } => Class::Transient,
        }
    }
}

impl DataDir {
    /// Opens `path`; creates it with mode 0700 if it is missing.
    ///
    /// # Errors
    ///
    /// [`DataDirError`] names the file.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DataDirError::Create { path: path.into(), source })?;
        let file = path.join(FILE);
        let data = match fs::read(&file) {
            Ok(text) if text.len() > MAX_FILE_BYTES => {
                let reason = format!("it is larger than {MAX_FILE_BYTES} bytes");
                return Err(DataDirError::Malformed { path: file, reason });
            }
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| DataDirError::Malformed { path: file, reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Data::default(),
            Err(source) => return Err(DataDirError::Read { path: file, source }),
        };
        let held = Mutex::new(Held { data, version: 0, stored: 0 });
        Ok(Self { path: path.into(), held, writing: Mutex::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The agent's own SVID, and whether it was attested by a method that works again.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Malformed`].
    pub fn svid(&self) -> Result<Option<(X509Svid, bool)>, DataDirError> {
        let data = &self.held().data;
        if data.svid.is_empty() {
            return Ok(None);
        }
        let chain = self.certificates(&data.svid)?;
        let svid = X509Svid::parse(chain).map_err(|error| self.malformed(format!("own SVID: {error}")))?;
        Ok(Some((svid, data.reattestable)))
    }

    /// The X.509 authorities of the trust domain, as they were last seen.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Malformed`].
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, DataDirError> {
        let data = &self.held().data;
        if data.bundle.is_empty() {
            return Ok(None);
        }
        let mut bundle = Bundle::new(trust_domain.clone());
        for der in self.certificates(&data.bundle)? {
            let authority =
                X509Authority::parse(der).map_err(|error| self.malformed(format!("bundle: {error}")))?;
            bundle.x509_authorities.push(authority);
        }
        Ok(Some(bundle))
    }

    /// Stores the agent's own SVID. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Write`]; what was stored before is still there, and [`DataDir::store_again`] is worth a try.
    pub fn store_svid(&self, svid: &X509Svid, reattestable: bool) -> Result<(), DataDirError> {
        let chain = svid.chain.iter().map(|der| encode(der)).collect();
        self.store(|data| (data.svid, data.reattestable) = (chain, reattestable))
    }

    /// Forgets the agent's own SVID. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Write`].
    pub fn delete_svid(&self) -> Result<(), DataDirError> {
        self.store(|data| (data.svid, data.reattestable) = (Vec::new(), false))
    }

    /// Keeps the authorities of the trust domain. They are written in the background, and only if they changed.
    pub fn keep_bundle(self: &Arc<Self>, bundle: &Bundle) {
        let authorities: Vec<_> =
            bundle.x509_authorities.iter().map(|authority| encode(&authority.der)).collect();
        if self.held().data.bundle == authorities {
            return;
        }
        self.change(|data| data.bundle = authorities);
        self.write_in_background();
    }

    /// The account of getting in contact with a server.
    #[must_use]
    pub fn bootstrap_state(&self) -> BootstrapState {
        let data = &self.held().data;
        let since = data.bootstrap_start_time.parse::<prost_types::Timestamp>().ok();
        BootstrapState {
            again: data.bootstrap_use == REBOOTSTRAP || (data.bootstrap_use == 0 && !data.bundle.is_empty()),
            since: since.map(|since| since.seconds).filter(|_| data.bootstrap_start_time != NO_TIME),
            attempts: u64::try_from(data.connection_attempts).unwrap_or(0),
        }
    }

    /// Keeps the account of getting in contact with a server. It is written in the background.
    pub fn keep_bootstrap_state(self: &Arc<Self>, state: BootstrapState) {
        let since = state.since.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }.to_string());
        self.change(|data| {
            data.bootstrap_use = if state.again { REBOOTSTRAP } else { BOOTSTRAP };
            data.bootstrap_start_time = since.unwrap_or_else(|| NO_TIME.to_owned());
            data.connection_attempts = i64::try_from(state.attempts).unwrap_or(i64::MAX);
        });
        self.write_in_background();
    }

    /// Writes what could not be written before, if there is anything. Blocks on the disk only then.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Write`]; try again later.
    pub fn store_again(&self) -> Result<(), DataDirError> {
        if self.is_stored() { Ok(()) } else { self.write() }
    }

    /// Whether the file holds everything.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        let held = self.held();
        held.stored == held.version
    }

    fn store(&self, change: impl FnOnce(&mut Data)) -> Result<(), DataDirError> {
        self.change(change);
        self.write()
    }

    fn change(&self, change: impl FnOnce(&mut Data)) {
        let mut held = self.held();
        change(&mut held.data);
        held.version += 1;
    }

    /// A disk may take seconds, and the threads that serve workloads must not.
    fn write_in_background(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let write = move || {
            if let Err(error) = this.store_again() {
                warn!(error = %error, cause = error_source(&error), "Could not write the agent's data; trying again");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(blocking::run(write)),
            Err(_) => write(),
        }
    }

    fn write(&self) -> Result<(), DataDirError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.join(FILE);
        let write = |source| DataDirError::Write { path: path.clone(), source };
        let (version, text) = {
            let held = self.held();
            (held.version, serde_json::to_vec(&held.data).map_err(|error| write(error.into()))?)
        };
        vouchsafe_lastgood::sealed::replace(&path, &text).map_err(write)?;
        self.held().stored = version;
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn certificates(&self, encoded: &[String]) -> Result<Vec<Arc<[u8]>>, DataDirError> {
        let mut certificates = Vec::with_capacity(encoded.len());
        for text in encoded {
            let text = STANDARD.decode(text).map_err(|error| self.malformed(error.to_string()))?;
            let blocks = pem::parse(&text).map_err(|error| self.malformed(error.to_string()))?;
            if blocks.is_empty() {
                return Err(self.malformed("a certificate is missing".to_owned()));
            }
            certificates.extend(blocks.into_iter().map(|block| Arc::from(block.der.as_slice())));
        }
        Ok(certificates)
    }

    fn malformed(&self, reason: String) -> DataDirError {
        DataDirError::Malformed { path: self.path.join(FILE), reason }
    }
}

/// Base64 of PEM: Go encodes a list of byte strings so.
fn encode(der: &[u8]) -> String {
    STANDARD.encode(pem::encode("CERTIFICATE", der))
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
struct Data {
    #[serde(deserialize_with = "list_or_null")]
    svid: Vec<String>,
    #[serde(deserialize_with = "list_or_null")]
    bundle: Vec<String>,
    reattestable: bool,
    bootstrap_use: i64,
    bootstrap_start_time: String,
    connection_attempts: i64,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            svid: Vec::new(),
            bundle: Vec::new(),
            reattestable: false,
            bootstrap_use: 0,
            bootstrap_start_time: NO_TIME.to_owned(),
            connection_attempts: 0,
        }
    }
}

/// Go writes an empty list as `null`.
fn list_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

const FILE: &str = "agent-data.json";

/// SPIRE's numbers for the first contact and for a later one.
const BOOTSTRAP: i64 = 1;
const REBOOTSTRAP: i64 = 2;

/// Go's zero time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// A larger file is not ours.
const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_without_a_file_holds_nothing_and_is_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&root.path().join("a/b")).unwrap();
        assert!(dir.svid().unwrap().is_none());
        assert!(dir.bundle(&TrustDomain::parse("example.org").unwrap()).unwrap().is_none());
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_as_spire_writes_it_is_understood_and_its_other_fields_survive() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(FILE);
        let text = r#"{"svid":null,"bundle":[],"reattestable":false,"bootstrap_use":3,"bootstrap_start_time":"2026-01-02T03:04:05Z","connection_attempts":7}"#;
        fs::write(&file, text).unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        assert!(dir.svid().unwrap().is_none());
        dir.delete_svid().unwrap();
        let written: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(written["bootstrap_use"], 3);
        assert_eq!(written["bootstrap_start_time"], "2026-01-02T03:04:05Z");
        assert_eq!(written["connection_attempts"], 7);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn how_getting_in_contact_goes_is_kept_as_spire_keeps_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = Arc::new(DataDir::open(root.path()).unwrap());
        assert_eq!(dir.bootstrap_state(), BootstrapState::default());
        let state = BootstrapState { again: true, since: Some(1_767_322_985), attempts: 7 };
        dir.keep_bootstrap_state(state);
        assert_eq!(DataDir::open(root.path()).unwrap().bootstrap_state(), state);
        let written: serde_json::Value =
            serde_json::from_slice(&fs::read(root.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(written["bootstrap_start_time"], "2026-01-02T03:03:05Z");
        assert_eq!((&written["bootstrap_use"], &written["connection_attempts"]), (&2.into(), &7.into()));
        let over = BootstrapState { since: None, attempts: 0, ..state };
        dir.keep_bootstrap_state(over);
        assert_eq!(DataDir::open(root.path()).unwrap().bootstrap_state(), over);
        let local = r#"{"bootstrap_use":2,"bootstrap_start_time":"2026-01-02T05:03:05.123+02:00"}"#;
        fs::write(root.path().join(FILE), local).unwrap();
        assert_eq!(DataDir::open(root.path()).unwrap().bootstrap_state().since, Some(1_767_322_985));
    }

    #[test]
    fn what_could_not_be_written_is_written_once_it_can_be() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(FILE);
        fs::write(&file, r#"{"svid":["b2xk"]}"#).unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        // A directory in the place of the temporary file: the new content cannot be written.
        let blocked = root.path().join(format!("{FILE}.{}.tmp", std::process::id()));
        fs::create_dir(&blocked).unwrap();
        assert!(dir.delete_svid().is_err() && dir.store_again().is_err());
        assert!(dir.svid().unwrap().is_none());
        fs::remove_dir(&blocked).unwrap();
        dir.store_again().unwrap();
        let written: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(written["svid"], serde_json::json!([]));
    }

    /// A disk that hangs must hang nobody who only looks, and nobody who changes something.
    #[test]
    fn a_write_that_takes_long_holds_up_nobody() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        let _hangs = dir.writing.lock().unwrap();
        assert!(dir.is_stored() && dir.svid().unwrap().is_none());
        dir.change(|data| data.reattestable = true);
        assert!(!dir.is_stored());
    }

    #[test]
    fn a_file_that_is_something_else_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(FILE), "{").unwrap();
        let error = DataDir::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("agent-data.json") && error.contains("move it away"), "{error}");
    }
}
