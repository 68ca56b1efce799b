//! Certificates for tests, made by rcgen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use vouchsafe_types::TrustDomain;

use crate::own::OwnSvid;
use crate::roots::TrustRoots;

/// The moment at which tests verify.
pub(crate) const NOW: u64 = 1_700_000_000;
const DAY: u64 = 86_400;

pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// An authority.
pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(NOW - DAY).into();
    params.not_after = at(NOW + DAY).into();
    params
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| ())
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, id: &str) -> Leaf {
        self.issue_with(id, &PKCS_ECDSA_P256_SHA256, |_| ())
    }

    pub(crate) fn issue_with(
        &self,
        id: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = at(NOW - 60).into();
        params.not_after = at(NOW + 3600).into();
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { der, key: key.serialize_der() }
    }
}

/// A leaf and its key.
pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
}

impl Leaf {
    pub(crate) fn own(&self, intermediates: &[&Ca]) -> OwnSvid {
        let ders = std::iter::once(&self.der).chain(intermediates.iter().map(|ca| &ca.der));
        let chain: Vec<Arc<[u8]>> = ders.map(|der| Arc::from(der.as_ref())).collect();
        OwnSvid::from_pkcs8(&chain, &self.key)
    }
}

/// Allows everything but what no test uses.
pub(crate) fn ip_constraints() -> NameConstraints {
    let subtree = GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([10, 0, 0, 0], 8));
    NameConstraints { permitted_subtrees: vec![], excluded_subtrees: vec![subtree] }
}

pub(crate) fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn roots(of: &[(&str, &[&Ca])]) -> TrustRoots {
    let mut roots = TrustRoots::new();
    for (name, authorities) in of {
        roots.insert(&trust_domain(name), authorities.iter().map(|ca| ca.der.as_ref()));
    }
    roots
}
