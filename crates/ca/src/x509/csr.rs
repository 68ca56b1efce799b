//! Certificate requests (PKCS #10): parse bounded, prove possession, create.
//!
//! Only the raw public key, the names and the subject are taken from a request. The kind of the key comes from
//! the key itself, never from the signature's algorithm: a P-384 key may well sign with SHA-256.

use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::Subject;
use super::authority::CaError;
use super::profile::write_alternative_names;
use super::svid::OpenCertificate;
use crate::der::reader::{DerError, Reader};
use crate::der::{Writer, oid, tag};
use crate::key::PrivateKey;
use crate::public_key::{Hash, Kind, PublicKey, PublicKeyError, Scheme, VerifyError};
use crate::random::serial_number;
use crate::signer::{self, SignError, Signature, Signer};
use vouchsafe_runtime::class::Class;

/// Largest request that is looked at, in bytes.
pub const MAX_CSR_LEN: usize = 64 * 1024;

/// Most alternative names of a request.
pub const MAX_NAMES: usize = 1_000;

/// A request that was understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Csr {
    /// SubjectPublicKeyInfo, DER, byte for byte.
    pub public_key_der: Vec<u8>,
    /// URI names, not yet parsed.
    pub uris: Vec<String>,
    /// DNS names, not yet checked.
    pub dns_names: Vec<String>,
    /// The name of the requester, DER, byte for byte.
    pub subject_raw: Vec<u8>,
}

/// Whether to demand that the requester holds the private key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VerifyProofOfPossession {
    /// Verify the signature of the request.
    Yes,
    /// Take the key on trust, as the reference does for agents.
    No,
}

/// The request is refused. Its text belongs behind [`CsrError::prefix`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CsrError {
    #[error("{0} bytes: a CSR has at most {MAX_CSR_LEN}")]
    TooLarge(usize),
    #[error("{0}; a CSR must be PKCS #10 in DER, not PEM")]
    Der(DerError),
    #[error("version is not 1")]
    Version,
    #[error("{0}")]
    PublicKey(PublicKeyError),
    #[error("{0:?} keys are not issued to: use ECDSA P-256 or P-384, or RSA")]
    KeyKind(Kind),
    #[error("a name is not ASCII text")]
    NameText,
    #[error("over {MAX_NAMES} alternative names")]
    TooManyNames,
    #[error("alternative names are requested twice")]
    RepeatedNames,
    #[error(
        "signature algorithm {0} is not supported: use ECDSA or RSA PKCS #1 with SHA-256, SHA-384 or SHA-512"
    )]
    Algorithm(String),
    #[error("{0}")]
    Signature(VerifyError),
}

impl CsrError {
    /// How the services' messages start: `malformed CSR` or `invalid CSR signature`.
    #[must_use]
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::Signature(_) | Self::Algorithm(_) => "invalid CSR signature",
            _ => "malformed CSR",
        }
    }

    /// The whole message: prefix and text.
    #[must_use]
    pub fn status_text(&self) -> String {
        format!("{}: {self}", self.prefix())
    }

    /// Whose fault it is: always the caller's.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::Caller
    }
}

/// Reads a request and, if asked, verifies its signature. Costs no more than [`MAX_CSR_LEN`] of copying and one
/// signature verification.
///
/// # Errors
///
/// [`CsrError`] names what is wrong.
pub fn parse_csr(der: &[u8], proof: VerifyProofOfPossession) -> Result<Csr, CsrError> {
    if der.len() > MAX_CSR_LEN {
        return Err(CsrError::TooLarge(der.len()));
    }
    let request = Request::split(der).map_err(CsrError::Der)?;
    let mut info = Reader::new(request.info.content);
    if info.expect(tag::INTEGER, "CSR version").map_err(CsrError::Der)? != [0] {
        return Err(CsrError::Version);
    }
    let subject = info.expect_value(tag::SEQUENCE, "CSR subject").map_err(CsrError::Der)?;
    // Parsed once here so that later users of the raw name meet no surprise.
    Subject::parse(subject.raw).map_err(CsrError::Der)?;
    let public_key = info.expect_value(tag::SEQUENCE, "CSR public key").map_err(CsrError::Der)?;
    let key = PublicKey::parse(public_key.raw).map_err(CsrError::PublicKey)?;
    if key.kind() == Kind::P521 {
        return Err(CsrError::KeyKind(key.kind()));
    }
    let names = parse_attributes(info)?;
    if proof == VerifyProofOfPossession::Yes {
        let (scheme, hash) = signature_algorithm(request.algorithm)?;
        let verified = key.verify(scheme, hash, request.info.raw, request.signature);
        verified.map_err(CsrError::Signature)?;
    }
    Ok(Csr {
        public_key_der: public_key.raw.to_vec(),
        uris: names.uris,
        dns_names: names.dns_names,
        subject_raw: subject.raw.to_vec(),
    })
}

