use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, UnixTime};
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;
use vouchsafe_types::x509_svid::X509Svid;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::csr::{
    Csr, CsrTemplate, VerifyProofOfPossession as Proof, create_csr, create_csr_local, parse_csr,
};
use super::*;
use crate::key::{KeyType, PrivateKey};
use crate::signer::Signer;
use vouchsafe_runtime::class::Class;

const NOW: i64 = 1_800_000_000;

fn at(unix: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix.unsigned_abs())
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

async fn root(key_type: KeyType) -> X509Ca {
    let key = PrivateKey::generate(key_type).unwrap();
    let subject = Subject::ca_default();
    let trust_domain = trust_domain();
    let template =
        CaTemplate { trust_domain: &trust_domain, subject: &subject, now: NOW, not_after: NOW + 86_400 };
    let der = self_signed_ca(&key, &template).await.unwrap();
    X509Ca::new(trust_domain, der.into(), Vec::new(), Arc::new(key), NOW).unwrap()
}

struct Ask {
    id: SpiffeId,
    public_key_der: Vec<u8>,
    dns_names: Vec<String>,
    ttl: u64,
    now: i64,
    subject: Option<Subject>,
}

impl Ask {
    fn new() -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        Self {
            id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
            public_key_der: key.public_key_der().to_vec(),
            dns_names: Vec::new(),
            ttl: 3_600,
            now: NOW,
            subject: None,
        }
    }

    fn of(csr: Csr) -> Self {
        Self { public_key_der: csr.public_key_der, ..Self::new() }
    }

    async fn issue(&self, ca: &X509Ca) -> Result<Issued, IssueError> {
        let template = SvidTemplate {
            spiffe_id: &self.id,
            public_key_der: &self.public_key_der,
            dns_names: &self.dns_names,
            ttl: Duration::from_secs(self.ttl),
            now: at(self.now),
            subject: self.subject.as_ref(),
        };
        issue_svid(ca, &template).await
    }
}

/// Path building as a client does it: name for name, byte for byte.
fn verify(chain: &[Arc<[u8]>], root: &[u8], now: i64) -> Result<(), webpki::Error> {
    let certificates: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let root = CertificateDer::from(root);
    let anchors = [webpki::anchor_from_trusted_cert(&root)?];
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        let leaf = webpki::EndEntityCert::try_from(&certificates[0])?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, &certificates[1..], time, usage, None, None)?;
    }
    Ok(())
}

#[tokio::test]
async fn svids_of_every_key_type_verify_and_name_their_owner() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let ca = root(key_type).await;
        let issued = Ask::new().issue(&ca).await.unwrap();
        verify(&issued.chain, ca.cert_der(), NOW).unwrap();
        let svid = X509Svid::parse(issued.chain.clone()).unwrap();
        assert_eq!(svid.id.as_str(), "spiffe://example.org/web");
        assert_eq!((svid.not_before, svid.not_after), (NOW - 40, NOW + 3_600));
        assert_eq!(svid.serial, issued.serial);
        let other = root(key_type).await;
        verify(&issued.chain, other.cert_der(), NOW).unwrap_err();
    }
}

#[test]
fn svids_are_backdated_by_half_a_minute_of_skew_and_short_ones_by_as_much_as_in_spire() {
    for (ttl, expected) in [(1, 10), (600, 10), (1_800, 30), (2_400, 40), (3_600, 40), (86_400, 40)] {
        assert_eq!(backdate_secs(ttl), expected, "{ttl}");
    }
}

/// Everything of the profile in one look: what, in which order, and what is critical.
fn shape(der: &[u8]) -> (String, Vec<String>) {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let extensions = certificate.extensions().iter().map(|extension| {
        let critical = if extension.critical { "!" } else { "" };
        format!("{}{critical}={}", extension.oid, hex::encode(extension.value))
    });
    (hex::encode(certificate.subject().as_raw()), extensions.collect())
}

