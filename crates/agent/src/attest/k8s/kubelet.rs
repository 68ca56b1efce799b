//! The kubelet of this node, asked for its Pods.
//!
//! It is asked as SPIRE asks it: `GET /pods` on the secure port with a bearer token or a client certificate, or on the
//! read-only port. Token and certificates are read from their files for each request, so what replaces them counts at
//! once; the TLS configuration is made anew only when a file has changed. The answer is read as a stream ([`super::scanner`]),
//! so a list of any size costs one Pod at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, timeout_at};
use vouchsafe_identity::serving::CertificateCell;
use vouchsafe_identity::web::{Expected, private_client_config};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::fetch::{self, Bounds, Head, Reader, Refusal, Target};
use zeroize::Zeroizing;

use super::index::{Builder, Index};
use super::scanner::Scanner;

pub use self::error::KubeletError;

mod error;

/// Where the kubelet is, and how it and the agent know each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubeletConfig {
    /// The port.
    pub port: u16,
    /// How it is asked on the secure port; `None`: over plain HTTP on this machine.
    pub secure: Option<SecureConfig>,
}

/// How a kubelet is asked on its secure port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecureConfig {
    /// The node's name, which its certificate must have; `None`: it is asked at 127.0.0.1, under any name.
    pub node_name: Option<String>,
    /// Certificates of the authorities that may issue its certificate; `None`: it may be anybody.
    pub ca_path: Option<PathBuf>,
    /// How the agent shows who it is.
    pub credentials: Credentials,
}

/// How an agent shows the kubelet who it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Credentials {
    /// Not at all.
    Anonymous,
    /// With the token in this file.
    Token(PathBuf),
    /// With a certificate.
    Certificate {
        /// The chain, leaf first.
        certificate_path: PathBuf,
        /// Its key.
        private_key_path: PathBuf,
    },
}

/// The kubelet.
#[derive(Debug)]
pub struct Kubelet {
    config: KubeletConfig,
    clock: Clock,
    bounds: Bounds,
    made: Mutex<Option<Made>>,
    /// One thread reads the files, so that a file that hangs takes one thread.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What it reads now.
    reading: Mutex<Option<(&'static str, PathBuf)>>,
}

/// What TLS is spoken with, and what that was made of.
#[derive(Debug)]
struct Made {
    files: Files,
    target: Target,
}

/// What was read.
#[derive(Default, Eq, PartialEq)]
struct Files {
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    private_key: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

/// A list, and what was left out of it.
#[derive(Debug)]
pub struct List {
    /// The Pods.
    pub index: Index,
    /// How many Pods could not be understood, and why the last of them.
    pub unreadable: Option<(usize, String)>,
}

impl Kubelet {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(config: KubeletConfig, clock: Clock) -> Self {
        let bounds = Bounds { deadline: DEADLINE, body: MAX_BODY };
        Self {
            config,
            clock,
            bounds,
            made: Mutex::default(),
            turn: Arc::default(),
            reading: Mutex::default(),
        }
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        let named = self.config.secure.as_ref().and_then(|secure| secure.node_name.as_deref());
        let host = named.unwrap_or("127.0.0.1");
        let port = self.config.port;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The Pods now. What did not change since `previous` is shared with it.
    ///
    /// # Errors
    ///
    /// [`KubeletError`]; a retry is sensible.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list(self: &Arc<Self>, previous: Arc<Index>) -> Result<List, KubeletError> {
        let end = Instant::now() + self.bounds.deadline;
        let target = timeout_at(end, self.read_target()).await.map_err(|_| self.files_hang())??;
        let mut pods = Pods {
            status: StatusCode::OK,
            scanner: Scanner::default(),
            builder: Builder::new(previous),
            refusal: Vec::new(),
        };
        let bounds = Bounds { deadline: end.duration_since(Instant::now()), ..self.bounds };
        let asked = fetch::read(&target, bounds, &mut pods).await;
        if pods.status != StatusCode::OK {
            let said = String::from_utf8_lossy(&pods.refusal).trim().to_owned();
            return Err(KubeletError::Status { status: pods.status, said });
        }
        asked.map_err(KubeletError::of_fetch)?;
        pods.scanner.finish()?;
        let mut unreadable = pods.builder.unreadable.take();
        if pods.scanner.oversized > 0 {
            let count = unreadable.map_or(0, |(count, _)| count) + pods.scanner.oversized;
            unreadable = Some((count, "it is too large".to_owned()));
        }
        Ok(List { index: pods.builder.finish(), unreadable })
    }

