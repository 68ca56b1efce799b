use std::fs;

use tempfile::TempDir;
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::authority::{Recipe, SlotId, create_upstream_x509_ca};
use crate::key::KeyType;
use crate::key_manager::Memory;
use crate::x509::{CaTemplate, Subject, X509Ca, self_signed_ca};

const NOW: i64 = 1_900_000_000;
const DAY: Duration = Duration::from_secs(86_400);

/// The files of a CA in a directory of their own.
struct Files {
    dir: TempDir,
    ca: DiskCa,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (dir.path().join("ca.crt"), dir.path().join("ca.key"));
        Self { dir, ca: DiskCa { cert_file, key_file, bundle_file: None } }
    }

    async fn with_root() -> Self {
        let files = Self::new();
        let (key, der) = root("root").await;
        files.write(&[&der], &key);
        files
    }

    fn write(&self, certificates: &[&[u8]], key: &PrivateKey) {
        fs::write(&self.ca.cert_file, pem(certificates)).unwrap();
        fs::write(&self.ca.key_file, pem::encode("PRIVATE KEY", &key.pkcs8().unwrap())).unwrap();
    }

    fn bundle(mut self, certificates: &[&[u8]]) -> Self {
        let path = self.dir.path().join("bundle.crt");
        fs::write(&path, pem(certificates)).unwrap();
        self.ca.bundle_file = Some(path);
        self
    }

    fn open(&self) -> Result<Disk, DiskError> {
        Disk::open(self.ca.clone(), trust_domain())
    }
}

fn pem(certificates: &[&[u8]]) -> String {
    certificates.iter().map(|der| pem::encode("CERTIFICATE", der)).collect()
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn at(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix.unsigned_abs())
}

async fn root(name: &str) -> (PrivateKey, Vec<u8>) {
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let (trust_domain, subject) =
        (trust_domain(), Subject { common_name: name.into(), ..Subject::ca_default() });
    let template =
        CaTemplate { trust_domain: &trust_domain, subject: &subject, now: NOW, not_after: NOW + 10 * 86_400 };
    let der = self_signed_ca(&key, &template).await.unwrap();
    (key, der)
}

/// An intermediate CA below `ca`.
async fn below(ca: &(PrivateKey, Vec<u8>)) -> (PrivateKey, Vec<u8>) {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let issuer = Certificate::parse(&ca.1).unwrap();
    let issuer = CaIssuer {
        signer: &ca.0,
        subject_raw: &issuer.subject_der,
        subject_key_id: Some(&issuer.subject_key_id),
        not_after: issuer.not_after,
    };
    let subject = Subject { common_name: "intermediate".into(), ..Subject::ca_default() };
    let csr = crate::x509::csr::create_ca_csr(&key, &subject, &trust_domain()).await.unwrap();
    let csr = parse_csr(&csr, VerifyProofOfPossession::Yes).unwrap();
    let request = CaRequest::of(&csr, "spiffe://example.org", DAY, NOW);
    let issued = certify(&issuer, &request).await.unwrap();
    (key, issued.chain[0].to_vec())
}

async fn mint(disk: &Disk) -> Result<(X509Ca, Vec<X509Authority>), crate::authority::CreateError> {
    let recipe = Recipe { trust_domain: trust_domain(), key_type: KeyType::EcP256, ttl: DAY };
    let keys = Memory::new();
    create_upstream_x509_ca((&keys, SlotId::A), (&recipe, &Subject::ca_default()), disk, at(NOW)).await
}

fn id(der: &[u8]) -> String {
    Certificate::parse(der).unwrap().authority_id()
}

#[tokio::test]
async fn a_root_certifies_an_authority_of_our_name_and_trust_domain_no_longer_than_it_lives() {
    let files = Files::with_root().await;
    let disk = files.open().unwrap();
    let (ca, roots) = mint(&disk).await.unwrap();
    let [root] = roots.as_slice() else { panic!("{} roots", roots.len()) };
    assert_eq!(ca.upstream_authority_id(), id(&root.der));
    assert_eq!(ca.root_id(), id(&root.der));
    assert_eq!(ca.chain(), [ca.cert_der().clone()]);
    let said = Certificate::parse(ca.cert_der()).unwrap();
    assert_eq!(said.uris, ["spiffe://example.org"]);
    assert_eq!((said.not_before, said.not_after), (NOW - 40, NOW + 86_400));
    assert!(Subject::parse(&said.subject_der).unwrap().serial_number.len() > 20);
    let recipe = Recipe { trust_domain: trust_domain(), key_type: KeyType::EcP256, ttl: 100 * DAY };
    let (keys, subject) = (Memory::new(), Subject::ca_default());
    let made = create_upstream_x509_ca((&keys, SlotId::A), (&recipe, &subject), &disk, at(NOW)).await;
    assert_eq!(made.unwrap().0.not_after(), NOW + 10 * 86_400);
}

