//! The cluster's certificates and keys.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

/// The authority of a cluster, and the folder with all files.
pub(super) struct Pki {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
}

impl Pki {
    /// Writes `ca.crt`, the API server's certificate, and the key that signs tokens of service accounts.
    pub(super) fn create(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("kubernetes-ca", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate").pem();
        let pki = Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), ca };
        pki.write("ca.crt", &pki.ca);
        let names = ["localhost", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        pki.server("apiserver", &names);
        pki.client("proxy", "front-proxy", &[]);
        pki.client("kcm", "system:kube-controller-manager", &[]);
        pki.client("kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"]);
        let tokens = KeyPair::generate().expect("a key");
        pki.write("sa.key", &tokens.serialize_pem());
        pki.write("sa.pub", &tokens.public_key_pem());
        pki
    }

    /// The authority's certificate.
    pub(super) fn ca(&self) -> &str {
        &self.ca
    }

    /// A certificate for a server on the loopback interface, in `<file>.crt` and `<file>.key`.
    pub(super) fn server(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(file, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::from([127, 0, 0, 1]))];
        let names = names.iter().map(|name| SanType::DnsName((*name).try_into().expect("a DNS name")));
        params.subject_alt_names.extend(names);
        self.issue(file, &params)
    }

    /// A certificate for a user in groups, in `<file>.crt` and `<file>.key`.
    pub(super) fn client(&self, file: &str, user: &str, groups: &[&str]) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &params)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (
            self.write(&format!("{file}.crt"), &certificate.pem()),
            self.write(&format!("{file}.key"), &key.serialize_pem()),
        )
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("room for a file");
        path
    }
}

fn named(user: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    // One organization at most: the type keeps one value for each kind.
    groups.iter().for_each(|group| name.push(DnType::OrganizationName, *group));
    name
}
