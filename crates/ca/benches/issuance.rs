//! What issuing costs beside the cryptography that it cannot do without.
//!
//! `cargo bench -p vouchsafe-ca` prints medians on one core. Every row is measured together with its limit: raw
//! aws-lc-rs calls on the same bytes, in turns of a few operations, so that both see the same machine. Exits
//! with 1 if a ratio is below its target.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, UnparsedPublicKey,
};
use tokio::time::Instant;
use vouchsafe_ca::jwt::{JwtKey, JwtTemplate, sign_jwt_svid_now};
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::signer::Signer;
use vouchsafe_ca::x509::csr::{CsrTemplate, VerifyProofOfPossession, create_csr_local, parse_csr};
use vouchsafe_ca::x509::{CaTemplate, Subject, SvidTemplate, X509Ca, issue_svid_now, self_signed_ca};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

type Failure = Box<dyn std::error::Error>;

const NOW: i64 = 1_800_000_000;
/// Operations per turn: short enough that a disturbance hits both sides.
const TURN: u32 = 20;
/// Turns per side.
const TURNS: usize = 600;
/// Ratio that must be reached.
const TARGET: f64 = 0.8;

fn main() -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let fixture = runtime.block_on(Fixture::new())?;
    println!("{:<34} {:>10} {:>10} {:>10} {:>7}", "operation", "raw µs", "ours µs", "ours /s", "ratio");
    let csr = row(
        "X509-SVID from CSR (P-256)",
        || {
            fixture.raw_verify();
            fixture.raw_sign(&fixture.ca_pair, &fixture.tbs);
        },
        || fixture.issue_from_csr(),
    );
    row(
        "X509-SVID from public key (P-256)",
        || fixture.raw_sign(&fixture.ca_pair, &fixture.tbs),
        || fixture.issue(&fixture.public_key_der),
    );
    let jwt = row(
        "JWT-SVID (ES256)",
        || fixture.raw_sign(&fixture.jwt_pair, &fixture.signing_input),
        || fixture.sign_jwt(),
    );
    let good = csr >= TARGET && jwt >= TARGET;
    println!("target: ratio >= {TARGET} from CSR and for JWT: {}", if good { "reached" } else { "MISSED" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Fixture {
    ca: X509Ca,
    ca_pair: EcdsaKeyPair,
    jwt: JwtKey,
    jwt_pair: EcdsaKeyPair,
    id: SpiffeId,
    csr: Vec<u8>,
    /// The signed part of the request, its signature and the point of its key: for the raw side.
    info: Vec<u8>,
    signature: Vec<u8>,
    point: Vec<u8>,
    public_key_der: Vec<u8>,
    /// A TBSCertificate and a signing input as ours sign them.
    tbs: Vec<u8>,
    signing_input: Vec<u8>,
    audience: Vec<String>,
    now: SystemTime,
}

impl Fixture {
    async fn new() -> Result<Self, Failure> {
        let trust_domain = TrustDomain::parse("example.org")?;
        let id = SpiffeId::parse("spiffe://example.org/ns/prod/sa/checkout")?;
        let ca_key = PrivateKey::generate(KeyType::EcP256)?;
        let ca_pair = pair(&ECDSA_P256_SHA256_ASN1_SIGNING, &ca_key)?;
        let subject = Subject::ca_default();
        let template =
            CaTemplate { trust_domain: &trust_domain, subject: &subject, now: NOW, not_after: NOW + 86_400 };
        let der = self_signed_ca(&ca_key, &template).await?;
        let ca = X509Ca::new(trust_domain.clone(), der.into(), Vec::new(), Arc::new(ca_key), NOW)?;
        let jwt_key = PrivateKey::generate(KeyType::EcP256)?;
        let jwt_pair = pair(&ECDSA_P256_SHA256_FIXED_SIGNING, &jwt_key)?;
        let jwt = JwtKey::new(trust_domain, Arc::new(jwt_key), "k".repeat(32), NOW, NOW + 86_400);
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let subject = Subject::svid_default();
        let csr = create_csr_local(&key, &CsrTemplate { subject: &subject, uri: Some(&id), dns_names: &[] })?;
        let (info, signature) = split(&csr)?;
        let mut fixture = Self {
            ca,
            ca_pair,
            jwt,
            jwt_pair,
            id,
            info,
            signature,
            point: key.public_key_der()[26..].to_vec(),
            public_key_der: key.public_key_der().to_vec(),
            csr,
            tbs: Vec::new(),
            signing_input: Vec::new(),
            audience: vec!["spiffe://example.org/db".into()],
            now: UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs()),
        };
        let template = fixture.svid_template(&fixture.public_key_der);
        let issued = issue_svid_now(&fixture.ca, &template).ok_or("key is not local")??;
        fixture.tbs = split(&issued.chain[0])?.0;
        let token =
            sign_jwt_svid_now(&fixture.jwt, &fixture.jwt_template()).ok_or("key is not local")??.token;
        fixture.signing_input = token.rsplit_once('.').ok_or("no token")?.0.into();
        Ok(fixture)
    }

    fn svid_template<'a>(&'a self, public_key_der: &'a [u8]) -> SvidTemplate<'a> {
        let (spiffe_id, ttl) = (&self.id, Duration::from_secs(3_600));
        SvidTemplate { spiffe_id, public_key_der, dns_names: &[], ttl, now: self.now, subject: None }
    }

    fn jwt_template(&self) -> JwtTemplate<'_> {
        let (spiffe_id, ttl) = (&self.id, Duration::from_secs(300));
        JwtTemplate { spiffe_id, audience: &self.audience, ttl, now: self.now, issuer: None, jti: None }
    }

    fn raw_verify(&self) {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        let verified = key.verify(&self.info, &self.signature);
        assert!(black_box(verified).is_ok());
    }

    fn raw_sign(&self, pair: &EcdsaKeyPair, message: &[u8]) {
        let signed = pair.sign(&SystemRandom::new(), message);
        assert!(black_box(signed).is_ok());
    }

    fn issue_from_csr(&self) {
        let csr = parse_csr(&self.csr, VerifyProofOfPossession::Yes);
        let public_key_der = csr.map(|csr| csr.public_key_der).unwrap_or_default();
        self.issue(&public_key_der);
    }

    fn issue(&self, public_key_der: &[u8]) {
        let issued = issue_svid_now(&self.ca, &self.svid_template(public_key_der));
        assert!(matches!(black_box(issued), Some(Ok(_))));
    }

    fn sign_jwt(&self) {
        let signed = sign_jwt_svid_now(&self.jwt, &self.jwt_template());
        assert!(matches!(black_box(signed), Some(Ok(_))));
    }
}

