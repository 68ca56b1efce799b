//! A CA whose certificate and key are in files.
//!
//! The files are read again for each authority that is certified, so that replacing them is all that a rotation of this
//! CA takes. While they are damaged (half replaced, for example), what was read last is used, with a warning; at start
//! there is nothing to fall back to, and the mistake is an error.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::class::Class;
use vouchsafe_types::bundle::{JwtAuthority, X509Authority};
use vouchsafe_types::certificate::{Certificate, CertificateError};
use vouchsafe_types::pem::{self, PemError};
use vouchsafe_types::trust_domain::TrustDomain;
use zeroize::Zeroizing;

use super::{MintedCa, Published, UpstreamAuthority, UpstreamError};
use crate::der::time;
use crate::key::{KeyError, PrivateKey};
use crate::signer::Signer;
use crate::x509::csr::{CsrError, VerifyProofOfPossession, parse_csr};
use crate::x509::downstream::{CaIssuer, CaRequest, certify};
use crate::x509::path::leads_to;
use crate::x509::svid::IssueError;

/// Files of an upstream CA.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskCa {
    /// Certificate of the CA, then its intermediates, PEM (`cert_file_path`).
    pub cert_file: PathBuf,
    /// Its private key, PEM (`key_file_path`).
    pub key_file: PathBuf,
    /// The roots that it leads to, PEM (`bundle_file_path`); none for a CA that certifies itself.
    pub bundle_file: Option<PathBuf>,
}

/// The upstream authority `disk`.
#[derive(Debug)]
pub struct Disk {
    files: DiskCa,
    trust_domain: TrustDomain,
    /// What was read last without a mistake.
    held: Mutex<Option<Arc<Loaded>>>,
}

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A CA as its files describe it.
#[derive(Debug)]
struct Loaded {
    key: PrivateKey,
    certificate: Certificate,
    /// The CA's certificate and its intermediates; empty if it is a root.
    chain: Vec<Arc<[u8]>>,
    roots: Vec<X509Authority>,
}

/// The files are not those of a CA.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DiskError {
    #[error(
        "upstream CA file {path} cannot be read: check that it exists and belongs to the user who runs this"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error("upstream CA file {path} has more than {MAX_FILE_BYTES} bytes: it is something else")]
    TooLarge { path: PathBuf },
    #[error("upstream CA file {path} is not PEM: {reason}")]
    Pem { path: PathBuf, reason: PemError },
    #[error("upstream CA file {path} has no CERTIFICATE block")]
    NoCertificate { path: PathBuf },
    #[error("upstream CA file {path}: certificate {number} is not usable: {reason}")]
    Certificate { path: PathBuf, number: usize, reason: CertificateError },
    #[error("upstream CA file {path}: its first certificate is not that of a CA")]
    NotCa { path: PathBuf },
    #[error("upstream CA key file {path} is not usable: {reason}")]
    Key { path: PathBuf, reason: KeyError },
    #[error(
        "upstream CA certificate {cert} and private key {key} do not match: one of the two files is another CA's"
    )]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error(
        "upstream CA file {cert} has {count} certificates: without bundle_file_path only a self-signed CA is supported, \
         alone in its file"
    )]
    SeveralWithoutBundle { cert: PathBuf, count: usize },
    #[error(
        "upstream CA certificate {cert} is not self-signed: name the file with its roots in bundle_file_path"
    )]
    NotSelfSigned { cert: PathBuf },
    #[error("upstream CA certificate {cert} cannot be validated with the roots in {bundle}")]
    OtherRoots { cert: PathBuf, bundle: PathBuf },
    #[error("the request of the new authority is refused: {0}")]
    Request(CsrError),
    #[error("the request of the new authority does not ask for {expected} alone")]
    RequestedId { expected: String },
    #[error("the upstream CA did not certify the new authority")]
    Certify(#[source] IssueError),
    #[error("the thread that reads the files was lost")]
    Thread,
}

impl DiskError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Request(_) | Self::RequestedId { .. } => Class::Bug,
            Self::Certify(error) => error.class(),
            Self::Thread => Class::Transient,
            _ => Class::Permanent,
        }
    }
}

impl Disk {
    /// Reads the files once, so that a mistake in them shows at start. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// [`DiskError`] names the file and the mistake.
    pub fn open(files: DiskCa, trust_domain: TrustDomain) -> Result<Self, DiskError> {
        let loaded = Loaded::read(&files)?;
        Ok(Self { files, trust_domain, held: Mutex::new(Some(Arc::new(loaded))) })
    }

