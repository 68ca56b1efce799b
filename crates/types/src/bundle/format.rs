//! The forms in which bundles travel: SPIFFE document, Workload API JWKS, PEM.
//!
//! Reading is all or nothing. What the standard says to ignore is ignored; a key that is meant for us and broken
//! refuses the whole document, because half a bundle would withdraw trust from the other half of the workloads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::document::{Document, First, Jwk, Keys, Text};
use super::{Bundle, JwtAuthority, JwtAuthorityError, X509Authority};
use crate::certificate::{Certificate, CertificateError};
use crate::jwk::{KeyError, PublicKey};
use crate::pem::{self, PemError};
use crate::trust_domain::TrustDomain;

/// Writes the SPIFFE bundle document, indented by four spaces as SPIRE's tools do.
///
/// # Errors
///
/// An authority that is no certificate or key of a supported kind.
pub fn to_spiffe_json(bundle: &Bundle) -> Result<String, FormatError> {
    let mut keys = Vec::new();
    for (index, authority) in bundle.x509_authorities.iter().enumerate() {
        keys.push(x509_jwk(authority).map_err(|cause| cause.at(index))?);
    }
    for (index, authority) in bundle.jwt_authorities.iter().enumerate() {
        let key = PublicKey::from_spki(&authority.public_key_der)
            .map_err(|source| FormatError::Key { index, source })?;
        // JWT-SVID §6.1: "The `use` parameter of each JWK entry MUST be set to `jwt-svid`. Additionally, the `kid`
        // parameter of each JWK entry MUST be set."
        let (usage, kid) = (Text::from(JWT_SVID), Text::from(authority.key_id.as_str()));
        keys.push(Jwk { usage, kid, ..Jwk::of(&key) });
    }
    let document = Document {
        keys: Keys(keys),
        spiffe_sequence: bundle.sequence_number,
        spiffe_refresh_hint: u32::try_from(bundle.refresh_hint.max(0)).unwrap_or(u32::MAX),
    };
    Ok(indented(&document))
}

/// Reads a SPIFFE bundle document of `trust_domain`.
///
/// # Errors
///
/// Not a JWK set, a key meant for SVIDs that is broken, two keys of one name, or a bound exceeded.
pub fn from_spiffe_json(trust_domain: &TrustDomain, json: &[u8]) -> Result<Bundle, FormatError> {
    let document: Document = read_json(json)?;
    let mut bundle = Bundle::new(trust_domain.clone());
    bundle.refresh_hint = i64::from(document.spiffe_refresh_hint);
    bundle.sequence_number = document.spiffe_sequence;
    for (index, jwk) in document.keys.0.iter().enumerate() {
        // Trust-Domain-and-Bundle §4.2.2: "The `use` parameter MUST be set." and "The values are case sensitive."
        // and "Clients encountering either a missing `use` parameter or an unknown `use` value MUST ignore the
        // entire JWK element."
        match jwk.usage.as_deref() {
            Some(X509_SVID) => add_x509(&mut bundle, jwk).map_err(|cause| cause.at(index))?,
            Some(JWT_SVID) => add_jwt(&mut bundle, jwk, index)?,
            _ => {}
        }
    }
    Ok(bundle)
}

/// Writes the JWT authorities as the Workload API does: a plain JWK set without uses.
///
/// # Errors
///
/// An authority that is no key of a supported kind.
pub fn jwt_jwks(bundle: &Bundle) -> Result<Vec<u8>, FormatError> {
    let mut keys = Vec::new();
    for (index, authority) in bundle.jwt_authorities.iter().enumerate() {
        let key = PublicKey::from_spki(&authority.public_key_der)
            .map_err(|source| FormatError::Key { index, source })?;
        keys.push(Jwk { kid: Text::from(authority.key_id.as_str()), ..Jwk::of(&key) });
    }
    // Workload-API §6.2.2: "The server MUST NOT include keys with other uses in the returned JWT bundles."
    Ok(indented(&Document { keys: Keys(keys), spiffe_sequence: 0, spiffe_refresh_hint: 0 }).into_bytes())
}

