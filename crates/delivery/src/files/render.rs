//! Answers of the Workload API to contents of files. Pure.
//!
//! An answer that breaks a rule is refused as a whole: the files on disk are better than half of a new set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use vouchsafe_proto::workload::{JwtBundlesResponse, JwtsvidResponse, X509svid, X509svidResponse};
use vouchsafe_types::bundle::format::{FormatError, from_jwks};
use vouchsafe_types::certificate::{self, Certificate, CertificateError};
use vouchsafe_types::jwt_svid::{JwtSvid, JwtSvidError};
use vouchsafe_types::pem;
use vouchsafe_types::trust_domain::TrustDomain;
use vouchsafe_types::x509_svid::{X509Svid, X509SvidError};
use zeroize::Zeroizing;

use super::settings::{JwtBundleFile, JwtSvidFile, X509Files};

/// A file to be.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// Its mode.
    pub mode: u32,
    /// All of it.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("name", &self.name).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Files that belong together, in the order in which they are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The files.
    pub files: Vec<File>,
    /// Whom they name. Empty for bundles.
    pub spiffe_id: String,
    /// When what they hold is valid. `None` for bundles.
    pub validity: Option<Validity>,
}

/// From and until when, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub from: i64,
    /// Last second.
    pub until: i64,
}

/// The files of the identity that `hint` names, or of the first.
///
/// # Errors
///
/// No such identity, or one that nobody could use.
pub fn x509(
    response: &X509svidResponse,
    files: &X509Files,
    hint: &str,
    now: i64,
) -> Result<Rendered, RenderError> {
    let chosen = choose(&response.svids, hint, |svid| &svid.hint)?;
    let chain = certificate::split(&chosen.x509_svid).map_err(RenderError::Chain)?;
    let svid = X509Svid::parse(chain).map_err(RenderError::Svid)?;
    check_key(&svid, chosen)?;
    let own = svid.id.trust_domain();
    let mut authorities = certificate::split(&chosen.bundle).map_err(RenderError::Bundle)?;
    let mut certificates = svid.chain.clone();
    if files.intermediates_in_bundle {
        authorities.extend(certificates.drain(1..));
    }
    if files.federated {
        for (_, bundle) in of_others(response, &own) {
            authorities.extend(certificate::split(bundle).map_err(RenderError::Bundle)?);
        }
    }
    if files.omit_expired {
        for list in [&mut certificates, &mut authorities] {
            // What cannot be read was refused above or is the peer's to judge.
            list.retain(|der| Certificate::parse(der).is_ok_and(|found| found.not_after >= now));
        }
    }
    let mut key = Zeroizing::new(String::with_capacity(2 * chosen.x509_svid_key.len() + 128));
    pem::append(&mut key, "PRIVATE KEY", &chosen.x509_svid_key);
    let public = |name: &str, list: &[Arc<[u8]>]| {
        let mut text = String::new();
        list.iter().for_each(|der| pem::append(&mut text, "CERTIFICATE", der));
        File {
            name: name.to_owned(),
            mode: files.certificate_mode,
            content: Zeroizing::new(text.into_bytes()),
        }
    };
    let key = Zeroizing::new(key.as_bytes().to_vec());
    Ok(Rendered {
        files: vec![
            File { name: files.key.clone(), mode: files.key_mode, content: key },
            public(&files.certificates, &certificates),
            public(&files.bundle, &authorities),
        ],
        spiffe_id: svid.id.to_string(),
        validity: Some(Validity { from: svid.not_before, until: svid.not_after }),
    })
}

/// Bundles of other trust domains than `own`, by name: those of the answer, and those of its other identities.
fn of_others<'a>(response: &'a X509svidResponse, own: &TrustDomain) -> BTreeMap<String, &'a [u8]> {
    let mut others: BTreeMap<String, &[u8]> = BTreeMap::new();
    for (id, bundle) in &response.federated_bundles {
        others.insert(id.trim_end_matches('/').to_owned(), bundle);
    }
    for svid in &response.svids {
        let trust_domain = svid.spiffe_id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
        if let Some(name) = trust_domain {
            others.insert(format!("spiffe://{name}"), &svid.bundle);
        }
    }
    others.remove(&own.id_string());
    others
}

/// The key must be the certificate's: a pair that does not match stops a program that reads it.
fn check_key(svid: &X509Svid, given: &X509svid) -> Result<(), RenderError> {
    let key = PrivateKeyDer::Pkcs8(given.x509_svid_key.to_vec().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_| RenderError::Key)?;
    let chain = svid.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    CertifiedKey::new(chain, key).keys_match().map_err(|_| RenderError::Key)
}

