//! Keys in one JSON file, the reference's `keys.json`.
//!
//! The file is written whole to a temporary file beside it (mode 0600), synced, renamed over the old one, and
//! the directory is synced: a crash leaves the old file or the new one. A new key is used only after that. One
//! more key, [`SEAL_KEY_ID`], is kept among the others and is the root of the keys that seal this part's state
//! files; it is an ordinary PKCS #8 entry, so the reference still reads the file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use vouchsafe_runtime::blocking;
use zeroize::{Zeroize, Zeroizing};

use super::{KeyManager, KeyManagerError, Keys, SEAL_KEY_LEN, admit, generate, listed};
use crate::key::{KeyType, PrivateKey};
use crate::signer::Signer;

/// Name of the key from which seal keys are derived.
const SEAL_KEY_ID: &str = "vouchsafe-seal";

/// Largest keys file that is read: [`super::MAX_KEYS`] RSA-4096 keys fit.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Keeps keys in a file.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    keys: RwLock<Keys>,
    /// Held while the file is written, so that writers do not lose each other's keys.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

impl Disk {
    /// Reads the file, or makes it with the seal key alone if there is none. The directory must exist.
    /// Blocks on the file system.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError::Read`], [`KeyManagerError::TooLarge`] and [`KeyManagerError::Corrupt`] name the file,
    /// which is left as it is; [`KeyManagerError::Write`] if the directory cannot be written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyManagerError> {
        let path = path.into();
        let mut keys = load(&path)?;
        if !keys.contains_key(SEAL_KEY_ID) {
            let generated = PrivateKey::generate(KeyType::EcP256);
            let id = || SEAL_KEY_ID.to_owned();
            keys.insert(id(), generated.map_err(|source| KeyManagerError::Generate { id: id(), source })?);
            save(&path, &keys)?;
        }
        Ok(Self { path, keys: RwLock::new(keys), writing: tokio::sync::Mutex::new(()) })
    }

    fn snapshot(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl KeyManager for Disk {
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let key = generate(id, key_type).await?;
        let _writing = self.writing.lock().await;
        let mut keys = self.snapshot();
        admit(&keys, id)?;
        keys.insert(id.to_owned(), key.clone());
        let path = self.path.clone();
        let written = blocking::run(move || save(&path, &keys).map(|()| keys)).await;
        let keys = written.map_err(|_| KeyManagerError::Thread)??;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(Arc::new(key))
    }

    async fn get(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError> {
        Ok(self.private_key(id).map(|key| Arc::new(key) as Arc<dyn Signer>))
    }

    async fn list(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, KeyManagerError> {
        let mut keys = self.snapshot();
        keys.remove(SEAL_KEY_ID);
        Ok(listed(&keys))
    }

    fn seal_key(&self, label: &str) -> Option<Zeroizing<[u8; SEAL_KEY_LEN]>> {
        // The secret number, not its encoding: the reference may rewrite the file with another PKCS #8 form.
        let secret = self.private_key(SEAL_KEY_ID)?.scalar()?;
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"vouchsafe seal").extract(&secret);
        let info = [label.as_bytes()];
        let output = root.expand(&info, hkdf::HKDF_SHA256).ok()?;
        let mut key = Zeroizing::new([0; SEAL_KEY_LEN]);
        output.fill(key.as_mut()).ok()?;
        Some(key)
    }

    fn private_key(&self, id: &str) -> Option<PrivateKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

fn load(path: &Path) -> Result<Keys, KeyManagerError> {
    let unreadable = |source| KeyManagerError::Read { path: path.to_owned(), source };
    let corrupt = |reason| KeyManagerError::Corrupt { path: path.to_owned(), reason };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Keys::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(KeyManagerError::TooLarge { path: path.to_owned() });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "Keys file can be read by other users: its mode should be 0600");
    }
    let mut text = Zeroizing::new(Vec::new());
    Read::by_ref(&mut file).take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(unreadable)?;
    // The parser's own message may quote the input, which is secret: say only where it stopped.
    let parsed: Contents = serde_json::from_slice(&text)
        .map_err(|error| corrupt(format!("no valid JSON of keys at line {}", error.line())))?;
    let mut keys = Keys::new();
    for (id, mut encoded) in parsed.keys {
        let der = STANDARD.decode(&encoded).map(Zeroizing::new);
        encoded.zeroize();
        let der = der.map_err(|_| corrupt(format!("key {id:?} is not base64")))?;
        let key = PrivateKey::from_pkcs8(&der).map_err(|error| corrupt(format!("key {id:?}: {error}")))?;
        admit(&keys, &id)?;
        keys.insert(id, key);
    }
    Ok(keys)
}

fn save(path: &Path, keys: &Keys) -> Result<(), KeyManagerError> {
    let failed = |source| KeyManagerError::Write { path: path.to_owned(), source };
    let text = encode(path, keys)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".keys-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(&text).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn encode(path: &Path, keys: &Keys) -> Result<Zeroizing<Vec<u8>>, KeyManagerError> {
    let mut contents = Contents { keys: BTreeMap::new() };
    for (id, key) in keys {
        let der = key.pkcs8().map_err(|source| KeyManagerError::Generate { id: id.clone(), source })?;
        contents.keys.insert(id.clone(), STANDARD.encode(der.as_slice()));
    }
    // Room for all of it at once: a buffer that grows would leave copies of keys behind.
    let room = contents.keys.iter().map(|(id, key)| 6 * id.len() + key.len() + 16).sum::<usize>() + 64;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut *text, formatter);
    let written = contents.serialize(&mut serializer);
    contents.keys.values_mut().for_each(Zeroize::zeroize);
    let failed =
        |error| KeyManagerError::Write { path: path.to_owned(), source: std::io::Error::other(error) };
    written.map_err(failed)?;
    Ok(text)
}