/// The three parts of a request.
struct Request<'a> {
    info: crate::der::reader::Value<'a>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Request<'a> {
    fn split(der: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der);
        let mut request = Reader::new(outer.expect(tag::SEQUENCE, "CSR")?);
        outer.finish("CSR")?;
        let info = request.expect_value(tag::SEQUENCE, "CSR contents")?;
        let algorithm = request.expect(tag::SEQUENCE, "CSR signature algorithm")?;
        let signature = request.bit_string("CSR signature")?;
        request.finish("CSR signature")?;
        Ok(Self { info, algorithm, signature })
    }
}

#[derive(Default)]
struct Names {
    uris: Vec<String>,
    dns_names: Vec<String>,
}

/// Finds the extension request among the attributes (RFC 2986 §4.1) and the names in it.
fn parse_attributes(mut info: Reader<'_>) -> Result<Names, CsrError> {
    let attributes = info.optional(tag::constructed(0), "CSR attributes").map_err(CsrError::Der)?;
    info.finish("CSR attributes").map_err(CsrError::Der)?;
    let mut attributes = Reader::new(attributes.unwrap_or_default());
    let mut found = None;
    while !attributes.is_empty() {
        let attribute = attributes.expect(tag::SEQUENCE, "CSR attribute").map_err(CsrError::Der)?;
        let mut attribute = Reader::new(attribute);
        let kind = attribute.expect(tag::OID, "kind of CSR attribute").map_err(CsrError::Der)?;
        let values = attribute.expect(tag::SET, "values of CSR attribute").map_err(CsrError::Der)?;
        attribute.finish("CSR attribute").map_err(CsrError::Der)?;
        if kind != oid::EXTENSION_REQUEST {
            continue;
        }
        let mut values = Reader::new(values);
        let extensions = values.expect(tag::SEQUENCE, "requested extensions").map_err(CsrError::Der)?;
        values.finish("requested extensions").map_err(CsrError::Der)?;
        let names = parse_extensions(extensions)?;
        if names.is_some() && std::mem::replace(&mut found, names).is_some() {
            return Err(CsrError::RepeatedNames);
        }
    }
    Ok(found.unwrap_or_default())
}

fn parse_extensions(extensions: &[u8]) -> Result<Option<Names>, CsrError> {
    let mut extensions = Reader::new(extensions);
    let mut found = None;
    while !extensions.is_empty() {
        let (kind, value) = parse_extension(&mut extensions).map_err(CsrError::Der)?;
        if kind == oid::SUBJECT_ALT_NAME {
            let names = parse_names(value)?;
            if found.replace(names).is_some() {
                return Err(CsrError::RepeatedNames);
            }
        }
    }
    Ok(found)
}

fn parse_extension<'a>(extensions: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), DerError> {
    let mut extension = Reader::new(extensions.expect(tag::SEQUENCE, "requested extension")?);
    let kind = extension.expect(tag::OID, "kind of requested extension")?;
    extension.optional(tag::BOOLEAN, "criticality of requested extension")?;
    let value = extension.expect(tag::OCTET_STRING, "value of requested extension")?;
    extension.finish("requested extension")?;
    Ok((kind, value))
}

fn parse_names(value: &[u8]) -> Result<Names, CsrError> {
    const DNS: u8 = tag::context(2);
    const URI: u8 = tag::context(6);
    let mut outer = Reader::new(value);
    let list = outer.expect(tag::SEQUENCE, "alternative names").map_err(CsrError::Der)?;
    outer.finish("alternative names").map_err(CsrError::Der)?;
    let mut list = Reader::new(list);
    let mut names = Names::default();
    let mut seen = 0;
    while !list.is_empty() {
        seen += 1;
        if seen > MAX_NAMES {
            return Err(CsrError::TooManyNames);
        }
        let name = list.value("alternative name").map_err(CsrError::Der)?;
        match name.tag {
            DNS => names.dns_names.push(ascii(name.content)?),
            URI => names.uris.push(ascii(name.content)?),
            _ => {}
        }
    }
    Ok(names)
}

/// RFC 5280 §4.2.1.6: DNS names and URIs are IA5String.
fn ascii(bytes: &[u8]) -> Result<String, CsrError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Ok(text.to_owned()),
        _ => Err(CsrError::NameText),
    }
}

