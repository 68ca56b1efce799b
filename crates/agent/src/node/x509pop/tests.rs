use super::*;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_FIXED, RSA_PSS_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};

fn challenge(kind: &str, nonce: &[u8]) -> Vec<u8> {
    let other = if kind == "rsa_signature" { "ecdsa_signature" } else { "rsa_signature" };
    let nonce = STANDARD.encode(nonce);
    format!(r#"{{"{other}":null,"{kind}":{{"nonce":"{nonce}"}}}}"#).into_bytes()
}

fn field(answer: &[u8], kind: &str, name: &str) -> Vec<u8> {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap();
    STANDARD.decode(answer[kind][name].as_str().unwrap()).unwrap()
}

/// Two numbers as ASN.1 has them; what SPIRE's server makes of them.
fn asn1(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let number: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        let sign: &[u8] = if number.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
        [&[2, u8::try_from(sign.len() + number.len()).unwrap()], sign, &number].concat()
    };
    let body = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

fn verify_ec(
    algorithm: &'static EcdsaSigningAlgorithm,
    verifier: &'static dyn VerificationAlgorithm,
    der: bool,
) {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let public = pair.public_key().as_ref().to_vec();
    let key = ProofKey::from_der(pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
    let theirs = [7; NONCE_LEN];
    let answer = key.answer(&challenge("ecdsa_signature", &theirs)).unwrap();
    let part = |name| field(&answer, "ecdsa_signature", name);
    let (r, s) = (part("r"), part("s"));
    let signature = if der { asn1(&r, &s) } else { [r, s].concat() };
    let message = [&theirs[..], &part("nonce")].concat();
    UnparsedPublicKey::new(verifier, public).verify(&message, &signature).unwrap();
}

#[test]
fn ecdsa_keys_of_each_curve_sign_the_sha256_of_both_nonces() {
    verify_ec(&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_FIXED, false);
    verify_ec(&ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA256_ASN1, true);
    verify_ec(&ECDSA_P521_SHA256_FIXED_SIGNING, &ECDSA_P521_SHA256_FIXED, false);
}

#[test]
fn rsa_keys_sign_with_pss() {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let public = pair.public_key().as_ref().to_vec();
    let key = ProofKey::Rsa(pair);
    let theirs = [9; NONCE_LEN];
    let answer = key.answer(&challenge("rsa_signature", &theirs)).unwrap();
    let message = [&theirs[..], &field(&answer, "rsa_signature", "nonce")].concat();
    let signature = field(&answer, "rsa_signature", "signature");
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public).verify(&message, &signature).unwrap();
}

#[test]
fn a_challenge_that_has_no_answer_is_refused() {
    let key = ProofKey::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), Curve::P256);
    let refused = |challenge: &[u8], text: &str| {
        let error = key.answer(challenge).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(b"{", "unable to unmarshal challenge");
    refused(&challenge("rsa_signature", &[1; NONCE_LEN]), "expecting ECDSA challenge");
    refused(&challenge("ecdsa_signature", &[1; NONCE_LEN - 1]), "invalid challenge nonce");
    refused(br#"{"ecdsa_signature":{"nonce":"?"}}"#, "");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let pop = X509Pop::Files { private_key: path("key"), certificate: path("cert"), intermediates: None };
    let refused = async |texts: &[&str]| {
        let error = pop.load().await.err().unwrap().to_string();
        assert!(texts.iter().all(|text| error.contains(text)), "{error}");
    };
    refused(&["cert", "certificate_path", "cannot read"]).await;
    std::fs::write(path("cert"), "nothing").unwrap();
    refused(&["cert", "there is no certificate in it"]).await;
    std::fs::write(path("cert"), pem::encode("CERTIFICATE", b"x")).unwrap();
    refused(&["key", "private_key_path", "cannot read"]).await;
    std::fs::write(path("key"), pem::encode("ENCRYPTED PRIVATE KEY", b"x")).unwrap();
    refused(&["key", "encrypted"]).await;
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    std::fs::write(path("key"), pem::encode("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref())).unwrap();
    refused(&["not the key of the certificate"]).await;
}