fn pair(algorithm: &'static EcdsaSigningAlgorithm, key: &PrivateKey) -> Result<EcdsaKeyPair, Failure> {
    EcdsaKeyPair::from_pkcs8(algorithm, &key.pkcs8()?).map_err(|_| "key does not load".into())
}

/// What is signed and the signature, of a certificate or request.
fn split(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let body = element(der)?.1;
    let (info, _) = element(body)?;
    let rest = &body[info.len()..];
    let (algorithm, _) = element(rest)?;
    let (_, signature) = element(&rest[algorithm.len()..])?;
    Ok((info.to_vec(), signature[1..].to_vec()))
}

/// The first element, whole, and its content.
fn element(der: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let (header, length) = match *der {
        [_, length @ 0..=127, ..] => (2, usize::from(length)),
        [_, 0x81, length, ..] => (3, usize::from(length)),
        [_, 0x82, high, low, ..] => (4, usize::from(high) << 8 | usize::from(low)),
        _ => return Err("no DER".into()),
    };
    Ok((&der[..header + length], &der[header..header + length]))
}

/// Measures both sides in turns, prints a row, gives the ratio of their rates.
fn row(name: &str, raw: impl Fn(), ours: impl Fn()) -> f64 {
    let (mut raw_times, mut our_times) = (Vec::with_capacity(TURNS), Vec::with_capacity(TURNS));
    for turn in 0..TURNS + TURNS / 10 {
        let (first, second) = (time(&raw), time(&ours));
        if turn >= TURNS / 10 {
            raw_times.push(first);
            our_times.push(second);
        }
    }
    let (raw, ours) = (median(raw_times), median(our_times));
    let ratio = raw / ours;
    println!("{name:<34} {raw:>10.2} {ours:>10.2} {:>10.0} {:>6.1}%", 1e6 / ours, ratio * 100.0);
    ratio
}

/// Microseconds per operation.
fn time(operation: impl Fn()) -> f64 {
    let start = Instant::now();
    for _ in 0..TURN {
        operation();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TURN)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
