//! Whom to believe: authorities for signers' certificates, keys of transparency logs.
//!
//! Built in is what sigstore publishes for its public services (`public_good.json`, the `trusted_root.json` of its TUF
//! repository). Another one, or single parts as cosign's environment variables name them, comes from files.

mod authority;
mod document;
mod log_keys;
mod validity;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use vouchsafe_runtime::class::Class;

use authority::parsed;
use document::{TrustedRoot, decoded, period};
use validity::Period;

pub(crate) use authority::Authority;
pub(crate) use log_keys::{LogError, LogKeys, SIGNATURES};

/// Where roots come from instead of what is built in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustFiles {
    /// A `trusted_root.json`. Replaces everything.
    pub trusted_root: Option<PathBuf>,
    /// PEM: authorities, and those between them and signers (`SIGSTORE_ROOT_FILE`).
    pub root_certificates: Option<PathBuf>,
    /// PEM: the key of the transparency log (`SIGSTORE_REKOR_PUBLIC_KEY`).
    pub rekor_key: Option<PathBuf>,
    /// PEM: the key of the certificate log (`SIGSTORE_CT_LOG_PUBLIC_KEY_FILE`).
    pub ct_key: Option<PathBuf>,
}

/// Whom to believe.
#[derive(Debug)]
pub struct Trust {
    pub(crate) authorities: Vec<Authority>,
    /// Believed only when they lead to an authority.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    pub(crate) rekor: LogKeys,
    pub(crate) ct: LogKeys,
}

impl Trust {
    /// What sigstore's public services use.
    ///
    /// # Errors
    ///
    /// Never with the file that is built in; a test looks.
    pub fn public_good() -> Result<Self, TrustError> {
        let wrong = |problem| TrustError::Content { path: "(built in)".into(), problem };
        Self::parse(include_bytes!("public_good.json")).map_err(wrong)
    }

    /// What `files` say, and the rest as it is built in. Reads files: call it before serving.
    ///
    /// # Errors
    ///
    /// [`TrustError`] for the first file that cannot be used.
    pub fn load(files: &TrustFiles) -> Result<Self, TrustError> {
        let mut trust = match &files.trusted_root {
            Some(path) => Self::parse(&read(path)?).map_err(content(path))?,
            None => Self::public_good()?,
        };
        if let Some(path) = &files.root_certificates {
            (trust.authorities, trust.intermediates) = certificates(&read(path)?).map_err(content(path))?;
        }
        if let Some(path) = &files.rekor_key {
            trust.rekor = key(&read(path)?).map_err(content(path))?;
        }
        if let Some(path) = &files.ct_key {
            trust.ct = key(&read(path)?).map_err(content(path))?;
        }
        Ok(trust)
    }

    /// A `trusted_root.json` (`application/vnd.dev.sigstore.trustedroot+json`). Parts that are not used here, such as
    /// timestamp authorities, are not looked at.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, &'static str> {
        let root: TrustedRoot = serde_json::from_slice(json).map_err(|_| "it is no trusted_root.json")?;
        let mut trust = Self {
            authorities: Vec::new(),
            intermediates: Vec::new(),
            rekor: LogKeys::default(),
            ct: LogKeys::default(),
        };
        for authority in root.certificate_authorities {
            let used = period(authority.valid_for)?;
            let mut chain = authority.cert_chain.certificates;
            let last = chain.pop().ok_or("an authority has no certificate")?;
            trust.authorities.push(Authority::new(&decoded(&last.raw_bytes)?, used)?);
            for between in chain {
                trust.intermediates.push(decoded(&between.raw_bytes)?.into());
            }
        }
        for (logs, keys) in [(root.tlogs, &mut trust.rekor), (root.ctlogs, &mut trust.ct)] {
            for log in logs {
                keys.insert(decoded(&log.public_key.raw_bytes)?, period(log.public_key.valid_for)?)?;
            }
        }
        if trust.authorities.is_empty() { Err("it has no certificate authority") } else { Ok(trust) }
    }

    /// Whether a signature can be verified at all.
    pub(crate) fn suffices(&self, tlog: bool, sct: bool) -> Result<(), TrustError> {
        if tlog && self.rekor.is_empty() {
            return Err(TrustError::NoRekorKey);
        }
        if sct && self.ct.is_empty() {
            return Err(TrustError::NoCtKey);
        }
        Ok(())
    }
}