    async fn reload(&self) -> Result<Arc<Loaded>, DiskError> {
        let files = self.files.clone();
        let read = blocking::run(move || Loaded::read(&files)).await;
        let read = read.map_err(|_| DiskError::Thread).flatten();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, &*held) {
            (Ok(loaded), _) => {
                let loaded = Arc::new(loaded);
                *held = Some(Arc::clone(&loaded));
                Ok(loaded)
            }
            (Err(error), Some(held)) => {
                tracing::warn!(%error, "Upstream CA files are damaged; using what was read before");
                Ok(Arc::clone(held))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn mint(&self, csr: &[u8], ttl: Duration, now: SystemTime) -> Result<MintedCa, DiskError> {
        let loaded = self.reload().await?;
        let csr = parse_csr(csr, VerifyProofOfPossession::Yes).map_err(DiskError::Request)?;
        let uri = self.trust_domain.id_string();
        if csr.uris != [uri.as_str()] {
            return Err(DiskError::RequestedId { expected: uri });
        }
        let id = &loaded.certificate.subject_key_id;
        let issuer = CaIssuer {
            signer: &loaded.key,
            subject_raw: &loaded.certificate.subject_der,
            subject_key_id: (!id.is_empty()).then_some(id.as_slice()),
            not_after: loaded.certificate.not_after,
        };
        let request = CaRequest::of(&csr, &uri, ttl, time::unix(now));
        let mut chain = certify(&issuer, &request).await.map_err(DiskError::Certify)?.chain;
        chain.extend(loaded.chain.iter().cloned());
        Ok(MintedCa { chain, roots: loaded.roots.clone() })
    }
}

#[async_trait]
impl UpstreamAuthority for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<MintedCa, UpstreamError> {
        self.mint(csr, ttl, now).await.map_err(UpstreamError::Disk)
    }

    async fn publish_jwt_key(&self, _: &JwtAuthority) -> Result<Published, UpstreamError> {
        Ok(Published::Unsupported)
    }
}

impl Loaded {
    fn read(files: &DiskCa) -> Result<Self, DiskError> {
        let DiskCa { cert_file, key_file, bundle_file } = files;
        let key = PrivateKey::from_pem(&read_file(key_file)?)
            .map_err(|reason| DiskError::Key { path: key_file.clone(), reason })?;
        let certificates = read_certificates(cert_file)?;
        let [(ca_der, certificate), ..] = certificates.as_slice() else {
            return Err(DiskError::NoCertificate { path: cert_file.clone() });
        };
        if certificate.public_key_der != key.public_key_der() {
            return Err(DiskError::Mismatch { cert: cert_file.clone(), key: key_file.clone() });
        }
        if !certificate.is_ca {
            return Err(DiskError::NotCa { path: cert_file.clone() });
        }
        let certificate = certificate.clone();
        let ders: Vec<_> = certificates.iter().map(|(der, _)| Arc::clone(der)).collect();
        let root = |der: &Arc<[u8]>| X509Authority { der: Arc::clone(der), tainted: false };
        let Some(bundle_file) = bundle_file else {
            if ders.len() > 1 {
                return Err(DiskError::SeveralWithoutBundle { cert: cert_file.clone(), count: ders.len() });
            }
            if certificate.issuer_der != certificate.subject_der {
                return Err(DiskError::NotSelfSigned { cert: cert_file.clone() });
            }
            let roots = vec![root(ca_der)];
            return Ok(Self { key, certificate, chain: Vec::new(), roots });
        };
        let roots: Vec<_> = read_certificates(bundle_file)?.into_iter().map(|(der, _)| der).collect();
        if roots.is_empty() {
            return Err(DiskError::NoCertificate { path: bundle_file.clone() });
        }
        if !leads_to(&ders, &roots) {
            return Err(DiskError::OtherRoots { cert: cert_file.clone(), bundle: bundle_file.clone() });
        }
        Ok(Self { key, certificate, chain: ders, roots: roots.iter().map(root).collect() })
    }
}

type Certificates = Vec<(Arc<[u8]>, Certificate)>;

fn read_certificates(path: &Path) -> Result<Certificates, DiskError> {
    let blocks =
        pem::parse(&read_file(path)?).map_err(|reason| DiskError::Pem { path: path.to_owned(), reason })?;
    let ders = blocks.into_iter().filter(|block| block.label == "CERTIFICATE").map(|block| block.der);
    ders.enumerate()
        .map(|(index, der)| {
            let read = Certificate::parse(&der);
            let refused =
                |reason| DiskError::Certificate { path: path.to_owned(), number: index + 1, reason };
            Ok((Arc::from(der.as_slice()), read.map_err(refused)?))
        })
        .collect()
}

/// Wiped when dropped, because one of the files is a key.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, DiskError> {
    let failed = |source| DiskError::Read { path: path.to_owned(), source };
    let mut text = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(DiskError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
