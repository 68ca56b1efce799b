//! Certificates that operators bring: of machines, and of the authority above a server's.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, SanType,
};

/// An authority with its files.
pub(crate) struct Authority {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A machine's certificate with its files.
pub(crate) struct Leaf {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// SHA-1 of the certificate, in hex: the last part of the agent's SPIFFE ID.
    pub(crate) fingerprint: String,
}

impl Authority {
    /// A new root in `folder`. `uri` becomes its URI SAN.
    pub(crate) fn root(folder: &Path, name: &str, uri: Option<&str>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = uri.map(|uri| SanType::URI(uri.try_into().unwrap())).into_iter().collect();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (certificate_path, key_path) =
            (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        Self { certificate: certificate_path, key: key_path, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a machine.
    pub(crate) fn machine(&self, folder: &Path, name: &str) -> Leaf {
        self.leaf(folder, name, vec![])
    }

    /// A certificate for a web server on the loopback interface.
    pub(crate) fn web_server(&self, folder: &Path, name: &str) -> Leaf {
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        self.leaf(
            folder,
            name,
            vec![SanType::DnsName("localhost".try_into().unwrap()), SanType::IpAddress(address)],
        )
    }

    fn leaf(&self, folder: &Path, name: &str, sans: Vec<SanType>) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = sans;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate_path, key_path) =
            (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let digest = sha1::Sha1::digest(certificate.der());
        Leaf { certificate: certificate_path, key: key_path, fingerprint: hex::encode(digest) }
    }
}

use sha1::Digest as _;