fn signature_algorithm(identifier: &[u8]) -> Result<(Scheme, Hash), CsrError> {
    let mut reader = Reader::new(identifier);
    let name = reader.expect(tag::OID, "CSR signature algorithm").map_err(CsrError::Der)?;
    let found = signature_scheme(name).ok_or_else(|| CsrError::Algorithm(oid::dotted(name)))?;
    // RFC 5758 §3.2 and RFC 4055 §5: no parameters for ECDSA, NULL for RSA; both are widely mixed up.
    reader.optional(tag::NULL, "CSR signature parameters").map_err(CsrError::Der)?;
    reader.finish("CSR signature parameters").map_err(CsrError::Der)?;
    Ok(found)
}

/// The signature that an object identifier of X.509 names, if we verify such ones.
pub(super) fn signature_scheme(name: &[u8]) -> Option<(Scheme, Hash)> {
    Some(match name {
        oid::ECDSA_SHA256 => (Scheme::EcdsaDer, Hash::Sha256),
        oid::ECDSA_SHA384 => (Scheme::EcdsaDer, Hash::Sha384),
        oid::ECDSA_SHA512 => (Scheme::EcdsaDer, Hash::Sha512),
        oid::RSA_SHA256 => (Scheme::RsaPkcs1, Hash::Sha256),
        oid::RSA_SHA384 => (Scheme::RsaPkcs1, Hash::Sha384),
        oid::RSA_SHA512 => (Scheme::RsaPkcs1, Hash::Sha512),
        _ => return None,
    })
}

/// What a request of ours should say.
#[derive(Clone, Copy, Debug)]
pub struct CsrTemplate<'a> {
    /// The requester's name.
    pub subject: &'a Subject,
    /// The id that is asked for; an agent asks for none.
    pub uri: Option<&'a SpiffeId>,
    /// DNS names that are asked for.
    pub dns_names: &'a [String],
}

/// Creates a request of subject `C=US, O=SPIRE`.
///
/// # Errors
///
/// As [`Signer::sign`].
pub async fn create_csr(signer: &dyn Signer, uri: Option<&SpiffeId>) -> Result<Vec<u8>, SignError> {
    let subject = Subject::svid_default();
    let request = open_request(signer, &CsrTemplate { subject: &subject, uri, dns_names: &[] });
    let signature = signer::sign(signer, request.message()).await?;
    Ok(finish_request(request, signer, &signature))
}

/// Creates the request of an X.509 authority of `trust_domain` that an upstream authority is to certify. Like that of a
/// self-signed one, its name has a random serial number attribute unless `subject` has one.
///
/// # Errors
///
/// [`CaError::Serial`] or [`CaError::Sign`].
pub async fn create_ca_csr(
    signer: &dyn Signer,
    subject: &Subject,
    trust_domain: &TrustDomain,
) -> Result<Vec<u8>, CaError> {
    let mut subject = subject.clone();
    if subject.serial_number.is_empty() {
        subject.serial_number = serial_number().map_err(CaError::Serial)?.to_string();
    }
    let uri = trust_domain.id();
    let template = CsrTemplate { subject: &subject, uri: Some(&uri), dns_names: &[] };
    let request = open_request(signer, &template);
    let signature = signer::sign(signer, request.message()).await.map_err(CaError::Sign)?;
    Ok(finish_request(request, signer, &signature))
}

/// Creates a request with a key in this process.
///
/// # Errors
///
/// As [`PrivateKey::sign_local`].
pub fn create_csr_local(key: &PrivateKey, template: &CsrTemplate<'_>) -> Result<Vec<u8>, SignError> {
    let request = open_request(key, template);
    let signature = key.sign_local(request.message())?;
    Ok(finish_request(request, key, &signature))
}

fn open_request(signer: &dyn Signer, template: &CsrTemplate<'_>) -> OpenCertificate {
    let room = 384 + signer.public_key_der().len();
    OpenCertificate::with_content(room, |writer| write_info(writer, signer.public_key_der(), template))
}

fn finish_request(request: OpenCertificate, signer: &dyn Signer, signature: &Signature) -> Vec<u8> {
    request.finish(signer.algorithm().identifier(), signature)
}

fn write_info(writer: &mut Writer, public_key_der: &[u8], template: &CsrTemplate<'_>) {
    writer.nested(tag::SEQUENCE, |writer| {
        writer.unsigned(0);
        template.subject.write(writer);
        writer.raw(public_key_der);
        let uri = template.uri.map(SpiffeId::as_str);
        writer.nested(tag::constructed(0), |writer| {
            if uri.is_none() && template.dns_names.is_empty() {
                return;
            }
            writer.nested(tag::SEQUENCE, |writer| {
                writer.value(tag::OID, oid::EXTENSION_REQUEST);
                writer.nested(tag::SET, |writer| {
                    writer.nested(tag::SEQUENCE, |writer| {
                        write_alternative_names(writer, template.dns_names, uri);
                    });
                });
            });
        });
    });
}