#[tokio::test]
async fn an_intermediate_is_carried_and_the_root_is_not() {
    let root = root("root").await;
    let middle = below(&root).await;
    let files = Files::new().bundle(&[&root.1]);
    files.write(&[&middle.1], &middle.0);
    let (ca, roots) = mint(&files.open().unwrap()).await.unwrap();
    assert_eq!(roots.iter().map(|root| root.der.to_vec()).collect::<Vec<_>>(), std::slice::from_ref(&root.1));
    assert_eq!(ca.chain().iter().map(|der| id(der)).collect::<Vec<_>>(), [id(ca.cert_der()), id(&middle.1)]);
    assert_eq!((ca.upstream_authority_id(), ca.root_id()), (id(&middle.1).as_str(), id(&root.1).as_str()));
    assert!(ca.is_under(&id(&root.1)) && ca.is_under(&id(&middle.1)) && !ca.is_under("other"));
}

#[tokio::test]
async fn files_are_read_again_for_each_authority_and_a_damaged_one_changes_nothing() {
    let files = Files::with_root().await;
    let disk = files.open().unwrap();
    let first = mint(&disk).await.unwrap().0;
    let (key, new) = root("new").await;
    files.write(&[&new], &key);
    let second = mint(&disk).await.unwrap().0;
    assert_ne!(first.upstream_authority_id(), second.upstream_authority_id());
    fs::write(&files.ca.cert_file, "half").unwrap();
    let third = mint(&disk).await.unwrap().0;
    assert_eq!(third.upstream_authority_id(), second.upstream_authority_id());
}

#[tokio::test]
async fn openssl_keys_in_their_old_forms_are_read() {
    for (label, arguments) in [
        ("EC PRIVATE KEY", ["ecparam", "-name", "secp384r1", "-genkey", "-noout"].as_slice()),
        ("RSA PRIVATE KEY", &["genrsa", "-traditional", "2048"]),
    ] {
        let made = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(String::from_utf8_lossy(&made.stdout).contains(label), "{made:?}");
        PrivateKey::from_pem(&made.stdout).unwrap();
    }
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAQID\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(PrivateKey::from_pem(locked.as_bytes()).unwrap_err().to_string().contains("decrypt it first"));
}

#[tokio::test]
async fn each_mistake_in_the_files_is_refused_by_name() {
    #[track_caller]
    fn check(files: &Files, expected: &[&str]) {
        let text = files.open().unwrap_err().to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    }
    let (key, der) = root("root").await;
    let (other_key, other) = root("other").await;
    let middle = below(&(key.clone(), der.clone())).await;

    check(&Files::new(), &["ca.key", "cannot be read"]);
    let files = Files::new();
    files.write(&[&der], &other_key);
    check(&files, &["ca.crt", "ca.key", "do not match"]);
    files.write(&[], &key);
    check(&files, &["ca.crt", "no CERTIFICATE block"]);
    files.write(&[b"no certificate"], &key);
    check(&files, &["ca.crt", "certificate 1 is not usable"]);
    files.write(&[&der, &other], &key);
    check(&files, &["ca.crt", "2 certificates", "bundle_file_path"]);
    files.write(&[&middle.1], &middle.0);
    check(&files, &["ca.crt", "not self-signed", "bundle_file_path"]);
    fs::write(&files.ca.cert_file, "-----BEGIN CERTIFICATE-----\nAQID\n").unwrap();
    check(&files, &["ca.crt", "not PEM", "cut off"]);
    fs::write(&files.ca.key_file, "no key").unwrap();
    check(&files, &["ca.key", "no block PRIVATE KEY"]);
    fs::write(&files.ca.key_file, vec![b'a'; MAX_FILE_BYTES as usize + 1]).unwrap();
    check(&files, &["ca.key", "something else"]);

    let files = Files::new().bundle(&[&other]);
    files.write(&[&middle.1], &middle.0);
    check(&files, &["ca.crt", "cannot be validated", "bundle.crt"]);
    let files = Files::new().bundle(&[]);
    files.write(&[&middle.1], &middle.0);
    check(&files, &["bundle.crt", "no CERTIFICATE block"]);
}

#[tokio::test]
async fn a_request_for_another_identity_is_refused() {
    let disk = Files::with_root().await.open().unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let other = TrustDomain::parse("other.org").unwrap();
    let csr = crate::x509::csr::create_ca_csr(&key, &Subject::ca_default(), &other).await.unwrap();
    let refused = disk.mint_x509_ca(&csr, DAY, at(NOW)).await.unwrap_err();
    assert!(refused.to_string().contains("spiffe://example.org alone"), "{refused}");
}
