//! Trust bundles.

use bytes::Bytes;
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use vouchsafe_types::trust_domain::TrustDomain;

use super::ConvertError;
use crate::spire::api::types;

/// A bundle, reduced to the fields of `mask`.
#[must_use]
pub fn bundle_to_proto(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let wants = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    let mut message =
        types::Bundle { trust_domain: bundle.trust_domain.as_str().to_owned(), ..types::Bundle::default() };
    if wants(|m| m.x509_authorities) {
        message.x509_authorities = bundle.x509_authorities.iter().map(x509_authority_to_proto).collect();
    }
    if wants(|m| m.jwt_authorities) {
        message.jwt_authorities = bundle.jwt_authorities.iter().map(jwt_authority_to_proto).collect();
    }
    if wants(|m| m.refresh_hint) {
        message.refresh_hint = bundle.refresh_hint;
    }
    if wants(|m| m.sequence_number) {
        message.sequence_number = bundle.sequence_number;
    }
    message
}

/// # Errors
///
/// A malformed trust domain name, or an authority without key or key ID.
pub fn bundle_from_proto(message: &types::Bundle) -> Result<Bundle, ConvertError> {
    let trust_domain =
        TrustDomain::parse(&message.trust_domain).map_err(|e| ConvertError::field("trust domain", e))?;
    let x509: Result<_, _> = message.x509_authorities.iter().map(x509_authority_from_proto).collect();
    let jwt: Result<_, _> = message.jwt_authorities.iter().map(jwt_authority_from_proto).collect();
    Ok(Bundle {
        trust_domain,
        x509_authorities: x509.map_err(|e| ConvertError::unparsed("unable to parse X.509 authority", e))?,
        jwt_authorities: jwt.map_err(|e| ConvertError::unparsed("unable to parse JWT authority", e))?,
        refresh_hint: message.refresh_hint,
        sequence_number: message.sequence_number,
    })
}

/// One X.509 authority as a message.
#[must_use]
pub fn x509_authority_to_proto(authority: &X509Authority) -> types::X509Certificate {
    types::X509Certificate { asn1: Bytes::copy_from_slice(&authority.der), tainted: authority.tainted }
}

/// # Errors
///
/// An authority without certificate, or with one that does not parse.
pub fn x509_authority_from_proto(message: &types::X509Certificate) -> Result<X509Authority, ConvertError> {
    if message.asn1.is_empty() {
        return Err(ConvertError::Authority("missing X.509 authority certificate"));
    }
    let mut authority = X509Authority::parse(&*message.asn1)
        .map_err(|e| ConvertError::field("X.509 authority certificate", e))?;
    authority.tainted = message.tainted;
    Ok(authority)
}

/// One JWT authority as a message.
#[must_use]
pub fn jwt_authority_to_proto(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: Bytes::copy_from_slice(&authority.public_key_der),
        key_id: authority.key_id.clone(),
        expires_at: authority.expires_at,
        tainted: authority.tainted,
    }
}

/// # Errors
///
/// An authority without key or key ID.
pub fn jwt_authority_from_proto(message: &types::JwtKey) -> Result<JwtAuthority, ConvertError> {
    if message.public_key.is_empty() {
        return Err(ConvertError::Authority("missing JWT authority public key"));
    }
    if message.key_id.is_empty() {
        return Err(ConvertError::Authority("missing key ID"));
    }
    let mut authority = JwtAuthority::parse(&message.key_id, &*message.public_key, message.expires_at)
        .map_err(|e| ConvertError::field("JWT authority", e))?;
    authority.tainted = message.tainted;
    Ok(authority)
}