fn certificates(pem: &[u8]) -> Result<(Vec<Authority>, Vec<CertificateDer<'static>>), &'static str> {
    let (mut authorities, mut intermediates) = (Vec::new(), Vec::new());
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = der.map_err(|_| "it cannot be read as PEM")?;
        let issued_itself = {
            let certificate = parsed(&der)?;
            certificate.subject().as_raw() == certificate.issuer().as_raw()
        };
        if issued_itself {
            authorities.push(Authority::new(&der, Period::default())?);
        } else {
            intermediates.push(der);
        }
    }
    if authorities.is_empty() {
        Err("no certificate in it is that of a root")
    } else {
        Ok((authorities, intermediates))
    }
}

fn key(pem: &[u8]) -> Result<LogKeys, &'static str> {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "there is no PUBLIC KEY in it")?;
    let mut keys = LogKeys::default();
    keys.insert(spki.to_vec(), Period::default())?;
    Ok(keys)
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    let failed = |source| TrustError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 == MAX_FILE {
        return Err(content(path)("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

fn content(path: &Path) -> impl Fn(&'static str) -> TrustError {
    let path = path.to_owned();
    move |problem| TrustError::Content { path: path.clone(), problem }
}

/// Bytes of a file of roots; sigstore's has 7 KiB.
const MAX_FILE: u64 = 1024 * 1024;

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read sigstore's roots from {path}", path = path.display())]
    Read {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in a file is not what it should be.
    #[error("sigstore's roots in {path} cannot be used: {problem}", path = path.display())]
    Content {
        /// It.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// No entry could be verified.
    #[error("the trusted root has no transparency log: add one, or set ignore_tlog")]
    NoRekorKey,
    /// No certificate could be verified.
    #[error("the trusted root has no certificate transparency log: add one, or set ignore_sct")]
    NoCtKey,
}

impl TrustError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Read { .. } | Self::Content { .. } | Self::NoRekorKey | Self::NoCtKey => Class::Permanent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_can_be_read() {
        let trust = Trust::public_good().unwrap();
        assert_eq!((trust.authorities.len(), trust.intermediates.len()), (2, 1));
        let id = hex::decode("c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d").unwrap();
        assert!(trust.rekor.0.contains_key(&id), "rekor.sigstore.dev");
        assert_eq!(trust.ct.0.len(), 2);
        trust.suffices(true, true).unwrap();
    }

    #[test]
    fn an_authority_counts_while_it_was_in_use() {
        let trust = Trust::public_good().unwrap();
        let counted = |unix| trust.authorities.iter().filter(|authority| authority.counts_at(unix)).count();
        assert_eq!([1_600_000_000, 1_640_000_000, 1_660_000_000, 1_700_000_000].map(counted), [0, 1, 2, 1]);
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.json");
        let load = || {
            Trust::load(&TrustFiles { trusted_root: Some(path.clone()), ..TrustFiles::default() })
                .unwrap_err()
                .to_string()
        };
        assert!(load().contains("cannot read"), "{}", load());
        for (text, problem) in [
            ("{", "it is no trusted_root.json"),
            ("{}", "it has no certificate authority"),
            (
                r#"{"certificateAuthorities":[{"certChain":{"certificates":[]}}]}"#,
                "an authority has no certificate",
            ),
            (
                r#"{"certificateAuthorities":[{"certChain":{"certificates":[{"rawBytes":"AA=="}]}}]}"#,
                "is no certificate",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(load().contains(problem), "{}", load());
            assert!(load().contains("root.json"), "{}", load());
        }
        std::fs::write(&path, vec![b' '; 1024 * 1024]).unwrap();
        assert!(load().contains("longer than 1 MiB"), "{}", load());
    }

    #[test]
    fn a_root_without_logs_is_refused_where_they_are_asked_for() {
        let mut trust = Trust::public_good().unwrap();
        trust.ct = LogKeys::default();
        assert!(trust.suffices(true, false).is_ok());
        assert!(matches!(trust.suffices(true, true), Err(TrustError::NoCtKey)));
        trust.rekor = LogKeys::default();
        assert!(matches!(trust.suffices(true, true), Err(TrustError::NoRekorKey)));
    }
}
