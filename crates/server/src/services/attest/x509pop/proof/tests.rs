use super::*;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    self as aws, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RsaPssSaltLength, RsaSignatureEncoding,
};

const OURS: [u8; NONCE] = [7; NONCE];
const THEIRS: [u8; NONCE] = [9; NONCE];
static LONGEST_SALT: RsaSignatureEncoding = aws::RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);

fn b64(bytes: &[u8]) -> Option<String> {
    Some(STANDARD.encode(bytes))
}

fn message() -> Vec<u8> {
    [OURS, THEIRS].concat()
}

/// The two numbers of a DER signature, as Go writes numbers.
fn numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let body = if der[1] == 0x81 { &der[3..] } else { &der[2..] };
    let length = usize::from(body[1]);
    let (r, rest) = (&body[2..2 + length], &body[2 + length..]);
    let bytes = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    (bytes(r), bytes(&rest[2..]))
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> (Vec<u8>, Response) {
    let key = EcdsaKeyPair::generate(algorithm).unwrap();
    let signature = key.sign(&SystemRandom::new(), &message()).unwrap();
    let (r, s) = numbers(signature.as_ref());
    let proof = EcdsaSignature { nonce: b64(&THEIRS), r: b64(&r), s: b64(&s) };
    let spki = key.public_key().as_der().unwrap().as_ref().to_vec();
    (spki, Response { ecdsa_signature: Some(proof), rsa_signature: None })
}

fn rsa(encoding: &'static RsaSignatureEncoding) -> (Vec<u8>, Response) {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), &message(), &mut signature).unwrap();
    let proof = RsaSignature { nonce: b64(&THEIRS), signature: b64(&signature) };
    let spki = key.public_key().as_der().unwrap().as_ref().to_vec();
    (spki, Response { rsa_signature: Some(proof), ecdsa_signature: None })
}

fn check(spki: &[u8], response: &Response) -> Result<(), &'static str> {
    verify(&PublicKey::parse(spki).unwrap(), &OURS, response)
}

#[test]
fn every_curve_proves_itself_and_a_changed_number_proves_nothing() {
    for algorithm in [&aws::ECDSA_P256_SHA256_ASN1_SIGNING, &aws::ECDSA_P521_SHA256_ASN1_SIGNING] {
        for _ in 0..20 {
            let (spki, mut response) = ecdsa(algorithm);
            assert_eq!(check(&spki, &response), Ok(()));
            response.ecdsa_signature.as_mut().unwrap().r = b64(&[1]);
            assert_eq!(check(&spki, &response), Err("ECDSA signature verify failed"));
        }
    }
}

#[test]
fn rsa_proves_itself_with_the_salt_of_go_and_with_that_of_others() {
    for encoding in [&aws::RSA_PSS_SHA256, &LONGEST_SALT] {
        let (spki, mut response) = rsa(encoding);
        assert_eq!(check(&spki, &response), Ok(()));
        response.rsa_signature.as_mut().unwrap().nonce = b64(&[1; NONCE]);
        assert_eq!(check(&spki, &response), Err("RSA signature verify failed"));
    }
}

#[test]
fn an_answer_of_the_wrong_kind_or_size_is_told_so() {
    let (ec, ec_response) = ecdsa(&aws::ECDSA_P256_SHA256_ASN1_SIGNING);
    let (rsa, rsa_response) = rsa(&aws::RSA_PSS_SHA256);
    assert_eq!(check(&rsa, &ec_response), Err("expecting RSA response"));
    assert_eq!(check(&ec, &rsa_response), Err("expecting ECDSA response"));
    let with = |r: Option<String>, nonce: Option<String>| Response {
        ecdsa_signature: Some(EcdsaSignature { nonce, r, s: b64(&[1]) }),
        rsa_signature: None,
    };
    assert_eq!(check(&ec, &with(b64(&[1]), b64(&[1; 31]))), Err("invalid response nonce"));
    assert_eq!(check(&ec, &with(b64(&[1]), None)), Err("invalid response nonce"));
    for number in [None, b64(&[0xff; 300]), b64(&[]), b64(&[0; 100]), Some("!".into())] {
        assert_eq!(check(&ec, &with(number, b64(&THEIRS))), Err("ECDSA signature verify failed"));
    }
}

#[test]
fn the_challenge_is_in_the_json_of_spire() {
    let json = |kind| serde_json::to_string(&Challenge::new(kind, &OURS)).unwrap();
    let nonce = STANDARD.encode(OURS);
    assert_eq!(
        json(Kind::P256),
        format!(r#"{{"rsa_signature":null,"ecdsa_signature":{{"nonce":"{nonce}"}}}}"#)
    );
    assert_eq!(
        json(Kind::Rsa(2048)),
        format!(r#"{{"rsa_signature":{{"nonce":"{nonce}"}},"ecdsa_signature":null}}"#)
    );
}
