use std::time::UNIX_EPOCH;

use vouchsafe_types::bundle::JwtAuthority;
use vouchsafe_types::jwt_svid::JwtSvid;

use super::*;
use crate::authority::jwt_bundle_entry;
use crate::key::{KeyType, PrivateKey};
use crate::public_key::VerifyError;

const NOW: i64 = 1_800_000_000;

fn key(key_type: KeyType, kid: &str) -> JwtKey {
    let signer = Arc::new(PrivateKey::generate(key_type).unwrap());
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    JwtKey::new(trust_domain, signer, kid.into(), NOW, NOW + 86_400)
}

struct Ask<'a> {
    id: &'a str,
    audience: Vec<String>,
    ttl: u64,
    issuer: Option<&'a str>,
    jti: Option<&'a str>,
}

impl Ask<'_> {
    fn new() -> Self {
        Self {
            id: "spiffe://example.org/web",
            audience: vec!["db".into()],
            ttl: 300,
            issuer: None,
            jti: None,
        }
    }

    async fn sign(&self, key: &JwtKey) -> Result<SignedJwt, JwtError> {
        let template = JwtTemplate {
            spiffe_id: &SpiffeId::parse(self.id).unwrap(),
            audience: &self.audience,
            ttl: Duration::from_secs(self.ttl),
            now: UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs()),
            issuer: self.issuer,
            jti: self.jti,
        };
        sign_jwt_svid(key, &template).await
    }
}

#[tokio::test]
async fn tokens_of_every_key_type_verify_with_their_authority_only() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let signer = key(key_type, "k");
        let token = JwtSvid::parse_unverified(&Ask::new().sign(&signer).await.unwrap().token).unwrap();
        verify(&token, &jwt_bundle_entry(&signer)).unwrap();
        let error = verify(&token, &jwt_bundle_entry(&key(key_type, "k"))).unwrap_err();
        assert!(matches!(error, VerifyTokenError::Signature(VerifyError::Signature)));
    }
}

#[tokio::test]
async fn header_and_claims_are_those_of_the_reference() {
    let ask = Ask {
        audience: vec!["db".into(), String::new(), "a \"quoted\" one".into()],
        issuer: Some("https://issuer.example.org"),
        jti: Some("abc"),
        ..Ask::new()
    };
    let signed = ask.sign(&key(KeyType::EcP256, "Kid1")).await.unwrap();
    let decode = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let parts: Vec<_> = signed.token.split('.').collect();
    assert_eq!(decode(parts[0]), r#"{"alg":"ES256","kid":"Kid1","typ":"JWT"}"#);
    let claims = r#"{"aud":["db","a \"quoted\" one"],"exp":1800000300,"iat":1800000000,"iss":"https://issuer.example.org","jti":"abc","sub":"spiffe://example.org/web"}"#;
    assert_eq!(decode(parts[1]), claims);
    assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
    assert_eq!((signed.issued_at, signed.expires_at), (NOW, NOW + 300));
    assert!(!format!("{signed:?}").contains(parts[2]));
}

#[tokio::test]
async fn a_token_is_refused_under_another_kid() {
    let signer = key(KeyType::EcP256, "right");
    let token = JwtSvid::parse_unverified(&Ask::new().sign(&signer).await.unwrap().token).unwrap();
    let wrong = JwtAuthority { key_id: "wrong".into(), ..jwt_bundle_entry(&signer) };
    let error = verify(&token, &wrong).unwrap_err();
    assert!(matches!(error, VerifyTokenError::OtherKey { .. }), "{error}");
}

/// The token with another header and its signature as it was.
fn with_algorithm(token: &str, algorithm: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    let header = format!(r#"{{"alg":"{algorithm}","kid":"k","typ":"JWT"}}"#);
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
}

#[tokio::test]
async fn a_token_cannot_choose_how_it_is_verified() {
    for (key_type, own) in [(KeyType::EcP256, "ES256"), (KeyType::Rsa2048, "RS256")] {
        let signer = key(key_type, "k");
        let token = Ask::new().sign(&signer).await.unwrap().token;
        for algorithm in ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
            let changed = JwtSvid::parse_unverified(&with_algorithm(&token, algorithm)).unwrap();
            let verified = verify(&changed, &jwt_bundle_entry(&signer));
            assert_eq!(verified.is_ok(), algorithm == own, "{algorithm} with {key_type}");
            let families = algorithm.starts_with("ES") == own.starts_with("ES");
            let mismatch = matches!(verified, Err(VerifyTokenError::Signature(VerifyError::Mismatch { .. })));
            assert!(families || mismatch, "{algorithm} never reaches a {key_type} key");
        }
        for algorithm in ["none", "None", "HS256", "EdDSA", ""] {
            JwtSvid::parse_unverified(&with_algorithm(&token, algorithm)).unwrap_err();
        }
    }
}

#[tokio::test]
async fn a_token_never_outlives_its_authority() {
    let signer = key(KeyType::EcP256, "k");
    let signed = Ask { ttl: 1_000_000, ..Ask::new() }.sign(&signer).await.unwrap();
    assert_eq!(signed.expires_at, signer.not_after());
}

#[tokio::test]
async fn what_may_not_be_signed_is_refused_by_name() {
    let signer = key(KeyType::EcP256, "k");
    let check = async |ask: Ask<'_>, expected: &str| {
        let error = ask.sign(&signer).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(Ask { id: "spiffe://other.org/web", ..Ask::new() }, "not a member of trust domain").await;
    check(Ask { id: "spiffe://example.org", ..Ask::new() }, "path is empty").await;
    check(Ask { audience: vec![String::new()], ..Ask::new() }, "audience: cannot be empty").await;
    check(Ask { ttl: 0, ..Ask::new() }, "is the clock right?").await;
}
