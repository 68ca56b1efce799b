//! One value in one file: encrypted, bounded, replaced atomically.
//!
//! Layout: `magic[8] format[1] nonce[12] header_len[2, big-endian] header body+tag[16]`. The header (postcard: kind,
//! version, time) is readable but authenticated with the body as associated data; the body is the postcard form of the
//! value under AES-256-GCM. A file that is short, damaged, sealed under another key, of another kind or of a newer
//! format is refused by name and nothing of it is used.
//!
//! A save writes a new file beside the old one, flushes it, renames it over the old one and flushes the directory: a
//! crash at any point leaves the old content or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::version::Version;

/// A 256-bit key for sealed files. Never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SealKey([u8; 32]);

/// A place on disk for one value. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SealedFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    key: SealKey,
    max_bytes: u64,
    kind: &'static str,
    /// The newest version written or restored; an older one is neither written nor loaded after it.
    newest: Mutex<Option<Version>>,
}

/// What a file held.
#[derive(Clone, Debug)]
pub struct Restored<T> {
    /// Its place in the history of its source.
    pub version: Version,
    /// When the source had last confirmed it.
    pub confirmed_at: SystemTime,
    /// The value.
    pub value: T,
}

/// Why a value was not written. The file still holds what it held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The disk or the quota is full.
    #[error("no space left to write {path}; free some, and the next save succeeds")]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The value is larger than the file may be.
    #[error("{path} would have {size} bytes, more than the allowed {max}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size if it were written.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// A newer version is already there.
    #[error("{path} already holds version {held:?}, newer than {offered:?}")]
    Older {
        /// The file.
        path: PathBuf,
        /// What it holds.
        held: Version,
        /// What was to be written.
        offered: Version,
    },
    /// The system refused.
    #[error("cannot write {path}; check that its directory exists and is writable by this user")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The value has no serialized form: a mistake in this program.
    #[error("cannot encode the value for {path}: {detail}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        detail: String,
    },
}

/// Why a file was not loaded. Move it away to start without it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Too short to be whole.
    #[error("{path} is torn: it ends after {size} bytes; it was not written by this program to the end")]
    Torn {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// It does not begin like a sealed file.
    #[error("{path} is not a sealed state file")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer program.
    #[error(
        "{path} has format {format}, and this program reads up to {FORMAT}; upgrade, or move the file away"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format number.
        format: u8,
    },
    /// Its seal does not match.
    #[error("{path} is damaged, or was sealed under another key (was the key file replaced?)")]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{path} holds {found:?}, not {expected:?}")]
    ForeignKind {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// It is larger than it may be.
    #[error("{path} has {size} bytes, more than the allowed {max}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// It is older than what this process has already held.
    #[error("{path} holds version {found:?}, older than {held:?} which was held before")]
    Older {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: Version,
        /// What was held.
        held: Version,
    },
    /// The system refused.
    #[error("cannot read {path}; check its owner and mode (it must be readable by this user)")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SealKey {
    /// Wraps key material. It must come from a cryptographic source.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &self.0).ok().map(LessSafeKey::new)
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(<redacted>)")
    }
}