#[tokio::test]
async fn the_svid_profile_is_the_one_of_the_reference() {
    let ca = root(KeyType::EcP256).await;
    let ask = Ask { dns_names: vec!["a.example.org".into(), "b.example.org".into()], ..Ask::new() };
    let issued = ask.issue(&ca).await.unwrap();
    let (subject, extensions) = shape(&issued.chain[0]);
    // C=US, O=SPIRE, CN=a.example.org, each a PrintableString.
    let expected = "3035310b3009060355040613025553310e300c060355040a13055350495245311630140603550403130d612e6578616d706c652e6f7267";
    assert_eq!(subject, expected);
    let subject_key_id = hex::encode(crate::public_key::subject_key_id(&ask.public_key_der).unwrap());
    assert_eq!(
        extensions,
        [
            "2.5.29.15!=030203a8".to_owned(),
            "2.5.29.37=301406082b0601050507030106082b06010505070302".to_owned(),
            "2.5.29.19!=3000".to_owned(),
            format!("2.5.29.14=0414{subject_key_id}"),
            format!("2.5.29.35=30168014{}", ca.authority_id()),
            format!(
                "2.5.29.17=3038820d{}820d{}8618{}",
                hex::encode("a.example.org"),
                hex::encode("b.example.org"),
                hex::encode("spiffe://example.org/web"),
            ),
        ]
    );
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.issuer().as_raw(), ca.subject_raw());
    assert_eq!(certificate.public_key().raw, ask.public_key_der);
}

/// A key that somebody else holds.
#[derive(Debug)]
struct Remote(PrivateKey);

#[async_trait::async_trait]
impl Signer for Remote {
    fn public_key_der(&self) -> &[u8] {
        self.0.public_key_der()
    }

    fn algorithm(&self) -> crate::signer::SignatureAlgorithm {
        self.0.algorithm()
    }

    async fn sign(&self, message: &[u8]) -> Result<crate::signer::Signature, crate::signer::SignError> {
        tokio::task::yield_now().await;
        self.0.sign_local(message)
    }
}

#[tokio::test]
async fn a_remote_key_signs_through_the_same_trait_but_never_at_once() {
    let local = root(KeyType::EcP256).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let (trust_domain, subject) = (trust_domain(), Subject::ca_default());
    let template =
        CaTemplate { trust_domain: &trust_domain, subject: &subject, now: NOW, not_after: NOW + 86_400 };
    let signer = Arc::new(Remote(key));
    let der = self_signed_ca(&*signer, &template).await.unwrap();
    let remote = X509Ca::new(trust_domain.clone(), der.into(), Vec::new(), signer, NOW).unwrap();
    let ask = Ask::new();
    let template = SvidTemplate {
        spiffe_id: &ask.id,
        public_key_der: &ask.public_key_der,
        dns_names: &[],
        ttl: Duration::from_secs(60),
        now: at(NOW),
        subject: None,
    };
    assert!(issue_svid_now(&remote, &template).is_none());
    verify(&issue_svid(&remote, &template).await.unwrap().chain, remote.cert_der(), NOW).unwrap();
    verify(&issue_svid_now(&local, &template).unwrap().unwrap().chain, local.cert_der(), NOW).unwrap();
}

#[test]
fn the_default_subject_is_written_as_any_other() {
    assert_eq!(profile::SVID_SUBJECT, Subject::svid_default().to_der());
}

#[tokio::test]
async fn the_ca_profile_is_the_one_of_the_reference() {
    let ca = root(KeyType::EcP384).await;
    let (_, certificate) = X509Certificate::from_der(ca.cert_der()).unwrap();
    let (subject, extensions) = shape(ca.cert_der());
    let serial = certificate.raw_serial_as_string().replace(':', "");
    let serial = u128::from_str_radix(serial.trim_start_matches("00"), 16).unwrap().to_string();
    let named = Subject { serial_number: serial, ..Subject::ca_default() };
    assert_eq!(subject, hex::encode(named.to_der()));
    assert_eq!(
        extensions,
        [
            "2.5.29.15!=03020106".to_owned(),
            "2.5.29.19!=30030101ff".to_owned(),
            format!("2.5.29.14=0414{}", ca.authority_id()),
            format!("2.5.29.17=30168614{}", hex::encode("spiffe://example.org")),
        ]
    );
    assert_eq!(ca.upstream_authority_id(), "");
    assert_eq!((ca.not_before(), ca.not_after()), (NOW - 40, NOW + 86_400));
}

