//! The X.509 authority: its certificate, its key, and what follows an SVID in a chain.

use std::sync::Arc;

use vouchsafe_types::trust_domain::TrustDomain;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::profile::{Name, Tbs};
use super::svid::OpenCertificate;
use super::{MAX_BACKDATE_SECS, Subject};
use crate::public_key::{PublicKeyError, subject_key_id};
use crate::random::{NoEntropy, serial_number};
use crate::signer::{self, SignError, Signer};
use vouchsafe_runtime::class::Class;

/// An authority that can sign SVIDs. Immutable: a rotation makes another one.
#[derive(Clone, Debug)]
pub struct X509Ca {
    trust_domain: TrustDomain,
    cert_der: Arc<[u8]>,
    chain: Vec<Arc<[u8]>>,
    signer: Arc<dyn Signer>,
    subject_raw: Vec<u8>,
    subject_key_id: Vec<u8>,
    authority_id: String,
    upstream_authority_id: String,
    /// Authority ids of all CAs above it, as its chain names them.
    above: Vec<String>,
    issued_at: i64,
    not_before: i64,
    not_after: i64,
}

/// What a self-signed CA certificate should say.
#[derive(Clone, Copy, Debug)]
pub struct CaTemplate<'a> {
    /// Becomes the URI SAN.
    pub trust_domain: &'a TrustDomain,
    /// The subject; its serial number attribute becomes the certificate's serial number if it is empty.
    pub subject: &'a Subject,
    /// Time of issue in seconds since 1970; `notBefore` lies [`MAX_BACKDATE_SECS`] before it.
    pub now: i64,
    /// End in seconds since 1970.
    pub not_after: i64,
}

/// Certificates of upstream CAs that are carried with every SVID.
pub const MAX_CHAIN: usize = 16;

/// The certificate cannot be an authority.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CaError {
    #[error("CA certificate is malformed: {0}")]
    Malformed(String),
    #[error("invalid X509 CA: {0}")]
    Profile(&'static str),
    #[error("invalid X509 CA: expected URI SAN {expected:?} but got {found:?}")]
    Uri { expected: String, found: Vec<String> },
    #[error("CA certificate does not belong to the key")]
    OtherKey,
    #[error(
        "CA certificate {subject:?} has URI name constraints, which certificate verifiers in Rust refuse: ask \
         the upstream authority to issue without them"
    )]
    UriNameConstraints { subject: String },
    #[error("chain has {0} certificates: at most {MAX_CHAIN} are carried")]
    Chain(usize),
    #[error("public key of the CA is not usable")]
    PublicKey(#[source] PublicKeyError),
    #[error("no serial number")]
    Serial(#[source] NoEntropy),
    #[error("CA certificate was not signed")]
    Sign(#[source] SignError),
}

impl CaError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Malformed(_) | Self::Profile(_) | Self::Uri { .. } | Self::OtherKey => Class::Peer,
            Self::UriNameConstraints { .. } | Self::Chain(_) | Self::PublicKey(_) => Class::Permanent,
            Self::Serial(_) => Class::Transient,
            Self::Sign(error) => error.class(),
        }
    }
}

impl X509Ca {
    /// Takes a CA certificate with its key. `chain` is what follows an SVID: empty for a self-signed CA, else
    /// this CA's own certificate and its intermediates, without the root.
    ///
    /// # Errors
    ///
    /// [`CaError`] unless the certificate is a CA of this trust domain and belongs to the key.
    pub fn new(
        trust_domain: TrustDomain,
        cert_der: Arc<[u8]>,
        chain: Vec<Arc<[u8]>>,
        signer: Arc<dyn Signer>,
        issued_at: i64,
    ) -> Result<Self, CaError> {
        if chain.len() > MAX_CHAIN {
            return Err(CaError::Chain(chain.len()));
        }
        let mut above = Vec::new();
        for der in std::iter::once(&cert_der).chain(&chain) {
            let certificate = parse(der)?;
            refuse_uri_constraints(&certificate)?;
            let (_, issuer_id) = key_ids(&certificate)?;
            if !issuer_id.is_empty() {
                above.push(hex::encode(issuer_id));
            }
        }
        let certificate = parse(&cert_der)?;
        if certificate.public_key().raw != signer.public_key_der() {
            return Err(CaError::OtherKey);
        }
        check_profile(&certificate, &trust_domain)?;
        let (subject_id, issuer_id) = key_ids(&certificate)?;
        let subject_raw = certificate.subject().as_raw().to_vec();
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self {
            trust_domain,
            authority_id: hex::encode(&subject_id),
            upstream_authority_id: hex::encode(issuer_id),
            subject_key_id: subject_id,
            above,
            subject_raw,
            issued_at,
            not_before,
            not_after,
            chain,
            signer,
            cert_der,
        })
    }

    /// The trust domain that it signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its certificate.
    #[must_use]
    pub fn cert_der(&self) -> &Arc<[u8]> {
        &self.cert_der
    }

    /// What follows an SVID in its chain; empty if self-signed.
    #[must_use]
    pub fn chain(&self) -> &[Arc<[u8]>] {
        &self.chain
    }

    /// Its key.
    #[must_use]
    pub fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    /// Its name, DER, byte for byte.
    #[must_use]
    pub fn subject_raw(&self) -> &[u8] {
        &self.subject_raw
    }

    /// Subject key identifier.
    #[must_use]
    pub fn subject_key_id(&self) -> &[u8] {
        &self.subject_key_id
    }

    /// Authority id: the subject key identifier in lower-case hex.
    #[must_use]
    pub fn authority_id(&self) -> &str {
        &self.authority_id
    }

    /// Authority key identifier in lower-case hex; empty if self-signed.
    #[must_use]
    pub fn upstream_authority_id(&self) -> &str {
        &self.upstream_authority_id
    }

    /// Whether it is the authority `id`, or is certified by it through any number of intermediates.
    #[must_use]
    pub fn is_under(&self, id: &str) -> bool {
        self.authority_id == id || self.above.iter().any(|above| above == id)
    }

    /// Authority id of the root that it leads to: of itself if self-signed, empty if its chain does not say.
    #[must_use]
    pub fn root_id(&self) -> &str {
        if self.chain.is_empty() {
            return &self.authority_id;
        }
        self.above.last().map_or("", String::as_str)
    }

    /// When it was prepared, in seconds since 1970.
    #[must_use]
    pub fn issued_at(&self) -> i64 {
        self.issued_at
    }

    /// Start of its validity, in seconds since 1970.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// End of its validity, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

