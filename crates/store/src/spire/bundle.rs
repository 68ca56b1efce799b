//! SPIRE's stored bundles (`spire.common.Bundle`).

use prost::Message;
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use vouchsafe_types::trust_domain::TrustDomain;

#[derive(Clone, Message, PartialEq)]
struct StoredBundle {
    #[prost(string, tag = "1")]
    trust_domain_id: String,
    #[prost(message, repeated, tag = "2")]
    root_cas: Vec<StoredCertificate>,
    #[prost(message, repeated, tag = "3")]
    jwt_signing_keys: Vec<StoredKey>,
    #[prost(int64, tag = "4")]
    refresh_hint: i64,
    #[prost(uint64, tag = "5")]
    sequence_number: u64,
}

#[derive(Clone, Message, PartialEq)]
struct StoredCertificate {
    #[prost(bytes = "vec", tag = "1")]
    der_bytes: Vec<u8>,
    #[prost(bool, tag = "2")]
    tainted_key: bool,
}

#[derive(Clone, Message, PartialEq)]
struct StoredKey {
    #[prost(bytes = "vec", tag = "1")]
    pkix_bytes: Vec<u8>,
    #[prost(string, tag = "2")]
    kid: String,
    #[prost(int64, tag = "3")]
    not_after: i64,
    #[prost(bool, tag = "4")]
    tainted_key: bool,
}

/// The flags of an entry that SPIRE keeps in one column (`RegistrationEntry.AdditionalAttributes`).
#[derive(Clone, Message, PartialEq)]
pub(super) struct EntryAttributes {
    #[prost(bool, tag = "1")]
    pub(super) disable_x509_svid_prefetch: bool,
    #[prost(bool, tag = "2")]
    pub(super) jwt_svid_include_jti: bool,
}

/// A bundle from the bytes of its row.
pub(super) fn decode(data: &[u8]) -> Result<Bundle, Box<dyn std::error::Error>> {
    let stored = StoredBundle::decode(data)?;
    let mut bundle = Bundle::new(TrustDomain::parse(&stored.trust_domain_id)?);
    for certificate in stored.root_cas {
        let tainted = certificate.tainted_key;
        bundle
            .x509_authorities
            .push(X509Authority { tainted, ..X509Authority::parse(certificate.der_bytes)? });
    }
    for key in stored.jwt_signing_keys {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: key.kid,
            public_key_der: key.pkix_bytes.into(),
            expires_at: key.not_after,
            tainted: key.tainted_key,
        });
    }
    bundle.refresh_hint = stored.refresh_hint;
    bundle.sequence_number = stored.sequence_number;
    Ok(bundle)
}

/// The bytes of a bundle's row.
pub(super) fn encode(bundle: &Bundle) -> Vec<u8> {
    let stored = StoredBundle {
        trust_domain_id: bundle.trust_domain.id_string(),
        root_cas: bundle
            .x509_authorities
            .iter()
            .map(|root| StoredCertificate { der_bytes: root.der.to_vec(), tainted_key: root.tainted })
            .collect(),
        jwt_signing_keys: bundle
            .jwt_authorities
            .iter()
            .map(|key| StoredKey {
                pkix_bytes: key.public_key_der.to_vec(),
                kid: key.key_id.clone(),
                not_after: key.expires_at,
                tainted_key: key.tainted,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
    };
    stored.encode_to_vec()
}
