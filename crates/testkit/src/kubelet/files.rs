//! Certificates and tokens of a kubelet, in files.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Files for both ends. They go when this is dropped.
#[derive(Debug)]
pub struct KubeletFiles {
    _folder: tempfile::TempDir,
    /// The authority of both ends.
    pub ca: PathBuf,
    /// A bearer token.
    pub token: PathBuf,
    /// A client's certificate.
    pub client_certificate: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
    server_certificate: PathBuf,
    server_key: PathBuf,
}

impl KubeletFiles {
    /// New ones; the kubelet's certificate is for the host name `node`.
    ///
    /// # Panics
    ///
    /// When they cannot be written.
    #[must_use]
    pub fn make(node: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let path = |name: &str| folder.path().join(name);
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect("an authority");
        let issuer = Issuer::new(params, ca_key);
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).expect("a file of the kubelet");
            path(name)
        };
        let leaf = |name: &str, host: &str, usage| {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
            params.extended_key_usages = vec![usage];
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            let chain = write(&format!("{name}.crt"), &certificate.pem());
            (chain, write(&format!("{name}.key"), &key.serialize_pem()))
        };
        let (server_certificate, server_key) = leaf("kubelet", node, ExtendedKeyUsagePurpose::ServerAuth);
        let (client_certificate, client_key) = leaf("agent", "agent", ExtendedKeyUsagePurpose::ClientAuth);
        Self {
            ca: write("ca.crt", &ca.pem()),
            token: write("token", "a-token-of-this-cluster\n"),
            client_certificate,
            client_key,
            server_certificate,
            server_key,
            _folder: folder,
        }
    }

    /// For the kubelet's end.
    pub(super) fn server_config(&self, certificates_of_clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("protocol versions of the provider");
        let builder = if certificates_of_clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&self.ca).expect("the authority")).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_file(&self.server_certificate).expect("the certificate")];
        let key = PrivateKeyDer::from_pem_file(&self.server_key).expect("the key");
        Arc::new(builder.with_single_cert(chain, key).expect("a certificate with its key"))
    }
}