/// Writes all authorities as a plain JWK set: what [`to_spiffe_json`] writes, without what SPIFFE adds to RFC 7517.
///
/// # Errors
///
/// An authority that is no certificate or key of a supported kind.
pub fn to_jwks(bundle: &Bundle) -> Result<String, FormatError> {
    let mut keys = Vec::new();
    for (index, authority) in bundle.x509_authorities.iter().enumerate() {
        let jwk = x509_jwk(authority).map_err(|cause| cause.at(index))?;
        keys.push(Jwk { usage: Text::default(), ..jwk });
    }
    for (index, authority) in bundle.jwt_authorities.iter().enumerate() {
        let key = PublicKey::from_spki(&authority.public_key_der)
            .map_err(|source| FormatError::Key { index, source })?;
        keys.push(Jwk { kid: Text::from(authority.key_id.as_str()), ..Jwk::of(&key) });
    }
    Ok(indented(&Document { keys: Keys(keys), spiffe_sequence: 0, spiffe_refresh_hint: 0 }))
}

/// Reads a plain JWK set of JWT authorities, as the Workload API sends it. Keys for X.509-SVIDs are ignored.
///
/// # Errors
///
/// As [`from_spiffe_json`].
pub fn from_jwks(trust_domain: &TrustDomain, json: &[u8]) -> Result<Bundle, FormatError> {
    let document: Document = read_json(json)?;
    let mut bundle = Bundle::new(trust_domain.clone());
    for (index, jwk) in document.keys.0.iter().enumerate() {
        if jwk.usage.as_deref() != Some(X509_SVID) {
            add_jwt(&mut bundle, jwk, index)?;
        }
    }
    Ok(bundle)
}

/// Writes the X.509 authorities as PEM.
#[must_use]
pub fn to_pem(bundle: &Bundle) -> String {
    let mut out = String::new();
    for authority in &bundle.x509_authorities {
        pem::append(&mut out, CERTIFICATE, &authority.der);
    }
    out
}

/// Reads X.509 authorities from PEM. Each certificate counts once.
///
/// # Errors
///
/// Broken PEM, a block that is not a certificate, or no certificate at all.
pub fn from_pem(trust_domain: &TrustDomain, text: &[u8]) -> Result<Bundle, FormatError> {
    let mut bundle = Bundle::new(trust_domain.clone());
    for (index, block) in pem::parse(text).map_err(FormatError::Pem)?.into_iter().enumerate() {
        if block.label != CERTIFICATE {
            return Err(FormatError::Label { index });
        }
        let authority = X509Authority::parse(block.der.as_slice())
            .map_err(|source| FormatError::Certificate { index, source })?;
        bundle.append([authority], []);
    }
    if bundle.x509_authorities.is_empty() {
        return Err(FormatError::NoCertificates);
    }
    Ok(bundle)
}

fn x509_jwk(authority: &X509Authority) -> Result<Jwk, Cause> {
    let certificate = authority.parsed().map_err(Cause::Certificate)?;
    let key = PublicKey::from_spki(&certificate.public_key_der).map_err(Cause::Key)?;
    // X509-SVID §6.1: "The `use` parameter of each JWK entry MUST be set to `x509-svid`. Additionally, the `kid`
    // parameter of each JWK entry MUST NOT be set." and "each entry representing an X509-SVID CA certificate MUST
    // contain the `x5c` parameter with a value equal to the base64 encoded DER CA certificate that the entry
    // represents. The value MUST include exactly one CA certificate".
    let x5c = First(Some(STANDARD.encode(&authority.der)));
    Ok(Jwk { usage: Text::from(X509_SVID), x5c, ..Jwk::of(&key) })
}

fn add_x509(bundle: &mut Bundle, jwk: &Jwk) -> Result<(), Cause> {
    // X509-SVID §6.2: "If `x5c` is not set, or is empty, then the entry MUST be ignored." and "If the `x5c`
    // parameter contains multiple values, then all but the first MUST be ignored."
    let Some(encoded) = &jwk.x5c.0 else { return Ok(()) };
    let key = match PublicKey::from_jwk(&jwk.parameters()) {
        Ok(key) => key,
        Err(KeyError::Unsupported) => return Ok(()),
        Err(error) => return Err(Cause::Key(error)),
    };
    let der = STANDARD.decode(encoded).map_err(|_| Cause::Certificate(CertificateError::Malformed))?;
    let certificate = Certificate::parse(&der).map_err(Cause::Certificate)?;
    // RFC 7517 §4.7: "The key in the first certificate MUST match the public key represented by other members of
    // the JWK."
    if key.to_spki() != certificate.public_key_der {
        return Err(Cause::OtherKey);
    }
    bundle.append([X509Authority { der: der.into(), tainted: false }], []);
    Ok(())
}