/// The file of all JWT bundles that the workload may have: a JSON object from trust domain to its JWK set in base64.
///
/// # Errors
///
/// A bundle that is none.
pub fn jwt_bundles(response: &JwtBundlesResponse, file: &JwtBundleFile) -> Result<Rendered, RenderError> {
    let mut bundles = BTreeMap::new();
    for (id, jwks) in &response.bundles {
        let name = id.strip_prefix("spiffe://").unwrap_or(id).trim_end_matches('/');
        let refused = |source| RenderError::Jwks { trust_domain: name.to_owned(), source };
        let trust_domain = TrustDomain::parse(name)
            .map_err(|error| RenderError::TrustDomain { given: id.clone(), reason: error.to_string() })?;
        from_jwks(&trust_domain, jwks).map_err(refused)?;
        // Without the agent's spaces, as spiffe-helper has it.
        let plain = serde_json::from_slice::<Value>(jwks).and_then(|jwks| serde_json::to_vec(&jwks));
        let plain = plain.map_err(|source| RenderError::Json { source })?;
        bundles.insert(trust_domain.as_str().to_owned(), STANDARD.encode(plain));
    }
    let content = serde_json::to_vec(&bundles).map_err(|source| RenderError::Json { source })?;
    let file = File { name: file.name.clone(), mode: file.mode, content: Zeroizing::new(content) };
    Ok(Rendered { files: vec![file], spiffe_id: String::new(), validity: None })
}

/// The file of the token that `hint` names, or of the first.
///
/// # Errors
///
/// No such token, or one that is not for the audience.
pub fn jwt_svid(response: &JwtsvidResponse, file: &JwtSvidFile, hint: &str) -> Result<Rendered, RenderError> {
    let chosen = choose(&response.svids, hint, |svid| &svid.hint)?;
    let token = JwtSvid::parse_unverified(&chosen.svid).map_err(RenderError::Token)?;
    token.check_audience(&file.audience).map_err(RenderError::Token)?;
    let content = Zeroizing::new(chosen.svid.as_bytes().to_vec());
    Ok(Rendered {
        files: vec![File { name: file.name.clone(), mode: file.mode, content }],
        spiffe_id: chosen.spiffe_id.clone(),
        validity: Some(Validity { from: token.issued_at.unwrap_or_default(), until: token.expires_at }),
    })
}

fn choose<'a, T>(given: &'a [T], hint: &str, of: impl Fn(&T) -> &str) -> Result<&'a T, RenderError> {
    if hint.is_empty() {
        return given.first().ok_or(RenderError::Nothing);
    }
    let found = given.iter().find(|svid| of(svid) == hint);
    found.ok_or_else(|| RenderError::Hint { hint: hint.to_owned(), count: given.len() })
}

/// Why an answer is not written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// No identity in it.
    #[error("the Workload API's answer has no identity")]
    Nothing,
    /// None with the hint.
    #[error(
        "none of the {count} identities has the hint {hint:?}; set the hint of an entry, or remove it from the configuration"
    )]
    Hint {
        /// What was asked for.
        hint: String,
        /// How many there are.
        count: usize,
    },
    /// Not certificates.
    #[error("the certificates of the identity cannot be read")]
    Chain(#[source] CertificateError),
    /// Not an X.509-SVID.
    #[error("the certificates of the identity are no X.509-SVID")]
    Svid(#[source] X509SvidError),
    /// A key that is none, or another one's.
    #[error("the private key of the identity cannot be read or does not match its certificate")]
    Key,
    /// Not authorities.
    #[error("the authorities of a bundle cannot be read")]
    Bundle(#[source] CertificateError),
    /// Not the name of a trust domain.
    #[error("a bundle is of {given:?}, which is no trust domain: {reason}")]
    TrustDomain {
        /// What it says.
        given: String,
        /// What is wrong.
        reason: String,
    },
    /// Not a JWK set.
    #[error("the JWT bundle of {trust_domain} cannot be read")]
    Jwks {
        /// Whose.
        trust_domain: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// Not JSON.
    #[error("the JWT bundles are no JSON")]
    Json {
        /// Why.
        source: serde_json::Error,
    },
    /// Not the JWT-SVID that was asked for.
    #[error("the token is no JWT-SVID for the audience")]
    Token(#[source] JwtSvidError),
}

#[cfg(test)]
pub(super) mod tests;