    async fn read_target(self: &Arc<Self>) -> Result<Target, KubeletError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let own = Arc::clone(self);
        let read = move || {
            let _turn = turn;
            own.target()
        };
        blocking::run(read).await.map_err(|error| KubeletError::Thread(error.to_string()))?
    }

    /// The file is on a mount that does not answer.
    fn files_hang(&self) -> KubeletError {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match &*reading {
            Some((what, path)) => {
                let source = std::io::ErrorKind::TimedOut.into();
                KubeletError::File { what, path: path.clone(), source }
            }
            None => KubeletError::Thread("no thread had time for it".to_owned()),
        }
    }

    fn read(&self, what: &'static str, path: &Path) -> Result<Vec<u8>, KubeletError> {
        let reads = |now| *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = now;
        reads(Some((what, path.to_owned())));
        let bytes = read(what, path);
        reads(None);
        bytes
    }

    /// Whom to ask, with what is in the files now. Blocks.
    fn target(&self) -> Result<Target, KubeletError> {
        let place = self.place();
        let Some(secure) = &self.config.secure else {
            return Target::plain(&format!("http://{place}/pods")).map_err(KubeletError::of_fetch);
        };
        let mut files = Files::default();
        if let Some(path) = &secure.ca_path {
            files.ca = Some(self.read("kubelet CA", path)?);
        }
        let mut token = None;
        match &secure.credentials {
            Credentials::Anonymous => {}
            Credentials::Token(path) => token = Some(Zeroizing::new(self.read("token", path)?)),
            Credentials::Certificate { certificate_path, private_key_path } => {
                files.certificate = Some(self.read("certificate", certificate_path)?);
                files.private_key = Some(Zeroizing::new(self.read("private key", private_key_path)?));
            }
        }
        let target = self.over_tls(secure, files)?;
        let Some(token) = token else { return Ok(target) };
        let token = str::from_utf8(&token).map_err(|_| KubeletError::Token)?.trim();
        if token.is_empty() { Ok(target) } else { target.with_bearer(token).map_err(KubeletError::of_fetch) }
    }

    fn over_tls(&self, secure: &SecureConfig, files: Files) -> Result<Target, KubeletError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| made.files == files) {
            return Ok(made.target.clone());
        }
        let own = match (&files.certificate, &files.private_key) {
            (Some(chain), Some(key)) => Some(
                CertificateCell::from_pem(chain, key).map_err(|source| KubeletError::KeyPair { source })?,
            ),
            _ => None,
        };
        let expected = match (&files.ca, &secure.node_name) {
            (None, _) => Expected::Nothing,
            (Some(ca), None) => Expected::Chain(ca),
            (Some(ca), Some(_)) => Expected::Name(ca),
        };
        let config = private_client_config(expected, own.as_ref(), self.clock.clone())
            .map_err(|source| KubeletError::Authorities { source })?;
        let target = Target::https(&format!("https://{}/pods", self.place()), &config);
        let target = target.map_err(KubeletError::of_fetch)?;
        *made = Some(Made { files, target: target.clone() });
        Ok(target)
    }
}

/// Reads an answer.
struct Pods {
    status: StatusCode,
    scanner: Scanner,
    builder: Builder,
    /// The beginning of what is said instead of a list.
    refusal: Vec<u8>,
}

impl Reader for Pods {
    fn begin(&mut self, head: &Head) {
        self.status = head.status;
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.status == StatusCode::OK {
            return Ok(self.scanner.scan(bytes, &mut self.builder)?);
        }
        let room = MAX_REFUSAL - self.refusal.len();
        self.refusal.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.refusal.len() == MAX_REFUSAL { Err("no more of it is wanted".into()) } else { Ok(()) }
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, KubeletError> {
    use std::io::Read as _;
    let unreadable = |source| KubeletError::File { what, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

/// From the first step to the last byte of a list, as in SPIRE.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a list. A longer one is a failure. Memory is not what it costs, so it is far above what a few of the largest
/// Pods of one tenant can reach.
pub const MAX_BODY: usize = 1024 * 1024 * 1024;

/// Bytes of what is said instead of a list that are kept.
const MAX_REFUSAL: usize = 256;

/// Bytes of a token or of certificates. A longer file is refused.
const MAX_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