fn add_jwt(bundle: &mut Bundle, jwk: &Jwk, index: usize) -> Result<(), FormatError> {
    let key = match PublicKey::from_jwk(&jwk.parameters()) {
        // Trust-Domain-and-Bundle §4.2.1: "Clients encountering an unknown key type MUST ignore the entire JWK
        // element." Ed25519 signs no JWT-SVID (§2.1 of that standard), so it is unknown here.
        Err(KeyError::Unsupported) | Ok(PublicKey::Ed25519 { .. }) => return Ok(()),
        Err(source) => return Err(FormatError::Key { index, source }),
        Ok(key) => key,
    };
    let kid = jwk.kid.as_deref().unwrap_or_default();
    let authority =
        JwtAuthority::parse(kid, key.to_spki(), 0).map_err(|source| FormatError::Jwt { index, source })?;
    match bundle.jwt_authority(kid) {
        Some(held) if held.public_key_der == authority.public_key_der => {}
        Some(_) => return Err(FormatError::DuplicateKeyId { index }),
        None => bundle.jwt_authorities.push(authority),
    }
    Ok(())
}

fn read_json(json: &[u8]) -> Result<Document, FormatError> {
    if json.len() > MAX_BUNDLE_BYTES {
        return Err(FormatError::TooLong);
    }
    serde_json::from_slice(json).map_err(FormatError::Json)
}

fn indented(document: &Document) -> String {
    let mut out = Vec::new();
    let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, style);
    // Writing texts and numbers to memory cannot fail, and JSON is UTF-8.
    match document.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// What is wrong with one X.509 authority, before its place is known.
enum Cause {
    Certificate(CertificateError),
    Key(KeyError),
    OtherKey,
}

impl Cause {
    fn at(self, index: usize) -> FormatError {
        match self {
            Self::Certificate(source) => FormatError::Certificate { index, source },
            Self::Key(source) => FormatError::Key { index, source },
            Self::OtherKey => FormatError::OtherKey { index },
        }
    }
}

/// Why a bundle cannot be read or written. Entries are counted from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Longer than [`MAX_BUNDLE_BYTES`].
    #[error("bundle is longer than {MAX_BUNDLE_BYTES} bytes")]
    TooLong,
    /// Not a JWK set.
    #[error("bundle is not a JWK set")]
    Json(#[source] serde_json::Error),
    /// The PEM is broken.
    #[error("bundle is not PEM")]
    Pem(#[source] PemError),
    /// A PEM block of another label, perhaps a private key.
    #[error("PEM block {index} is not a CERTIFICATE; a bundle holds certificates only")]
    Label {
        /// Which block.
        index: usize,
    },
    /// No certificate in the PEM.
    #[error("no certificate in the PEM; is it the right file?")]
    NoCertificates,
    /// An entry's certificate cannot be read.
    #[error("certificate of bundle entry {index}")]
    Certificate {
        /// Which entry.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
    /// An entry's key cannot be read.
    #[error("key of bundle entry {index}")]
    Key {
        /// Which entry.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// An entry for X.509-SVIDs describes another key than that of its certificate.
    #[error("bundle entry {index} describes another key than its certificate holds")]
    OtherKey {
        /// Which entry.
        index: usize,
    },
    /// An entry for JWT-SVIDs has no key id, or another fault.
    #[error("bundle entry {index} cannot sign JWT-SVIDs")]
    Jwt {
        /// Which entry.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: JwtAuthorityError,
    },
    /// Two different keys have the same key id.
    #[error("bundle entry {index} repeats the key ID of another key")]
    DuplicateKeyId {
        /// Which entry.
        index: usize,
    },
}

/// Longest bundle document. A longer one is refused.
pub const MAX_BUNDLE_BYTES: usize = 16 * 1024 * 1024;

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";
const CERTIFICATE: &str = "CERTIFICATE";