impl SealedFile {
    /// A file at `path` for values of `kind`, at most `max_bytes` long. Touches nothing yet.
    #[must_use]
    pub fn open(path: impl Into<PathBuf>, key: SealKey, max_bytes: u64, kind: &'static str) -> Self {
        let inner = Inner { path: path.into(), key, max_bytes, kind, newest: Mutex::new(None) };
        Self { inner: Arc::new(inner) }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Replaces the content. Blocks on the disk: call it where blocking is allowed.
    ///
    /// # Errors
    ///
    /// [`SaveError`]; the old content is still there. `Full` and `Io` are worth a retry.
    pub fn save<T: Serialize>(
        &self,
        version: Version,
        confirmed_at: SystemTime,
        value: &T,
    ) -> Result<(), SaveError> {
        let inner = &*self.inner;
        let mut newest = inner.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = *newest
            && held.epoch == version.epoch
            && held.position > version.position
        {
            return Err(SaveError::Older { path: inner.path.clone(), held, offered: version });
        }
        let sealed = inner.seal(version, confirmed_at, value)?;
        replace(&inner.path, &sealed).map_err(|source| inner.save_failed(source))?;
        *newest = Some(version);
        Ok(())
    }

    /// Takes the file away, for an owner who must not come back to what it held. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// What the system said. A file that is not there is none.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.inner.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Loads the content; `None` when there is no file. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] says what is wrong with the file. Nothing of it is returned; retrying does not help.
    pub fn restore<T: DeserializeOwned>(&self) -> Result<Option<Restored<T>>, RestoreError> {
        let inner = &*self.inner;
        remove_leftovers(&inner.path);
        let Some(mut sealed) = inner.read()? else { return Ok(None) };
        let restored: Restored<T> = inner.unseal(&mut sealed)?;
        let mut newest = inner.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = *newest
            && held.epoch == restored.version.epoch
            && held.position > restored.version.position
        {
            return Err(RestoreError::Older { path: inner.path.clone(), found: restored.version, held });
        }
        *newest = Some(restored.version);
        Ok(Some(restored))
    }
}

impl Inner {
    fn seal<T: Serialize>(
        &self,
        version: Version,
        confirmed_at: SystemTime,
        value: &T,
    ) -> Result<Vec<u8>, SaveError> {
        let encode = |detail: String| SaveError::Encode { path: self.path.clone(), detail };
        let since_epoch = confirmed_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let header = Header { kind: self.kind.to_owned(), version, confirmed_at: since_epoch };
        let header = postcard::to_allocvec(&header).map_err(|e| encode(e.to_string()))?;
        let header_len = u16::try_from(header.len()).map_err(|e| encode(e.to_string()))?;
        let length = postcard::experimental::serialized_size(value).map_err(|e| encode(e.to_string()))?;
        let whole = FIXED + header.len() + length + AES_256_GCM.tag_len();
        let (size, max) = (whole as u64, self.max_bytes);
        if size > max {
            return Err(SaveError::TooLarge { path: self.path.clone(), size, max });
        }
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|e| encode(e.to_string()))?;
        let mut sealed = Vec::with_capacity(whole);
        sealed.extend_from_slice(MAGIC);
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&header_len.to_be_bytes());
        sealed.extend_from_slice(&header);
        // As long as it will be from the start: growing would leave copies of the value behind, unwiped.
        let mut body = Zeroizing::new(vec![0; length]);
        postcard::to_slice(value, &mut body).map_err(|e| encode(e.to_string()))?;
        let cipher = self.key.cipher().ok_or_else(|| encode("unusable key".into()))?;
        let tag = cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&sealed), &mut body)
            .map_err(|e| encode(e.to_string()))?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, RestoreError> {
        let unreadable = |source| RestoreError::Unreadable { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(unreadable)?,
        };
        let size = file.metadata().map_err(unreadable)?.len();
        if size > self.max_bytes {
            return Err(RestoreError::TooLarge { path: self.path.clone(), size, max: self.max_bytes });
        }
        let mut sealed = Zeroizing::new(Vec::new());
        file.take(self.max_bytes).read_to_end(&mut sealed).map_err(unreadable)?;
        Ok(Some(sealed))
    }

    fn unseal<T: DeserializeOwned>(&self, sealed: &mut [u8]) -> Result<Restored<T>, RestoreError> {
        let path = || self.path.clone();
        let size = sealed.len() as u64;
        if !sealed.starts_with(MAGIC) {
            let torn = sealed.len() < MAGIC.len() && MAGIC.starts_with(sealed);
            return Err(if torn {
                RestoreError::Torn { path: path(), size }
            } else {
                RestoreError::Foreign { path: path() }
            });
        }
        if sealed.len() < FIXED {
            return Err(RestoreError::Torn { path: path(), size });
        }
        let format = sealed[MAGIC.len()];
        if format != FORMAT {
            return Err(if format > FORMAT {
                RestoreError::NewerFormat { path: path(), format }
            } else {
                RestoreError::Corrupt { path: path() }
            });
        }
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&sealed[NONCE_AT..NONCE_AT + NONCE_LEN]);
        let header_len = usize::from(u16::from_be_bytes([sealed[FIXED - 2], sealed[FIXED - 1]]));
        let body_at = FIXED + header_len;
        if sealed.len() < body_at + AES_256_GCM.tag_len() {
            return Err(RestoreError::Torn { path: path(), size });
        }
        let (prefix, body) = sealed.split_at_mut(body_at);
        let corrupt = || RestoreError::Corrupt { path: path() };
        let cipher = self.key.cipher().ok_or_else(corrupt)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let body = cipher.open_in_place(nonce, Aad::from(&*prefix), body).map_err(|_| corrupt())?;
        let header: Header = postcard::from_bytes(&prefix[FIXED..]).map_err(|_| corrupt())?;
        if header.kind != self.kind {
            return Err(RestoreError::ForeignKind { path: path(), found: header.kind, expected: self.kind });
        }
        let confirmed_at = SystemTime::UNIX_EPOCH.checked_add(header.confirmed_at).ok_or_else(corrupt)?;
        let value = postcard::from_bytes(body).map_err(|_| corrupt())?;
        Ok(Restored { version: header.version, confirmed_at, value })
    }

    fn save_failed(&self, source: io::Error) -> SaveError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                SaveError::Full { path, source }
            }
            _ => SaveError::Io { path, source },
        }
    }
}

#[derive(Deserialize, Serialize)]
struct Header {
    kind: String,
    version: Version,
    confirmed_at: Duration,
}

const MAGIC: &[u8; 8] = b"vouchsfe";
const FORMAT: u8 = 1;
const NONCE_AT: usize = MAGIC.len() + 1;
/// Bytes before the header.
const FIXED: usize = NONCE_AT + NONCE_LEN + 2;

/// Writes `content` to `path`, wholly or not at all, readable by this user alone.
///
/// # Errors
///
/// What the system said; a partly written temporary file is removed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let written = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // Best effort: what is left of it is overwritten by the next save.
        drop(fs::remove_file(&temporary));
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Removes what writers of `path` left that ended in the middle of [`replace`], under whatever process number. Nobody
/// may be writing it meanwhile. Best effort: at worst they take up space.
fn remove_leftovers(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    let is_leftover = |file: &str| {
        let process = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".tmp"));
        process.is_some_and(|process| process.parse::<u32>().is_ok())
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_leftover) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