#[tokio::test]
async fn an_svid_never_outlives_its_authority_and_an_ended_authority_issues_none() {
    let ca = root(KeyType::EcP256).await;
    let issued = Ask { ttl: 1_000_000, ..Ask::new() }.issue(&ca).await.unwrap();
    assert_eq!(issued.not_after, ca.not_after());
    for ask in [Ask { now: ca.not_after(), ..Ask::new() }, Ask { ttl: 0, ..Ask::new() }] {
        let error = ask.issue(&ca).await.unwrap_err();
        assert!(matches!(error, IssueError::Expired { .. }));
        assert_eq!(error.class(), Class::Transient);
    }
}

#[tokio::test]
async fn what_may_not_be_certified_is_refused_by_name() {
    let ca = root(KeyType::EcP256).await;
    let check = async |ask: Ask, expected: &str| {
        let error = ask.issue(&ca).await.unwrap_err();
        assert_eq!(error.class(), Class::Caller);
        assert!(error.to_string().contains(expected), "{error}");
    };
    let id = |text| SpiffeId::parse(text).unwrap();
    let foreign = Ask { id: id("spiffe://other.org/web"), ..Ask::new() };
    check(foreign, r#""spiffe://other.org/web" is not a member of trust domain "example.org""#).await;
    check(Ask { id: id("spiffe://example.org"), ..Ask::new() }, "path is empty").await;
    check(Ask { dns_names: vec!["ä.example.org".into()], ..Ask::new() }, "DNS name").await;
    check(Ask { public_key_der: vec![0x30, 0], ..Ask::new() }, "public key is not usable").await;
}

#[tokio::test]
async fn a_subject_of_the_caller_replaces_the_default_but_not_the_common_name_rule() {
    let ca = root(KeyType::EcP256).await;
    let subject =
        Subject { organization: vec!["Acme".into()], common_name: "me".into(), ..Subject::default() };
    let subject = Some(subject);
    let given = Ask { subject: subject.clone(), ..Ask::new() }.issue(&ca).await.unwrap();
    let (_, certificate) = X509Certificate::from_der(&given.chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=Acme, CN=me");
    let named = Ask { subject, dns_names: vec!["a.org".into()], ..Ask::new() }.issue(&ca).await.unwrap();
    let (_, certificate) = X509Certificate::from_der(&named.chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=Acme, CN=a.org");
    let empty = Ask { subject: Some(Subject::default()), ..Ask::new() }.issue(&ca).await.unwrap();
    let (_, certificate) = X509Certificate::from_der(&empty.chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "C=US, O=SPIRE");
}

struct Upstream {
    root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// Names as Active Directory makes them: an attribute occurs more than once.
fn repeated_names(params: &mut CertificateParams, last: &str) {
    let name = &mut params.distinguished_name;
    *name = rcgen::DistinguishedName::new();
    name.push(DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]), "example");
    name.push(DnType::OrganizationalUnitName, "a");
    name.push(DnType::CustomDnType(vec![2, 5, 4, 11]), "b");
    name.push(DnType::CommonName, last);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
}

fn upstream() -> Upstream {
    let mut params = CertificateParams::default();
    repeated_names(&mut params, "root");
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().der().to_vec();
    Upstream { root, issuer: Issuer::new(params, key) }
}

struct RawKey(Vec<u8>);

impl rcgen::PublicKeyData for RawKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn intermediate(upstream: &Upstream, change: impl FnOnce(&mut CertificateParams)) -> Result<X509Ca, CaError> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let point = RawKey(key.public_key_der()[26..].to_vec());
    let mut params = CertificateParams::default();
    repeated_names(&mut params, "intermediate");
    change(&mut params);
    let certificate: Arc<[u8]> = params.signed_by(&point, &upstream.issuer).unwrap().der().to_vec().into();
    X509Ca::new(trust_domain(), certificate.clone(), vec![certificate], Arc::new(key), NOW)
}

#[tokio::test]
async fn chains_below_an_upstream_ca_with_repeated_name_attributes_verify() {
    let upstream = upstream();
    let ca = intermediate(&upstream, |_| {}).unwrap();
    let issued = Ask::new().issue(&ca).await.unwrap();
    assert_eq!(issued.chain.len(), 2);
    verify(&issued.chain, &upstream.root, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(leaf.issuer().iter_organizational_unit().count(), 2);
}

#[tokio::test]
async fn who_trusts_the_old_or_the_new_authority_reaches_a_leaf_over_the_bridge() {
    let (old, new) = (root(KeyType::EcP384).await, root(KeyType::EcP256).await);
    let mut chain = Ask::new().issue(&new).await.unwrap().chain;
    chain.push(cross_certify(&old, &new, NOW).await.unwrap().into());
    for anchor in [&old, &new] {
        verify(&chain, anchor.cert_der(), NOW).unwrap();
    }
    verify(&chain, root(KeyType::EcP256).await.cert_der(), NOW).unwrap_err();
    X509Svid::parse(chain).unwrap();
}

#[tokio::test]
async fn authorities_of_servers_below_us_verify_to_our_root_at_any_depth() {
    let top = root(KeyType::EcP256).await;
    let mut above = top.clone();
    for depth in 1..4 {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let ttl = Duration::from_secs(100 * 86_400);
        let template = DownstreamTemplate { public_key_der: key.public_key_der(), ttl, now: at(NOW) };
        let issued = issue_downstream_ca(&above, &template).await.unwrap();
        assert_eq!(issued.not_after, above.not_after(), "no longer than the authority above");
        let said = Certificate::parse(&issued.chain[0]).unwrap();
        assert_eq!(
            (said.is_ca, said.uris.as_slice()),
            (true, ["spiffe://example.org".to_owned()].as_slice())
        );
        let (own, parent) = (Subject::parse(&said.subject_der), Subject::parse(above.subject_raw()));
        let expected = Subject {
            organizational_unit: vec![format!("DOWNSTREAM-{}", above.chain().len().max(1))],
            ..parent.unwrap()
        };
        assert_eq!(own.unwrap(), expected);
        let (cert, chain) = (issued.chain[0].clone(), issued.chain);
        let ca = X509Ca::new(trust_domain(), cert, chain, Arc::new(key), NOW).unwrap();
        assert_eq!(ca.upstream_authority_id(), above.authority_id());
        assert!(ca.is_under(top.authority_id()) && !top.is_under(ca.authority_id()));
        assert_eq!(ca.root_id(), top.authority_id());
        let svid = Ask::new().issue(&ca).await.unwrap();
        assert_eq!(svid.chain.len(), depth + 1);
        verify(&svid.chain, top.cert_der(), NOW).unwrap();
        above = ca;
    }
}

#[test]
fn certificates_that_cannot_be_our_authority_are_refused() {
    let upstream = upstream();
    let check = |change: &dyn Fn(&mut CertificateParams), expected: &str| {
        let error = intermediate(&upstream, change).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&|params| params.is_ca = IsCa::NoCa, "basic constraints");
    check(&|params| params.is_ca = IsCa::ExplicitNoCa, "cA constraint is not set");
    check(&|params| params.key_usages = vec![KeyUsagePurpose::CrlSign], "keyCertSign");
    check(&|params| params.key_usages.push(KeyUsagePurpose::KeyAgreement), "only keyCertSign");
    let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
    check(&|params| params.subject_alt_names = vec![uri("spiffe://other.org")], "expected URI SAN");
    intermediate(&upstream, |params| params.subject_alt_names = vec![uri("spiffe://example.org")]).unwrap();
}

/// webpki refuses every chain with such constraints, matching or not, so nobody could use the SVIDs.
#[test]
fn an_upstream_ca_with_uri_name_constraints_is_refused_with_advice() {
    let content = [&[0x30, 17, 0xa0, 15, 0x30, 13, 0x86, 11][..], b"example.org"].concat();
    let constraint = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    let error = intermediate(&upstream(), |params| params.custom_extensions = vec![constraint]).unwrap_err();
    assert!(matches!(error, CaError::UriNameConstraints { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_key_is_no_authority() {
    let ca = root(KeyType::EcP256).await;
    let other = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let error = X509Ca::new(trust_domain(), ca.cert_der().clone(), Vec::new(), other, NOW).unwrap_err();
    assert!(matches!(error, CaError::OtherKey));
}

const P384_SHA256: &[u8] = include_bytes!("../../tests/csr/p384s256.csr");
const P256_SHA512: &[u8] = include_bytes!("../../tests/csr/p256s512.csr");
const RSA_SHA384: &[u8] = include_bytes!("../../tests/csr/rsa384.csr");

#[tokio::test]
async fn a_p384_key_that_signs_its_request_with_sha256_stays_a_p384_key() {
    let ca = root(KeyType::EcP256).await;
    let csr = parse_csr(P384_SHA256, Proof::Yes).unwrap();
    assert_eq!(csr.uris, ["spiffe://example.org/w"]);
    assert_eq!(csr.dns_names, ["a.example.org", "b.example.org"]);
    assert_eq!(Subject::parse(&csr.subject_raw).unwrap(), Subject::svid_default());
    let ask = Ask::of(csr);
    let issued = ask.issue(&ca).await.unwrap();
    verify(&issued.chain, ca.cert_der(), NOW).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.public_key().raw, ask.public_key_der);
    assert_eq!(
        crate::public_key::PublicKey::parse(&ask.public_key_der).unwrap().kind(),
        crate::public_key::Kind::P384
    );
}

#[test]
fn requests_of_openssl_with_other_hashes_are_accepted() {
    for csr in [P256_SHA512, RSA_SHA384] {
        parse_csr(csr, Proof::Yes).unwrap();
    }
}

#[test]
fn requests_are_refused_with_the_reason() {
    let check = |csr: &[u8], expected: &str| {
        let text = parse_csr(csr, Proof::Yes).unwrap_err().status_text();
        assert!(text.starts_with(expected), "{text}");
    };
    check(b"", "malformed CSR: CSR is cut short");
    check(b"-----BEGIN CERTIFICATE REQUEST-----", "malformed CSR: CSR has tag 0x2d where 0x30 belongs");
    check(&vec![0x30; csr::MAX_CSR_LEN + 1], "malformed CSR: 65537 bytes: a CSR has at most 65536");
    check(
        include_bytes!("../../tests/csr/ed.csr"),
        "malformed CSR: public key algorithm 1.3.101.112 is not supported",
    );
    check(
        include_bytes!("../../tests/csr/k1.csr"),
        "malformed CSR: public key algorithm on curve 1.3.132.0.10",
    );
    check(include_bytes!("../../tests/csr/p521.csr"), "malformed CSR: P521 keys are not issued to");
    check(
        include_bytes!("../../tests/csr/rsa1024.csr"),
        "malformed CSR: RSA key of 1024 bits: must be 2048 to 8192",
    );
    let unsupported = "invalid CSR signature: signature algorithm 1.2.840.113549.1.1";
    check(include_bytes!("../../tests/csr/rsapss.csr"), &format!("{unsupported}.10 is not supported"));
    check(include_bytes!("../../tests/csr/rsasha1.csr"), &format!("{unsupported}.5 is not supported"));
    let mut longer = P384_SHA256.to_vec();
    longer.push(0);
    check(&longer, "malformed CSR: CSR is followed by 1 bytes");
    let mut forged = P384_SHA256.to_vec();
    let at = forged.windows(5).position(|part| part == b"SPIRE").unwrap();
    forged[at] = b'T';
    check(&forged, "invalid CSR signature: signature does not match the public key");
    parse_csr(&forged, Proof::No).unwrap();
}

#[tokio::test]
async fn our_own_requests_parse_with_what_they_ask_for() {
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let agent = parse_csr(&create_csr(&key, None).await.unwrap(), Proof::Yes).unwrap();
    assert_eq!(agent.public_key_der, key.public_key_der());
    assert!(agent.uris.is_empty() && agent.dns_names.is_empty());
    let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
    let subject = Subject { common_name: "mint".into(), ..Subject::default() };
    let dns_names = ["web.example.org".to_owned()];
    let template = CsrTemplate { subject: &subject, uri: Some(&id), dns_names: &dns_names };
    let minted = parse_csr(&create_csr_local(&key, &template).unwrap(), Proof::Yes).unwrap();
    assert_eq!(minted.uris, [id.as_str()]);
    assert_eq!(minted.dns_names, dns_names);
    assert_eq!(Subject::parse(&minted.subject_raw).unwrap(), subject);
}

proptest! {
    /// No change to a request is accepted with proof of possession, and none makes the parser panic without.
    #[test]
    fn a_changed_request_is_refused(at in 0..P384_SHA256.len(), value in any::<u8>()) {
        let mut changed = P384_SHA256.to_vec();
        prop_assume!(changed[at] != value);
        changed[at] = value;
        prop_assert!(parse_csr(&changed, Proof::Yes).is_err());
        let _parsed = parse_csr(&changed, Proof::No);
    }

    #[test]
    fn a_cut_request_is_refused(length in 0..P384_SHA256.len()) {
        prop_assert!(parse_csr(&P384_SHA256[..length], Proof::No).is_err());
    }
}