/// Makes a self-signed CA certificate.
///
/// # Errors
///
/// [`CaError::PublicKey`], [`CaError::Serial`] or [`CaError::Sign`].
pub async fn self_signed_ca(signer: &dyn Signer, template: &CaTemplate<'_>) -> Result<Vec<u8>, CaError> {
    let serial = serial_number().map_err(CaError::Serial)?;
    let mut subject = template.subject.clone();
    if subject.serial_number.is_empty() {
        subject.serial_number = serial.to_string();
    }
    let public_key_der = signer.public_key_der();
    let subject_key_id = subject_key_id(public_key_der).map_err(CaError::PublicKey)?;
    let certificate = OpenCertificate::new(&Tbs {
        serial,
        algorithm: signer.algorithm(),
        issuer: Name::Written(&subject),
        not_before: template.now.saturating_sub(MAX_BACKDATE_SECS),
        not_after: template.not_after,
        subject: Name::Written(&subject),
        public_key_der,
        is_ca: true,
        subject_key_id: &subject_key_id,
        // RFC 5280 §4.2.1.1: a self-signed CA certificate may omit the authority key identifier; Go does.
        authority_key_id: None,
        uri: &template.trust_domain.id_string(),
        dns_names: &[],
    });
    let signature = signer::sign(signer, certificate.message()).await.map_err(CaError::Sign)?;
    Ok(certificate.finish(signer.algorithm().identifier(), &signature))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CaError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(CaError::Malformed(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(CaError::Malformed(error.to_string())),
    }
}

fn check_profile(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Result<(), CaError> {
    let malformed = |error: x509_parser::error::X509Error| CaError::Malformed(error.to_string());
    match certificate.basic_constraints().map_err(malformed)? {
        None => return Err(CaError::Profile("basic constraints are not valid")),
        Some(constraints) if !constraints.value.ca => {
            return Err(CaError::Profile("cA constraint is not set"));
        }
        Some(_) => {}
    }
    let usage = certificate.key_usage().map_err(malformed)?.map_or(0, |usage| usage.value.flags);
    // Bits of KeyUsage (RFC 5280 §4.2.1.3), as x509-parser counts them: bit n is 1 << n.
    const DIGITAL_SIGNATURE: u16 = 1;
    const KEY_CERT_SIGN: u16 = 1 << 5;
    const CRL_SIGN: u16 = 1 << 6;
    if usage & KEY_CERT_SIGN == 0 {
        return Err(CaError::Profile("keyCertSign key usage must be set"));
    }
    if usage & !(DIGITAL_SIGNATURE | KEY_CERT_SIGN | CRL_SIGN) != 0 {
        return Err(CaError::Profile("only keyCertSign, cRLSign, or digitalSignature key usage can be set"));
    }
    let names = certificate.subject_alternative_name().map_err(malformed)?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    let found: Vec<String> = names.filter_map(uri).collect();
    let expected = trust_domain.id_string();
    // X509-SVID §3.2 lets a signing certificate go without a SPIFFE ID; one that has it must be ours.
    match found.as_slice() {
        [] => Ok(()),
        [one] if *one == expected => Ok(()),
        _ => Err(CaError::Uri { expected: expected.to_string(), found }),
    }
}

/// Subject and authority key identifiers; the subject's is computed if the certificate has none.
fn key_ids(certificate: &X509Certificate<'_>) -> Result<(Vec<u8>, Vec<u8>), CaError> {
    let mut subject = None;
    let mut issuer = Vec::new();
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                issuer = id.key_identifier.as_ref().map_or_else(Vec::new, |id| id.0.to_vec());
            }
            _ => {}
        }
    }
    let computed = || subject_key_id(certificate.public_key().raw).map(Vec::from).map_err(CaError::PublicKey);
    Ok((subject.map_or_else(computed, Ok)?, issuer))
}

fn refuse_uri_constraints(certificate: &X509Certificate<'_>) -> Result<(), CaError> {
    let malformed = |error: x509_parser::error::X509Error| CaError::Malformed(error.to_string());
    let Some(constraints) = certificate.name_constraints().map_err(malformed)? else { return Ok(()) };
    let permitted = constraints.value.permitted_subtrees.iter().flatten();
    let excluded = constraints.value.excluded_subtrees.iter().flatten();
    if permitted.chain(excluded).any(|subtree| matches!(subtree.base, GeneralName::URI(_))) {
        return Err(CaError::UriNameConstraints { subject: certificate.subject().to_string() });
    }
    Ok(())
}
